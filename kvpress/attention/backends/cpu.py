"""Calls cpu.c: one call a layer and decode step, over all segments and the tail together."""

from __future__ import annotations

import ctypes
import functools
import math
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kvpress.attention.backends import build
from kvpress.attention.backends.table import Kernel, Part, register
from kvpress.attention.layout import Layout
from kvpress.attention.partial import Partial

_MAX_DIM = 512
_DENSE = {torch.float32: 4, torch.bfloat16: 2}  # bytes of a number
_FP32, _BF16, _PER_CHANNEL, _PER_TOKEN = range(4)


class _Side(ctypes.Structure):
    _fields_ = (
        *[(name, ctypes.c_void_p) for name in ("data", "step", "lo", "owner")],
        *[(name, ctypes.c_int64) for name in ("run_bytes", "groups", "group", "bits", "format", "dim")],
    )


class _Part(ctypes.Structure):
    _fields_ = (
        ("key", _Side),
        ("value", _Side),
        ("slots", ctypes.c_int64),
        ("count", ctypes.c_int64),
        *[(name, ctypes.c_void_p) for name in ("runs", "pos", "valid")],
        *[(name, ctypes.c_int64) for name in ("pos_stride", "valid_stride", "heads")],
    )


# Stored data never changes, so neither does its description; None = not readable by the kernel.
_sides: weakref.WeakKeyDictionary[Layout, _Side | None] = weakref.WeakKeyDictionary()


def _side(x: Layout | Tensor) -> _Side | None:
    if isinstance(x, Tensor):
        return _dense(x)
    try:
        return _sides[x]
    except KeyError:
        found = _sides[x] = _dense(x.data) if x.kind == "dense" else _affine(x)
        return found


def _readable(x: Tensor | None, dtype: torch.dtype) -> bool:
    """C reads bytes and cannot know what they are: only whole CPU tensors of the type it expects are handed over."""
    return x is None or (x.dtype == dtype and x.device.type == "cpu" and x.is_contiguous())


def _dense(rows: Tensor) -> _Side | None:
    shape, size = rows.shape, _DENSE.get(rows.dtype)
    dim = shape[-1]
    if size is None or dim % 8 or dim > _MAX_DIM or not _readable(rows, rows.dtype):
        return None
    return _Side(rows.data_ptr(), None, None, None, shape[-2] * dim * size, 0, 0, 0, _FP32 if size == 4 else _BF16, dim)


def _affine(x: Layout) -> _Side | None:
    if x.dim % 8 or x.dim > _MAX_DIM or x.step is None or x.lo is None:
        return None
    typed = _readable(x.data, torch.uint8) and _readable(x.owner, torch.int32)
    typed = typed and _readable(x.step, torch.float16) and _readable(x.lo, torch.float16)
    per_channel = x.kind == "channel"
    group = x.group if per_channel else min(x.group, x.dim)
    if not typed or (not per_channel and group * x.bits % 8):
        return None
    return _Side(
        x.data.data_ptr(),
        x.step.data_ptr(),
        x.lo.data_ptr(),
        None if x.owner is None else x.owner.data_ptr(),
        x.data.stride(0),
        x.step.shape[1 if per_channel else 2],
        group,
        x.bits,
        _PER_CHANNEL if per_channel else _PER_TOKEN,
        x.dim,
    )


def _describe(part: Part, runs: int) -> _Part | None:
    key, value, slots, subset, pos, valid = part
    k, v = _side(key), _side(value)
    typed = _readable(subset, torch.int64) and _readable(pos, torch.int32) and _readable(valid, torch.bool)
    if k is None or v is None or not typed:
        return None
    out = _Part(k, v, slots, runs)
    if subset is not None:
        out.runs, out.count = subset.data_ptr(), subset.numel()
    if pos is not None:
        out.pos, out.pos_stride = pos.data_ptr(), pos.stride(1)
    elif valid is not None:
        out.valid, out.valid_stride = valid.data_ptr(), valid.stride(0)
        out.heads = runs // valid.shape[0]
    return out


@functools.cache
def _function() -> Any:
    """The compiled function, or None where it cannot be had."""
    library = build.load().library
    if library is None:
        return None
    function, pointer, number = library.kvpress_attend, ctypes.c_void_p, ctypes.c_int64
    real = ctypes.c_double
    function.argtypes = [pointer, number, pointer, number, number, real, real, pointer, pointer, number]
    return function


def attend(parts: Sequence[Part], q: Tensor, scale: float, cap: float | None) -> Partial | None:
    """See `kvpress.attention.backends.attend`."""
    function = _function()
    if function is None:
        return None
    *lead, rows, _ = q.shape
    runs = math.prod(lead)
    described = []
    for part in parts:
        if (one := _describe(part, runs)) is None:
            return None
        described.append(one)
    if q.dtype != torch.float32 or not q.is_contiguous():
        q = q.detach().float().contiguous()
    count = len(described)
    out = torch.empty(*lead, rows, described[0].value.dim, dtype=torch.float32, device=q.device)
    lse = torch.empty(*lead, rows, dtype=torch.float32, device=q.device)
    array = (_Part * count)(*described)
    failed = function(
        array,
        count,
        q.data_ptr(),
        runs,
        rows,
        scale,
        cap or 0.0,
        out.data_ptr(),
        lse.data_ptr(),
        torch.get_num_threads(),
    )
    return None if failed else Partial(out, lse)


register(Kernel("cpu", "cpu", frozenset({"dense", "channel", "token"}), attend))
