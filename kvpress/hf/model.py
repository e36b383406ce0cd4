"""What a model of transformers is like: its layers, their widths and devices, and whether it can be served."""

from __future__ import annotations

import hashlib
import inspect
import json
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DYNAMIC_LAYER_TYPE_MAPPING, CacheLayerMixin, get_layer_types_and_kwargs

from kvpress.errors import UnsupportedError, short
from kvpress.evidence.output import Projection, projections
from kvpress.evidence.rope import rotary_embedding
from kvpress.hf.served import inside, why_not

_IGNORED = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "_attn_implementation"}


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


def takes_cache(module: torch.nn.Module) -> bool:
    """Whether a module is a model whose forward may be called by itself with a cache."""
    return isinstance(module, PreTrainedModel) and "past_key_values" in inspect.signature(module.forward).parameters


def fingerprint(model: PreTrainedModel) -> str:
    """32 hex digits of a model's config and a sample of its weights; equal for equal models of any name."""
    config = {k: v for k, v in model.config.to_dict().items() if k not in _IGNORED}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    parameters = list(model.parameters())
    for parameter in parameters[:: max(1, len(parameters) // 32)]:
        sample = parameter.detach().flatten()[:32].float().cpu().contiguous()
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:32]
