"""Rotating cached keys to other positions, by the model's own rotary embedding and without naming a family.

Rotary embeddings compose: a key rotated for position p and then by d is the key for p + d. Whether that is so for the
keys that a model's layers really cache is seen on the layers, see kvpress.session.probe.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from kvpress.errors import UnsupportedError

Rotate = Callable[[Tensor, Tensor], Tensor]
Turn = Callable[[Tensor, Tensor, Tensor], Tensor]
_LENGTH_DEPENDENT = ("dynamic", "longrope")


def rotary_embedding(model: Any) -> Any:
    """The rotary embedding of a model, None where it has none."""
    return next((m for n, m in model.named_modules() if n.rsplit(".", 1)[-1] == "rotary_emb"), None)


def length_dependent(model: Any) -> str:
    """The kind of RoPE where its angles depend on the longest position a model has seen, else ""."""
    kind = str(getattr(rotary_embedding(model), "rope_type", "default"))
    return kind if kind in _LENGTH_DEPENDENT else ""


def rotation(model: Any, instead: str) -> Rotate:
    """A function (keys (B, H, n, D) post-RoPE, delta (B,) or (B, n) positions) -> the keys moved by delta.

    instead: what the errors advise. Raises UnsupportedError when the model has no rotary embedding, or one whose
    angles depend on the length.
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

    turn = apply if next(islice(inspect.signature(apply).parameters, 1, None)) == "cos" else _keys_of(apply)
    takes: dict[int, int] = {}  # width of keys -> channels that the function takes; its caller leaves the others alone

    def rotate(keys: Tensor, delta: Tensor) -> Tensor:
        at = delta.view(len(delta), -1).expand(-1, keys.shape[2])
        x, width = keys.float(), keys.shape[-1]
        cos, sin = embedding(x, at, **layered)
        cos, sin = cos.to(keys.device), sin.to(keys.device)  # the embedding may be on another device than the layer
        length = torch.sqrt(cos.square() + sin.square())  # YaRN scales both; a move must not scale again
        cos, sin = cos / length, sin / length
        if width not in takes:
            takes[width] = _taken(turn, x[:, :, :1], cos[:, :1], sin[:, :1])
        if takes[width] == width:
            return turn(x, cos, sin).to(keys.dtype)
        first, rest = x.split([takes[width], width - takes[width]], -1)
        return torch.cat([turn(first, cos, sin), rest], -1).to(keys.dtype)

    return rotate


def _keys_of(apply: Callable[..., tuple[Tensor, Tensor]]) -> Turn:
    """Of a function that turns queries and keys at once (most families), what it does to keys."""
    return lambda x, cos, sin: apply(x, x, cos, sin)[1]


def _taken(turn: Turn, x: Tensor, cos: Tensor, sin: Tensor) -> int:
    """Channels of x that `turn` takes: all, unless it only fits as many as there are cosines (phi)."""
    try:
        turn(x, cos, sin)
    except RuntimeError:
        return cos.shape[-1]
    return x.shape[-1]


def stay(keys: Tensor, delta: Tensor) -> Tensor:
    """The move of a layer whose keys have no positions."""
    return keys


def unrotated(rotate: Rotate, k: Tensor, rank: Tensor) -> Tensor:
    """Keys k (B, H, n, D) of the tokens `rank` (B, H, n) as before RoPE, fp32. Scaled RoPE keeps its factor."""
    at = -rank.clamp(min=0).flatten(0, 1)
    return rotate(k.float().flatten(0, 1).unsqueeze(1), at).view(k.shape)
