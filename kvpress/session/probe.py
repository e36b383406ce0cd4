"""What the layers of a model do with positions, seen on the keys and queries they really compute.

A press that moves keys takes a cached key for its projection turned to the token's position by the rotary embedding.
Not every layer keeps to that: some have no positions (smollm3, cohere2, llama4), some apply a norm after turning
(hunyuan). So one token is read at three positions in one forward, with every attention given the same input at all of
them, and what is cached is compared. The model is as before afterwards; only hooks that a user has put on it see that
forward. This is done once for each model object, when the first press that moves keys is entered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kvpress.cache.cache import PressCache
from kvpress.cache.layer import StoreLayer
from kvpress.errors import KVPressError, UnsupportedError
from kvpress.evidence.evidence import Rule
from kvpress.evidence.rope import Rotate, rotation, stay
from kvpress.hf.model import layer_types, shares_keys
from kvpress.recipe.press import Part, Press

_POSITIONS = (3, 8, 45)
_TOLERANCE = 1e-3
_STEPS = 4  # roundings of the model's type that a turned key may be off by, in units of its norm


@dataclass(frozen=True)
class Seen:
    """How far the keys and queries of one layer are from those of another position (relative to their norm).

    turned: when moved there by the rotary embedding. still: when left as they are. tolerance: what rounding may do.
    """

    turned: float
    still: float
    tolerance: float


_layers: WeakKeyDictionary[PreTrainedModel, dict[int, Seen]] = WeakKeyDictionary()


def moves(model: PreTrainedModel, instead: str) -> tuple[Rotate, frozenset[int]]:
    """How keys of `model` move to other positions, and the full-attention layers where they need not (no positions).

    instead: what the errors advise. Raises UnsupportedError where the keys of a layer cannot be moved exactly, or
    cannot be looked at.
    """
    rotate, name = rotation(model, instead), type(model).__name__
    if model not in _layers:
        try:
            _layers[model] = _look(model, rotate)
        except KVPressError:
            raise
        except Exception as failure:  # a model may raise anything, its weights may be elsewhere
            what = (str(failure).splitlines() or [""])[0][:80]
            raise UnsupportedError(
                f"{name}: what its layers do with positions cannot be seen ({type(failure).__name__}: {what}); "
                f"{instead}."
            ) from None
    without = set()
    for index, seen in _layers[model].items():
        if seen.turned <= seen.tolerance:
            continue
        if not seen.still <= seen.tolerance:  # NaN is neither
            raise UnsupportedError(
                f"{name}: layer {index} does more to its keys or queries than turn them to their position, so moved "
                f"ones would be off by {seen.turned:.0%}; {instead}."
            )
        without.add(index)
    return rotate, frozenset(without)


def move(rotate: Rotate, without: frozenset[int], index: int) -> Rotate:
    """How keys of layer `index` move."""
    return stay if index in without else rotate


class _Witness(StoreLayer):
    """Remembers the queries."""

    seen: Tensor

    def observe(self, q: Tensor, rule: Rule, first: bool) -> None:
        self.seen = q


@torch.no_grad()
def _look(model: PreTrainedModel, rotate: Rotate) -> dict[int, Seen]:
    types, arguments = layer_types(model)
    cache = PressCache(Press((Part("full"),)), types, arguments, model)
    recipe = cache.press.recipe
    cache.layers = [
        _Witness(recipe, index) if isinstance(layer, StoreLayer) else layer for index, layer in enumerate(cache.layers)
    ]
    cache._share_state()
    for layer in cache.stores:
        layer.shared = shares_keys(model)
    cache.state.live = True
    device = next((p.device for p in model.parameters() if not p.is_meta), torch.device("cpu"))
    # Where weights are offloaded, their hooks take the ids from there.
    at = torch.tensor(_POSITIONS, dtype=torch.int64, device=device)
    with _quiet(model), _same_inputs(model):
        model(input_ids=torch.ones_like(at)[:, None], position_ids=at[:, None], past_key_values=cache, use_cache=True)
    return {layer.index: _compared(layer, rotate) for layer in cache.stores if isinstance(layer, _Witness)}


def _compared(layer: _Witness, rotate: Rotate) -> Seen:
    """From each position to the next, from the first to the last, and there in two steps."""
    if layer.staged is not None or not layer.is_initialized:
        raise UnsupportedError(
            f"Layer {layer.index} does not attend to the keys it gives to its cache, so a press cannot serve it. Use "
            "the model without a press."
        )
    turned, still = [0.0], [0.0]
    for x in (layer.tail.keys, layer.seen):
        first, second, last = x.float().unbind()
        for a, b, steps in (
            (first, second, (_POSITIONS[1] - _POSITIONS[0],)),
            (second, last, (_POSITIONS[2] - _POSITIONS[1],)),
            (first, last, (_POSITIONS[1] - _POSITIONS[0], _POSITIONS[2] - _POSITIONS[1])),
            (last, first, (_POSITIONS[0] - _POSITIONS[2],)),
        ):
            moved = a[None]
            for step in steps:
                moved = rotate(moved, torch.tensor([step], dtype=torch.int64, device=moved.device))
            turned.append(_off(moved[0], b))
            still.append(_off(a, b))
    dtype = layer.tail.k.dtype
    tolerance = max(_TOLERANCE, _STEPS * torch.finfo(dtype).eps)
    return Seen(_worst(turned), _worst(still), tolerance)


def _off(a: Tensor, b: Tensor) -> float:
    """Largest distance of a head's vector (H, 1, D), relative to its norm."""
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1).clamp(min=torch.finfo(b.dtype).tiny)).amax())


def _worst(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64, device="cpu").amax())  # NaN where there is one


@contextlib.contextmanager
def _same_inputs(model: nn.Module) -> Iterator[None]:
    """Every layer that caches something gets one random input, the same in all rows, whatever came before it."""
    generator = torch.Generator().manual_seed(0)

    def replaced(x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.shape[:1] != (len(_POSITIONS),):
            return x
        return torch.randn(1, *x.shape[1:], generator=generator, dtype=torch.float32, device="cpu").to(x).expand_as(x)

    def give(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if "hidden_states" in kwargs:
            return args, {**kwargs, "hidden_states": replaced(kwargs["hidden_states"])}
        return (tuple(replaced(x) if number == 0 else x for number, x in enumerate(args)), kwargs)

    hooks = [
        module.register_forward_pre_hook(give, with_kwargs=True)
        for module in model.modules()
        if hasattr(module, "layer_idx")
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def _quiet(model: nn.Module) -> Iterator[None]:
    """Without dropout, and with the random numbers of the process as before."""
    training = [module for module in model.modules() if module.training]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices, key=str)):
        try:
            for module in training:
                module.training = False
            yield
        finally:
            for module in training:
                module.training = True
