"""Devices that are not there: tensors that lie in ordinary memory, say that they are elsewhere, and refuse to be mixed.

What torch allows between two GPUs is allowed here and nothing else: a tensor of no dimensions on the CPU meets any
other, CPU indices choose from any tensor, copies go anywhere. All other mixing raises, as it would there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

CPU = torch.device("cpu")
# A kind that torch can name without having it, and for which kvpress has no path of its own.
_DEVICE = Tensor.device.__get__  # type: ignore[attr-defined]
FIRST, SECOND = torch.device("mps", 0), torch.device("mps", 1)


class MixedError(RuntimeError):
    """Tensors of several devices met."""


class Placed(Tensor):
    """A tensor that says it is on `place`."""

    place: torch.device

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Pretend(TorchFunctionMode):
    """Within, tensors can be made on devices that are not there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def put(x: Tensor, place: torch.device) -> Tensor:
    """The same memory, said to be on `place`."""
    with torch._C.DisableTorchFunction():
        if place == CPU:
            return x.as_subclass(Tensor)
        made = x.as_subclass(Placed)
        made.place = place
        return made


def where(x: Tensor) -> torch.device:
    return x.place if isinstance(x, Placed) else CPU


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))


def _device(value: Any) -> torch.device | None:
    if isinstance(value, torch.device):
        return value
    if isinstance(value, str) and value.split(":")[0] in ("cpu", "mps"):
        return torch.device(value)
    return None


def _place(func: Any, args: Any, kwargs: Any) -> torch.device:
    """Where the result is; raises MixedError for what torch would refuse."""
    name = getattr(func, "__name__", "")
    if name in ("__getitem__", "__setitem__", "copy_"):
        home, index = where(args[0]), list(_tensors(args[1])) if name != "copy_" else []
        strangers = [x for x in index if where(x) not in (CPU, home)]
        if name == "__setitem__" and index:  # not a copy: values are written one by one
            strangers += [x for x in _tensors(args[2]) if where(x) != home and (x.dim() or where(x) != CPU)]
        if strangers:
            raise MixedError(f"{name} of a tensor on {home} with one on {where(strangers[0])}")
        return home
    found = list(_tensors((args, kwargs)))
    places = {where(x) for x in found if x.dim() or where(x) != CPU}
    if len(places) > 1:
        raise MixedError(f"{name or func} mixes {', '.join(sorted(map(str, places)))}")
    return places.pop() if places else CPU


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    if func == _DEVICE:
        return where(args[0])
    with torch._C.DisableTorchFunction():
        name = getattr(func, "__name__", "")
        if name in ("to", "cpu"):
            return _moved(name, args, kwargs)
        place = _place(func, args, kwargs)
        asked = _device(kwargs.get("device"))
        if asked is not None:
            place, kwargs = asked, {**kwargs, "device": CPU}
        out = func(*args, **kwargs)
        return _wrapped(out, place, {id(x) for x in _tensors((args, kwargs))})


def _wrapped(out: Any, place: torch.device, given: set[int]) -> Any:
    if isinstance(out, Tensor):
        return out if id(out) in given else put(out, place)
    if (isinstance(out, tuple) and hasattr(out, "_fields")) or type(out).__module__ == "torch.return_types":
        return type(out)([_wrapped(item, place, given) for item in out])  # type: ignore[call-arg]
    if isinstance(out, list | tuple):
        return type(out)(_wrapped(item, place, given) for item in out)
    return out


def _moved(name: str, args: Any, kwargs: Any) -> Tensor:
    x, target = args[0], CPU if name == "cpu" else None
    rest = []
    for value in args[1:]:
        if isinstance(value, Tensor):
            target, value = where(value), value.dtype
        elif (asked := _device(value)) is not None:
            target = asked
            continue
        rest.append(value)
    target = _device(kwargs.get("device")) or target or where(x)
    kept = {key: value for key, value in kwargs.items() if key not in ("device", "non_blocking")}
    out = x.to(*rest, **kept) if rest or kept else x
    if target != where(x) and out is x:
        out = x.clone()
    return x if out is x else put(out, target)


def _carried(value: Any, place: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(place)
    if isinstance(value, list | tuple):
        return type(value)(_carried(item, place) for item in value)
    return value


def _settle(module: nn.Module, place: torch.device) -> None:
    """The weights of a module are on `place`, and its inputs are brought there, as accelerate's hooks do."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = nn.Parameter(put(weight.detach(), place), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = put(buffer, place)

    def bring(_: nn.Module, args: Any, kwargs: Any) -> Any:
        return _carried(args, place), {key: _carried(value, place) for key, value in kwargs.items()}

    module.register_forward_pre_hook(bring, with_kwargs=True)


@contextmanager
def spread(model: PreTrainedModel, split: int) -> Iterator[PreTrainedModel]:
    """A fresh model whose layers from `split` on are on SECOND, all else being on FIRST, as device_map= would do."""
    decoder = model.model
    for part in (decoder.embed_tokens, decoder.rotary_emb, *decoder.layers[:split]):
        _settle(part, FIRST)
    for part in (*decoder.layers[split:], decoder.norm, model.lm_head):
        _settle(part, SECOND)
    with Pretend():
        yield model
