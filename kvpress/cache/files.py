"""Saved caches: one safetensors file with a header that names format, press and model."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from kvpress.cache.layer import StoreLayer
from kvpress.cache.own import own_tensors
from kvpress.errors import CacheFileError, KVPressError, short
from kvpress.evidence.evidence import Rule
from kvpress.hf.model import fingerprint, layer_devices
from kvpress.pipeline.layer import STATE
from kvpress.pipeline.phase import Phase, Reader, Stage
from kvpress.recipe.press import Press
from kvpress.storage.columns import POSITION, Column, Columns
from kvpress.storage.held import Held
from kvpress.storage.modes import steady
from kvpress.storage.pages import Pages
from kvpress.storage.segment import Segment
from kvpress.storage.slab import Slab
from kvpress.storage.tail import Tail

FORMAT = 2


class Saved(Protocol):
    """A cache, as far as a file knows it."""

    press: Press
    layers: list[Any]
    prints: dict[str, str] | None
    model: Callable[[], PreTrainedModel | None]

    @property
    def stores(self) -> list[StoreLayer]: ...

    def settle(self) -> None: ...


C = TypeVar("C", bound=Saved)


def save_cache(cache: Saved, path: Path, model: PreTrainedModel) -> None:
    """Write `cache`; the file appears complete or not at all."""
    filled = cache.model()
    if filled is not None and filled is not model and fingerprint(filled) != fingerprint(model):
        raise CacheFileError(
            f"This cache was filled by another model (a {type(filled).__name__} with other weights or config) than "
            "the one given to save; give that one."
        )
    cache.settle()
    tensors: dict[str, Tensor] = {}
    layers: list[dict[str, Any]] = []
    first: dict[tuple[int, int, torch.dtype], str] = {}
    same: dict[str, str] = {}
    shapes: dict[str, list[int]] = {}
    for index, layer in enumerate(cache.layers):
        if isinstance(layer, StoreLayer):
            plain = {k: v for k, v in vars(layer).items() if isinstance(v, bool | int | str)}
            layers.append(plain | _describe(layer))
            found = {name: tensor for name, _, _, tensor in layer.tensors()}
            if layer.rule is not None and layer.rule.sink is not None:
                found["rule.sink"] = layer.rule.sink
        else:
            layers.append(_plain(layer))
            found = own_tensors(layer)
        for name, tensor in found.items():
            place = (tensor.data_ptr(), tensor.numel(), tensor.dtype)
            if tensor.numel() and place in first:  # written once where it is shared, in another shape perhaps
                same[f"{index}.{name}"], shapes[f"{index}.{name}"] = first[place], list(tensor.shape)
                continue
            first[place] = f"{index}.{name}"
            tensors[f"{index}.{name}"] = tensor.detach().cpu().contiguous().clone()
    header = {
        "format": str(FORMAT),
        "press": str(cache.press),
        "spec": cache.press.spec(),
        "model": fingerprint(model),
        "model_class": type(model).__name__,
        "prints": json.dumps(cache.prints or {}),
        "layers": json.dumps(layers),
        "same": json.dumps(same),
        "shapes": json.dumps(shapes),
    }
    part = path.with_name(path.name + ".part")
    save_file(tensors, part, metadata=header)
    os.replace(part, path)


def _describe(layer: StoreLayer) -> dict[str, Any]:
    if not layer.is_initialized:
        return {"initialized": False}
    return {
        "initialized": True,
        "dtype": str(layer.dtype).removeprefix("torch."),
        "own": sorted(layer.own),
        "read": layer.read,
        "phase": [layer.phase.stage.value, layer.phase.reader.holds, layer.phase.fired, layer.phase.since],
        "tail": {"start": layer.tail.start, "count": layer.tail.count},
        "segments": [
            {"rows": h.segment.rows, "heads": h.segment.heads, "slabs": len(h.segment.slabs)} for h in layer.held
        ],
        "rule": None
        if layer.rule is None
        else {"scale": layer.rule.scale, "cap": layer.rule.cap, "group": layer.rule.group},
    }


@steady
def load_cache(path: Path, model: PreTrainedModel, empty: Callable[[Press], C]) -> C:
    """Read a file of `save_cache` onto the device of `model`, into the cache that empty(press) gives."""
    try:
        with safe_open(path, framework="pt", device=str(model.device)) as file:
            header = file.metadata() or {}
            _check(header, path, model)
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
            same, shapes = json.loads(header["same"]), json.loads(header.get("shapes", "{}"))
            tensors |= {
                name: tensors[other].view(shapes.get(name, tensors[other].shape)) for name, other in same.items()
            }
    except (OSError, SafetensorError) as error:
        raise CacheFileError(f"Cannot read {path} as a saved cache: {error}") from error
    cache, places = empty(_press(header, path)), layer_devices(model)
    try:
        for index, (layer, meta) in enumerate(zip(cache.layers, json.loads(header["layers"]), strict=True)):
            there = places.get(index, model.device)
            mine = {n.split(".", 1)[1]: t.to(there) for n, t in tensors.items() if n.split(".", 1)[0] == str(index)}
            (_restore if isinstance(layer, StoreLayer) else _restore_own)(layer, meta, mine)
    except (KeyError, ValueError) as error:
        raise CacheFileError(f"{path} is incomplete ({error}). Save the cache again.") from error
    cache.prints = json.loads(header["prints"])
    mask = cache.stores[0].seen_mask
    for layer in cache.stores[1:]:  # one mask for all layers, as before saving
        layer.seen_mask = None if mask is None else mask.to(layer.device)
    return cache


def _plain(layer: Any) -> dict[str, Any]:
    """What a layer of transformers' own keeps besides tensors; states of linear layers have numbers."""
    simple = bool | int | str | None
    plain: dict[str, Any] = {k: v for k, v in vars(layer).items() if isinstance(v, bool | int | str)}
    for name, value in vars(layer).items():
        if isinstance(value, dict):
            plain[name] = {number: item for number, item in value.items() if isinstance(item, simple)}
    return plain


def _restore_own(layer: Any, meta: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    for name, value in meta.items():
        if isinstance(value, dict):
            getattr(layer, name).update({int(number): item for number, item in value.items()})
        else:
            setattr(layer, name, value)
    for name, tensor in tensors.items():
        name, _, number = name.partition(".")
        if number:
            getattr(layer, name)[int(number)] = tensor
        else:
            setattr(layer, name, tensor)
        layer.dtype, layer.device = tensor.dtype, tensor.device


def _press(header: dict[str, str], path: Path) -> Press:
    try:
        press = Press.parse(header["press"])
    except KVPressError as error:
        raise CacheFileError(f"{path} was made by a press that this version cannot read: {error}") from error
    if press.spec() != header["spec"]:
        then, now = (set(re.split(r"[(),|]\s*", text)) for text in (header["spec"], press.spec()))
        old, new = (short(", ".join(sorted(more)) or "less", 40) for more in (then - now, now - then))
        raise CacheFileError(
            f"{short(path)} was made by {short(press, 60)} with {old}, where this version has {new}. Read the prompt "
            "again, or use the version that saved the file."
        )
    return press


def _check(header: dict[str, str], path: Path, model: PreTrainedModel) -> None:
    if not {"format", "layers", "same"} <= header.keys():
        raise CacheFileError(f"{path} is a safetensors file but not a cache saved by kvpress.")
    if header["format"] != str(FORMAT):
        raise CacheFileError(f"{path} has format {header['format']}, this version reads {FORMAT}. Save it again.")
    if header["model"] != fingerprint(model):
        raise CacheFileError(
            f"{path} was made with another model (a {header['model_class']} with other weights or config). "
            "Load that model, or read the prompt again with this one."
        )


def _restore(layer: StoreLayer, meta: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    if not meta["initialized"]:
        return
    for name in ("logical", "fixed", "own_chosen"):
        setattr(layer, name, meta[name])
    stage, holds, fired, since = meta["phase"]
    layer.phase = Phase(Stage(stage), Reader.CHUNK if holds else Reader.NOBODY, fired, since)
    layer.read = tuple((start, stop) for start, stop in meta["read"])
    k, v = tensors["tail.k"], tensors["tail.v"]
    layer.dtype, layer.device, layer.is_initialized = k.dtype, k.device, True
    columns = (*layer.recipe.columns, POSITION)
    tail = layer.tail = Tail(k, v, meta["tail"]["start"])
    tail.k, tail.v, tail.count, tail.columns = k, v, meta["tail"]["count"], _columns(tensors, "tail.", columns)
    tail.valid, tail.free = tensors.get("tail.valid"), tensors.get("tail.free")
    for name in STATE:
        setattr(layer, name, tensors.get(name))
    layer.own = {name: tensors[name] for name in meta["own"]}
    for name in layer.witness.NAMES:
        setattr(layer.witness, name, tensors.get(name))
    if meta["rule"] is not None:
        layer.rule = Rule(
            meta["rule"]["scale"], meta["rule"]["cap"], tensors.get("rule.sink"), meta["rule"].get("group", 1)
        )
    frozen, running = ([c for c in layer.recipe.columns if c.frozen == kind] for kind in (True, False))
    for number, described in enumerate(meta["segments"]):
        prefix = f"segment{number}."
        own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        slabs = []
        for slab in range(described["slabs"]):
            mine = {n.removeprefix(f"{slab}."): t for n, t in own.items() if n.startswith(f"{slab}.")}
            runs, pos, kept = mine.pop("runs"), mine.pop(POSITION.name), _columns(mine, "", frozen)
            index = {n.removeprefix("pages."): mine.pop(n) for n in list(mine) if n.startswith("pages.")}
            pair = layer.recipe.loads.load({n: t for n, t in mine.items() if "." in n}, k, v)
            pages = None if layer.recipe.selector is None else Pages(layer.recipe.selector, index)
            slabs.append(Slab(runs, pair, pos, kept, pages))
        segment = Segment(described["rows"], described["heads"], slabs)
        layer.held.append(Held(segment, own.get("rows"), _columns(own, "", running)))


def _columns(tensors: dict[str, Tensor], prefix: str, columns: Iterable[Column]) -> Columns:
    """The columns among tensors, by their names behind a prefix."""
    return Columns({c: tensors[name] for c in columns if (name := prefix + c.name) in tensors})
