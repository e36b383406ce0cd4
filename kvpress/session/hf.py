"""The only file that touches the insides of transformers. Each assumption has its own test and doctor line.

How it works: while a press is entered, the model's configs name the attention implementation "kvpress". Its
mask function hands the 2-D padding mask through (or None), so that no (B, 1, Q, K) mask is built. Its
attention function looks for the store on the key tensor: `StoreLayer.update` put it there, and 186 model
families pass that very object on. A key without a store (sliding layers, encoders, use_cache=False) goes to
the implementation the user had chosen, with the mask that implementation would have got.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.cache_utils import DYNAMIC_LAYER_TYPE_MAPPING, CacheLayerMixin, get_layer_types_and_kwargs
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kvpress.cache.layer import TAG, StoreLayer
from kvpress.errors import SessionError, UnsupportedError, short
from kvpress.evidence.evidence import Rule
from kvpress.evidence.output import Projection, projections
from kvpress.evidence.rope import rotary_embedding
from kvpress.session.inputs import empty
from kvpress.session.masks import only_causal
from kvpress.session.served import inside, why_not
from kvpress.storage.modes import undisturbed

NAME = "kvpress"  # neutral on purpose: names with flash, sdpa or flex in them take special paths
_REFUSED = ("position_bias", "indices", "block_indices")
_local = threading.local()
_entering = threading.Lock()


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


def _base_attention(module: torch.nn.Module, base: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
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
) -> tuple[Tensor, Tensor | None]:
    """Attention function of "kvpress"; shapes as every attention function of transformers."""
    config = getattr(module, "config", None)
    base = _bases.get(id(config))
    if base is None:
        raise SessionError("An attention layer runs under the name kvpress outside of a session.")
    late = base.late

    def original(mask: Any) -> tuple[Tensor, Tensor | None]:
        return _base_attention(module, base.name)(
            module, query, key, value, mask, scaling=scaling, dropout=dropout, **kwargs
        )

    layer: StoreLayer | None = getattr(key, TAG, None)
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
    if layer.staged is None:  # a layer that shares the keys of an earlier one
        with undisturbed():
            return layer.reread(query, rule).transpose(1, 2).contiguous(), None
    new, first = query.shape[2], layer.empty
    out, weights = None, None
    with undisturbed():
        layer.commit(attention_mask)
    if first and new > 1:  # in the modes of the caller, as the model would run it
        out, weights = original(late.get(query.device) if late is not None else None)
    with undisturbed():
        layer.observe(query, rule, first)
        if out is None:
            out = layer.attend(query, rule).transpose(1, 2).contiguous()
        layer.after_forward(new)
    if layer.output is not None:
        layer.output.expect(out)
    return out, weights


def _check_given(module: torch.nn.Module, layer: StoreLayer, value: Tensor) -> None:
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


def text_config(model: PreTrainedModel) -> Any:
    """Config of the decoder of `model`."""
    return model.config.get_text_config(decoder=True)


def layer_types(model: PreTrainedModel) -> tuple[list[str], list[dict[str, Any]]]:
    """Cache type of every layer ("full_attention", "sliding_attention", ...) and the arguments of its cache."""
    types, arguments = get_layer_types_and_kwargs(text_config(model))
    if isinstance(arguments, dict):  # before transformers 5.20: one set of arguments for all layers
        arguments = [arguments] * len(types)
    return list(types), list(arguments)


def full_layers(model: PreTrainedModel) -> list[int]:
    """Indices of the full-attention layers, those a press compresses."""
    return [index for index, kind in enumerate(layer_types(model)[0]) if kind == "full_attention"]


def shares_keys(model: PreTrainedModel) -> bool:
    """Some layers attend to the keys of earlier ones (gemma3n), so those must stay dense until the forward ends."""
    types = layer_types(model)[0]
    return "dummy" in types or len(types) < int(text_config(model).num_hidden_layers)


def layer_devices(model: PreTrainedModel) -> dict[int, torch.device]:
    """Index of every layer of the decoder -> the device it runs on (device_map= spreads layers over several)."""
    found: dict[int, torch.device] = {}
    config = text_config(model)
    for module in model.modules():  # attention modules carry the config of their decoder
        index, weight = getattr(module, "layer_idx", None), next(module.parameters(), None)
        if not isinstance(index, int) or weight is None or getattr(module, "config", None) is not config:
            continue
        device = weight.device
        if weight.is_meta:  # offloaded: accelerate brings the weights to where the layer runs
            device = torch.device(getattr(getattr(module, "_hf_hook", None), "execution_device", None) or device)
        found.setdefault(index, device)
    return found


def own_layer(kind: str, arguments: dict[str, Any]) -> CacheLayerMixin:
    """The cache layer transformers itself uses for a layer that is not full attention."""
    return DYNAMIC_LAYER_TYPE_MAPPING[kind](**arguments)


def check_model(model: Any) -> None:
    """Raise UnsupportedError, with the reason and what to do, for a model no press can serve exactly."""
    name = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        inner = inside(model)
        told = f"; use what it wraps: with press(model.{inner}), and call that" if inner else ""
        raise UnsupportedError(f"A press is entered on a transformers model, not on {short(name)}{told}.")
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedError(f"{name} is an encoder-decoder; presses serve decoder-only models.")
    if not model._can_set_attn_implementation():
        raise UnsupportedError(
            f"{name} does not use the attention interface of transformers, so its attention cannot run on a "
            "compressed cache. Use a model that accepts attn_implementation= (llama, qwen, mistral, gemma, ...)."
        )
    config = text_config(model)
    if getattr(config, "kv_lora_rank", None):
        raise UnsupportedError(
            f"{name} uses multi-head latent attention: it caches a latent and expands it to keys afterwards, so "
            "the slots are not keys. Its cache is small by itself; use it without a press."
        )
    if getattr(config, "cross_attention_layers", None):
        raise UnsupportedError(
            f"{name} attends to images in layers of their own (cross-attention), and looks into the cache for what "
            "they keep there, which a press does not show. Use it without a press."
        )
    types = set(layer_types(model)[0])
    if "full_attention" not in types:
        raise UnsupportedError(
            f"{name} has no full-attention layer that a press can serve: {why_not(types)}. Use it without a press."
        )
    if shares_keys(model) and len(places := sorted(map(str, set(layer_devices(model).values())))) > 1:
        raise UnsupportedError(
            f"{name} has layers that read the keys of earlier ones, and its layers are on {', '.join(places)}. A press "
            "cannot follow keys from one device to another. Load the model on one device."
        )


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


def _layer_config(model: PreTrainedModel, index: int) -> Any:
    """Config of one layer of the decoder: layers may have their own (gemma4), and reading the common one then fails."""
    config = text_config(model)
    return config.per_layer_config[index] if getattr(config, "is_heterogeneous", False) else config


def widths(model: PreTrainedModel) -> dict[int, tuple[int, int]]:
    """Index of every full-attention layer -> channels of its keys and of its values, by the config."""
    found = {}
    for index in full_layers(model):
        config = _layer_config(model, index)
        key = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        found[index] = key, int(getattr(config, "v_head_dim", None) or key)
    return found


def learned_positions(model: PreTrainedModel) -> int | None:
    """How many positions a model without rotary embedding has learned; None where positions are no table."""
    if rotary_embedding(model) is not None:
        return None
    limit = getattr(text_config(model), "max_position_embeddings", None)
    return None if limit is None else int(limit)


def output_projections(model: PreTrainedModel) -> dict[int, Projection]:
    """Index of every full-attention layer -> its output projection; UnsupportedError where one cannot be told."""
    layers = {index: query_heads(model, index) * value for index, (_, value) in widths(model).items()}
    return projections(model, text_config(model), layers)


def query_heads(model: PreTrainedModel, index: int) -> int:
    """Query heads of a layer."""
    return int(_layer_config(model, index).num_attention_heads)


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


@contextlib.contextmanager
def generation_of(
    model: PreTrainedModel,
    new_cache: Callable[[], Any],
    reading: Callable[[bool], contextlib.AbstractContextManager[None]],
    guessing: Callable[[], None],
) -> Iterator[None]:
    """Tell what `model.generate` is about, which its forwards alone cannot show.

    new_cache(): stands in for the cache that `generate` makes where it is given none. reading(chunked): surrounds
    the reading of a prompt, in one forward or (prefill_chunk_size=) in several. guessing(): called before
    generation that takes tokens back (assistant models, prompt lookup) begins.
    """
    if not model.can_generate():
        yield
        return
    prefill, candidates, prepare = model._prefill, model._get_candidate_generator, model._prepare_cache_for_generation

    def make(config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if config.use_cache is False:
            raise UnsupportedError(
                "generate(use_cache=False) keeps no cache that a press could compress. Leave it out."
            )
        if config.is_assistant:
            guessing()
        given = model_kwargs.get("past_key_values")
        out = prepare(config, model_kwargs, *args, **kwargs)
        made = model_kwargs.get("past_key_values")
        if given is None and type(made) is DynamicCache and not getattr(made, "offloading", False):
            model_kwargs["past_key_values"] = new_cache()
        return out

    def read(*args: Any, **kwargs: Any) -> Any:
        config = next(a for a in (*args, *kwargs.values()) if isinstance(a, GenerationConfig))
        with reading(config.prefill_chunk_size is not None):
            return prefill(*args, **kwargs)

    def guess(*args: Any, **kwargs: Any) -> Any:
        guessing()
        return candidates(*args, **kwargs)

    model._prefill, model._get_candidate_generator, model._prepare_cache_for_generation = read, guess, make
    try:
        yield
    finally:
        del model._prefill, model._get_candidate_generator, model._prepare_cache_for_generation


def takes_cache(module: torch.nn.Module) -> bool:
    """Whether a module is a model whose forward may be called by itself with a cache."""
    return isinstance(module, PreTrainedModel) and "past_key_values" in inspect.signature(module.forward).parameters


def set_pressed(value: bool) -> None:
    """Say whether the running forward of this thread uses a press cache."""
    _local.pressed = value
