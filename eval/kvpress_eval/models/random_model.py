"""The model of benchmarks: the bundled one's shape, with random weights and as many layers as asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["LAYERS", "random_model"]

LAYERS = 8


def random_model(layers: int = LAYERS, dtype: torch.dtype | None = None, device: str = "cpu") -> Any:
    """The bundled architecture's shape with `layers` layers and random weights, float32 where no dtype is named."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=1 << 17,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(device=device, dtype=dtype or torch.float32).eval()
