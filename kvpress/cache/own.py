"""Layers that transformers keeps for itself (sliding, linear): what they hold, and independent copies of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def own_tensors(layer: Any) -> dict[str, Tensor]:
    """Everything a layer of transformers' own holds; states of linear layers are kept by number: "name.number"."""
    found: dict[str, Tensor] = {}
    for name, value in vars(layer).items():
        numbered = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
        found |= {f"{name}.{number}": item for number, item in numbered.items() if isinstance(item, Tensor)}
        if isinstance(value, Tensor):
            found[name] = value
    return found


def can_crop(layer: Any) -> bool:
    if not layer.is_initialized or getattr(layer, "record_past", True):
        return True
    window = getattr(layer, "sliding_window", None)
    return window is not None and layer.get_seq_length() < window


def copy_layer(layer: Any) -> Any:
    """An independent copy of a layer of transformers' own."""
    new: Any = object.__new__(type(layer))
    for name, value in vars(layer).items():
        if isinstance(value, list):
            value = [_cloned(item) for item in value]
        elif isinstance(value, dict):
            value = {number: _cloned(item) for number, item in value.items()}
        new.__dict__[name] = _cloned(value)
    return new


def _cloned(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
