"""Tiny random models of every family the suite runs on, with attention sharp enough to notice a lost slot."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

VOCAB = 97
_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 96,
    "initializer_range": 0.08,
}
_HEAD = {"head_dim": 16}
_MIXED = ["sliding_attention", "full_attention", "full_attention"]
_GEMMA = {**_HEAD, "query_pre_attn_scalar": 16, "sliding_window": 8, "layer_types": _MIXED}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}

# family -> (config class, model class, what differs from _COMMON; None removes an argument)
_FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", _HEAD),
    "mistral": ("MistralConfig", "MistralForCausalLM", {**_HEAD, "sliding_window": None}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**_HEAD, "num_key_value_heads": 1}),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", {}),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {**_GEMMA, "attn_logit_softcapping": 9.0}),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", _GEMMA),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", {"num_key_value_heads": None}),
    "opt": (
        "OPTConfig",
        "OPTForCausalLM",
        {"ffn_dim": 80, "word_embed_proj_dim": 64, "num_key_value_heads": None, "init_std": 0.08},
    ),
    "gpt_oss": (
        "GptOssConfig",
        "GptOssForCausalLM",
        {**_HEAD, **_EXPERTS, "sliding_window": 8, "layer_types": _MIXED},
    ),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", {**_HEAD, **_EXPERTS, "sliding_window": None}),
    "granite": ("GraniteConfig", "GraniteForCausalLM", {"attention_multiplier": 0.3}),
    "mimo_v2_flash": (  # keys wider than values; sliding layers of other shape, with learned sinks
        "MiMoV2FlashConfig",
        "MiMoV2FlashForCausalLM",
        {
            "head_dim": 24,
            "v_head_dim": 16,
            "sliding_window": 8,
            "layer_types": _MIXED,
            "mlp_layer_types": ["dense"] * 3,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "n_group": 1,
            "topk_group": 1,
        },
    ),
    "gemma3n": (
        "Gemma3nTextConfig",
        "Gemma3nForCausalLM",
        {
            **_HEAD,
            "num_hidden_layers": 4,
            "layer_types": ["full_attention", "sliding_attention"] * 2,
            "sliding_window": 8,
            "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": VOCAB,
            "laurel_rank": 4,
            "altup_num_inputs": 2,
            "activation_sparsity_pattern": [0.0] * 4,
            "intermediate_size": [80] * 4,
        },
    ),
    "qwen3_next": (
        "Qwen3NextConfig",
        "Qwen3NextForCausalLM",
        {
            **_HEAD,
            "layer_types": ["linear_attention", "full_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
        },
    ),
}
# Families transformers runs in eager only (soft caps, learned sinks).
EAGER_ONLY = ("gemma2", "gpt_oss", "mimo_v2_flash")
FAMILIES = tuple(name for name in _FAMILIES if name not in ("gemma3n", "qwen3_next"))
SPECIAL = ("gemma3n", "qwen3_next")
_SHARP = ("q_proj", "k_proj", "qkv", "query_key_value")
_NORMED = ("q_norm", "k_norm")


def build(family: str, impl: str = "sdpa", **other: Any) -> PreTrainedModel:
    """A fresh model; equal calls give equal weights. other: config arguments that replace the tiny ones."""
    config_class, model_class, own = _FAMILIES[family]
    arguments = {k: v for k, v in {**_COMMON, **own, **other}.items() if v is not None or k == "sliding_window"}
    impl = "eager" if family in EAGER_ONLY else impl
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**arguments, attn_implementation=impl)
    model: PreTrainedModel = getattr(transformers, model_class)(config).eval()
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2 and any(word in name for word in _SHARP):
            parameter.mul_(3.0)
        if any(word in name for word in _NORMED):
            parameter.add_(1.5)
        if "sinks" in name:
            parameter.normal_()
    model.generation_config.eos_token_id = None  # every run has the length it was asked for
    return model


@cache
def shared(family: str, impl: str = "sdpa") -> PreTrainedModel:
    """The one model of its kind that all tests read and none changes."""
    return build(family, impl)


def tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    """(batch, length) ids without padding, beginning or end tokens."""
    generator = torch.Generator().manual_seed(1000 * seed + length)
    return torch.randint(2, VOCAB - 1, (batch, length), generator=generator)


def left_padded(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (n_i,) as ids (B, max n_i) padded on the left, and their mask."""
    width = max(len(row) for row in rows)
    ids = torch.stack([torch.cat([row.new_zeros(width - len(row)), row]) for row in rows])
    mask = torch.stack([torch.arange(width) >= width - len(row) for row in rows]).long()
    return ids, mask
