"""Key-channel outliers, made on purpose, without changing what the model computes.

Large language models have a few key channels far above the rest, which decides how well keys
quantize; this small model has none. Scaling a RoPE pair's rows of W_k by ``factor`` and the same
rows of its query heads by ``1 / factor`` leaves every attention score as it was (both channels of a
pair rotate together) and makes those channels large. Results on it say what a method does WITH
outliers; they are no evidence that a model has them. Norm-based scores change.
"""

from __future__ import annotations

import torch
from transformers import LlamaForCausalLM

VARIANT_NAME = {"plain": "tiny", "outlier": "tiny-outlier (made)"}


@torch.no_grad()
def add_key_outliers(model: LlamaForCausalLM, factor: float = 6.0, pairs: int = 2, seed: int = 0) -> None:
    """Scale ``pairs`` random RoPE pairs of every KV head, in place; the config names the variant.

    Raises:
        ValueError: for weights that are not fp32 (the division would round).
    """
    config = model.config
    if model.dtype != torch.float32:
        raise ValueError(f"add outliers to fp32 weights, not {model.dtype}; cast afterwards")
    generator = torch.Generator().manual_seed(seed)
    group = config.num_attention_heads // config.num_key_value_heads
    half = config.head_dim // 2
    for layer in model.model.layers:
        k, q = layer.self_attn.k_proj.weight, layer.self_attn.q_proj.weight
        for kv in range(config.num_key_value_heads):
            chosen = torch.randperm(half, generator=generator, dtype=torch.int64, device="cpu")[:pairs]
            rows = torch.cat([chosen, chosen + half])
            k[kv * config.head_dim + rows] *= factor
            for head in range(kv * group, (kv + 1) * group):
                q[head * config.head_dim + rows] /= factor
    config.kvpress_variant = VARIANT_NAME["outlier"]
