"""Rotating cached keys to other positions, by the model's own rotary embedding and without naming a family.

Rotary embeddings compose: a key rotated for position p and then by d is the key for p + d. Whether that holds
for the functions found in a model is measured once, when a press that needs it is entered.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kvpress.errors import UnsupportedError

Rotate = Callable[[Tensor, Tensor], Tensor]
_TOLERANCE = 1e-3
_LENGTH_DEPENDENT = ("dynamic", "longrope")
_KEEP = 'use positions="keep" (original positions)'


def rotary_embedding(model: Any) -> Any:
    """The rotary embedding of a model, None where it has none."""
    return next((m for n, m in model.named_modules() if n.rsplit(".", 1)[-1] == "rotary_emb"), None)


def length_dependent(model: Any) -> str:
    """The kind of RoPE where its angles depend on the longest position a model has seen, else ""."""
    kind = str(getattr(rotary_embedding(model), "rope_type", "default"))
    return kind if kind in _LENGTH_DEPENDENT else ""


def rotation(model: Any, head_dim: int, instead: str = _KEEP) -> Rotate:
    """A function (keys (B, H, n, D) post-RoPE, delta (B,) or (B, n) positions) -> the keys moved by delta.

    instead: what the errors advise. Raises UnsupportedError when the model has no rotary embedding that composes.
    """
    name = type(model).__name__
    embedding = rotary_embedding(model)
    apply = next(
        (
            found
            for module in model.modules()
            if hasattr(module, "layer_idx")
            and hasattr(module, "scaling")
            and (found := getattr(sys.modules[type(module).__module__], "apply_rotary_pos_emb", None))
        ),
        None,
    )
    if embedding is None or apply is None:
        raise UnsupportedError(f"{name} has no rotary embedding to move keys with; {instead}.")
    if kind := length_dependent(model):
        raise UnsupportedError(f"{name} uses {kind} RoPE, whose angles depend on the length; {instead}.")
    layered = (
        {"layer_type": "full_attention"} if "layer_type" in inspect.signature(embedding.forward).parameters else {}
    )

    def rotate(keys: Tensor, delta: Tensor) -> Tensor:
        at = delta.view(len(delta), -1).expand(-1, keys.shape[2])
        cos, sin = embedding(keys.float(), at, **layered)
        cos, sin = cos.to(keys.device), sin.to(keys.device)  # the embedding may be on another device than the layer
        length = torch.sqrt(cos.square() + sin.square())  # YaRN scales both; a move must not scale again
        x = keys.float()
        return apply(x, x, cos / length, sin / length)[1].to(keys.dtype)

    _probe(rotate, name, head_dim, next(model.parameters()).device, instead)
    return rotate


def _probe(rotate: Rotate, name: str, head_dim: int, device: torch.device, instead: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 2, 3, head_dim, generator=generator, dtype=torch.float32, device="cpu").to(device)
    five, three = (torch.full((2,), by, dtype=torch.int64, device=device) for by in (5, 3))
    try:
        once, twice = rotate(x, five + three), rotate(rotate(x, five), three)
        error = float((once - twice).abs().max())
        moved = float((once - x).abs().max())
    except (RuntimeError, TypeError, ValueError) as failure:
        raise UnsupportedError(f"{name}: its rotary embedding cannot be replayed ({failure}); {instead}.") from None
    if error > _TOLERANCE or moved < _TOLERANCE:
        raise UnsupportedError(f"{name}: rotating twice differs from rotating once by {error:.1e}; {instead}.")
