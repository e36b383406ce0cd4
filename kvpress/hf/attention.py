"""How attention of a model runs through a press. Nothing outside this room touches the insides of transformers.

How it works: while a press is entered, the model's configs name the attention implementation "kvpress". Its
mask function hands the 2-D padding mask through (or None), so that no (B, 1, Q, K) mask is built. Its
attention function looks for the store on the key tensor: `StoreLayer.update` put it there, and 186 model
families pass that very object on. A key without a store (sliding layers, encoders, use_cache=False) goes to
the implementation the user had chosen, with the mask that implementation would have got.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kvpress.errors import SessionError, UnsupportedError
from kvpress.evidence.evidence import Rule
from kvpress.hf.causal import only_causal
from kvpress.hf.inputs import empty
from kvpress.hf.model import text_config
from kvpress.storage.modes import undisturbed

TAG = "_kvpress_layer"
NAME = "kvpress"  # neutral on purpose: names with flash, sdpa or flex in them take special paths
_REFUSED = ("position_bias", "indices", "block_indices")
_local = threading.local()
_entering = threading.Lock()


Attended = tuple[Tensor, Tensor | None]
"""Output (B, n, Hq, D) of attention, and its probabilities where an implementation gives them."""


class Pressed(Protocol):
    """The layer that a key was given to. staged: its keys and values wait for their attention; shared: later layers
    attend to them too.
    """

    index: int
    shared: bool
    staged: tuple[Tensor, Tensor] | None

    def run(self, q: Tensor, rule: Rule, mask: Tensor | None, dense: Callable[[], Attended]) -> Attended:
        """Store what is staged and attend to everything. dense(): attention to the new tokens alone, by the model."""
        ...


class LateMask:
    """The mask the user's implementation would have got, built only if something asks for it."""

    def __init__(self, base: str, arguments: dict[str, Any]) -> None:
        self._base, self._arguments = base, arguments
        self._built: dict[torch.device | None, Any] = {}

    def get(self, device: torch.device) -> Any:
        """The mask, on the device of a layer."""
        if None not in self._built:
            self._built[None] = _base_mask(self._base, self._arguments)
        if device not in self._built:
            mask = self._built[None]
            self._built[device] = mask.to(device) if hasattr(mask, "to") else mask
        return self._built[device]


class _Base:
    """name: the implementation before the press. late: the mask of the forward that runs, of each thread its own."""

    def __init__(self, name: str) -> None:
        self.name, self._late = name, threading.local()

    @property
    def late(self) -> LateMask | None:
        return getattr(self._late, "mask", None)

    @late.setter
    def late(self, mask: LateMask | None) -> None:
        self._late.mask = mask


_bases: dict[int, _Base] = {}  # by id(config); entries live as long as a session


def _base_mask(base: str, arguments: dict[str, Any]) -> Any:
    if base not in ALL_MASK_ATTENTION_FUNCTIONS:
        return None
    return ALL_MASK_ATTENTION_FUNCTIONS[base](**arguments)


def _mask(**arguments: Any) -> Any:
    """Mask function of "kvpress": the 2-D padding mask for plain causal layers, the user's mask for all others."""
    config = arguments.get("config")
    base = _bases.get(id(config))
    if base is None:
        raise SessionError(
            'This model\'s attention implementation is "kvpress", but no press is entered. Reload it with '
            'attn_implementation="sdpa", or use it inside `with press(model):`.'
        )
    plain = arguments.get("mask_function") in (None, causal_mask_function)
    if not plain or arguments.get("local_size") is not None or arguments.get("use_vmap"):
        if not getattr(_local, "pressed", False) or arguments.get("local_size") is not None:
            return _base_mask(base.name, arguments)
        # Made of functions of its own, it may be meant for sliding layers (gemma3): a full one refuses it.
        slides = "sliding_attention" in (getattr(config, "layer_types", None) or ())
        own = _base_mask(base.name, arguments) if slides and arguments.get("use_vmap") else None
        if isinstance(own, Tensor) and own.dim() == 4:
            return own
        if arguments.get("use_vmap") or not only_causal(arguments):
            raise UnsupportedError(
                "This forward adds its own rule to the causal mask (packed sequences or image blocks), which a "
                "press cannot serve. Run it without a press."
            )
    base.late = LateMask(base.name, arguments)
    mask = arguments.get("attention_mask")
    # One owned copy for all layers: what the user gave may be a view of something larger.
    with undisturbed():
        return None if mask is None else mask[:, : arguments["kv_length"]].clone()


def _base_attention(module: torch.nn.Module, base: str) -> Callable[..., Attended]:
    if base == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[base]


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> Attended:
    """Attention function of "kvpress"; shapes as every attention function of transformers."""
    config = getattr(module, "config", None)
    base = _bases.get(id(config))
    if base is None:
        raise SessionError("An attention layer runs under the name kvpress outside of a session.")
    late = base.late

    def original(mask: Any) -> Attended:
        return _base_attention(module, base.name)(
            module, query, key, value, mask, scaling=scaling, dropout=dropout, **kwargs
        )

    layer: Pressed | None = getattr(key, TAG, None)
    if layer is None:
        is_2d = isinstance(attention_mask, Tensor) and attention_mask.dim() == 2
        full = kwargs.get("sliding_window") is None and late is not None
        if full and late is not None and (attention_mask is None or is_2d):
            return original(late.get(query.device))
        return original(attention_mask)
    if dropout:
        raise UnsupportedError("Attention dropout is active; a press needs model.eval().")
    if bad := [name for name in _REFUSED if kwargs.get(name) is not None]:
        raise UnsupportedError(f"{type(module).__name__} passes {bad[0]} to attention, which a press cannot serve.")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    rule = Rule(scale, kwargs.get("softcap"), kwargs.get("s_aux"), query.shape[1] // key.shape[1])
    _check_given(module, layer, value)
    return layer.run(
        query, rule, attention_mask, lambda: original(late.get(query.device) if late is not None else None)
    )


def _check_given(module: torch.nn.Module, layer: Pressed, value: Tensor) -> None:
    """Raise UnsupportedError unless attention is what a store computes: once over the keys and values it was given."""
    name = type(module).__name__
    if getattr(value, TAG, None) is not layer:
        raise UnsupportedError(
            f"{name} changes values between caching them and attending to them, and a press attends to what is "
            "cached. Use the model without a press."
        )
    again = getattr(module, "layer_idx", None) == layer.index
    if layer.staged is None and (again or not layer.shared):
        raise UnsupportedError(
            f"{name} attends more than once to the keys it has cached, and a press may have dropped some of them "
            "after the first time. Use the model without a press."
        )


def register() -> None:
    """Make the names known to transformers. Idempotent, and without effect on models that do not use them."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)


def check_call(model: PreTrainedModel, given: dict[str, Any]) -> None:
    """Raise before a forward that would not run through the press, or not over what it caches alone."""
    name, config = type(model).__name__, text_config(model)
    if config._attn_implementation_internal != NAME:
        raise SessionError(
            f"The attention implementation of {name} was set to {config._attn_implementation_internal!r} after a press "
            "was entered. Call set_attn_implementation before `with press(model):`, which keeps it and restores it."
        )
    if other := next((key for key in _OTHER if not empty(given.get(key))), None):
        raise UnsupportedError(
            f"{name} was given {other}, another sequence that it attends to by cross-attention, and a press serves "
            "self-attention only. Leave it out, or use the model without a press."
        )


_OTHER = ("encoder_hidden_states", "encoder_outputs")


@contextlib.contextmanager
def attention_of(model: PreTrainedModel) -> Iterator[Callable[[], None]]:
    """Run every attention of `model` through kvpress; afterwards its configs are exactly as before.

    Gives a function that lets go of the masks of the calling thread's forward.
    """
    register()
    configs = {id(m.config): m.config for m in model.modules() if isinstance(m, PreTrainedModel)}
    configs[id(text_config(model))] = text_config(model)
    with _entering:  # two threads that enter at once: one of them is refused
        saved = [(config, config._attn_implementation_internal) for config in configs.values()]
        if busy := [config for config, base in saved if base == NAME]:
            raise SessionError(
                "A press is entered already on this model, or on one that shares its config object "
                f"({type(busy[0]).__name__}). Leave the first `with` block, or compose the presses: (a | b)(model)."
            )
        bases = [_Base(base or "eager") for _, base in saved]
        for (config, _), base in zip(saved, bases, strict=True):
            _bases[id(config)] = base
            config._attn_implementation_internal = NAME

    def forget_masks() -> None:
        for base in bases:
            base.late = None

    try:
        yield forget_masks
    finally:
        for config, name in saved:
            config._attn_implementation_internal = name
            _bases.pop(id(config), None)


def set_pressed(value: bool) -> None:
    """Say whether the running forward of this thread uses a press cache."""
    _local.pressed = value
