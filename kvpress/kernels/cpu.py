"""Calls cpu.c: one call a layer and decode step, over all segments and the tail together."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kvpress.codec import DensePacked, Packed
from kvpress.kernels import build
from kvpress.partial import Partial
from kvpress.quant.affine import AffinePacked

if TYPE_CHECKING:
    from kvpress.kernels import Part

_MAX_DIM = 512
_DENSE = {torch.float32: 0, torch.bfloat16: 1}
_PER_CHANNEL, _PER_TOKEN = 2, 3


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


# Packed data never changes, so neither does its description; None = not readable by the kernel.
_sides: weakref.WeakKeyDictionary[Packed, _Side | None] = weakref.WeakKeyDictionary()


def _side(x: Packed | Tensor) -> _Side | None:
    if isinstance(x, Tensor):
        return _dense(x)
    if x not in _sides:
        _sides[x] = _dense(x.rows) if isinstance(x, DensePacked) else _affine(x)
    return _sides[x]


def _dense(rows: Tensor) -> _Side | None:
    form, dim = _DENSE.get(rows.dtype), rows.shape[-1]
    if form is None or dim % 8 or dim > _MAX_DIM or not rows.is_contiguous():
        return None
    return _Side(data=rows.data_ptr(), run_bytes=rows.stride(0) * rows.element_size(), format=form, dim=dim)


def _affine(x: Any) -> _Side | None:
    if not isinstance(x, AffinePacked) or x.dim % 8 or x.dim > _MAX_DIM:
        return None
    codec, stored = x.codec, [t for t in (x.codes, x.step, x.lo, x.owner) if t is not None]
    group = min(codec.group, x.dim) if codec.axis == "token" else codec.group
    if not all(t.is_contiguous() for t in stored) or (codec.axis == "token" and group * codec.bits % 8):
        return None
    return _Side(
        data=x.codes.data_ptr(),
        step=x.step.data_ptr(),
        lo=x.lo.data_ptr(),
        owner=None if x.owner is None else x.owner.data_ptr(),
        run_bytes=x.codes.stride(0),
        groups=x.step.shape[1] if codec.axis == "channel" else x.step.shape[2],
        group=group,
        bits=codec.bits,
        format=_PER_CHANNEL if codec.axis == "channel" else _PER_TOKEN,
        dim=x.dim,
    )


def _describe(part: Part, runs: int) -> _Part | None:
    key, value = _side(part.key), _side(part.value)
    if key is None or value is None:
        return None
    out = _Part(key=key, value=value, slots=part.slots, count=runs)
    if part.runs is not None:
        out.runs, out.count = part.runs.data_ptr(), part.runs.numel()
    if part.pos is not None:
        out.pos, out.pos_stride = part.pos.data_ptr(), part.pos.stride(1)
    if part.valid is not None:
        out.valid, out.valid_stride = part.valid.data_ptr(), part.valid.stride(0)
        out.heads = runs // part.valid.shape[0]
    return out


def attend(parts: Sequence[Part], q: Tensor, scale: float, cap: float | None) -> Partial | None:
    """See `kvpress.kernels.attend`."""
    library = build.load().library
    if library is None:
        return None
    runs, rows, _ = q.shape
    described = []
    for part in parts:
        if (one := _describe(part, runs)) is None:
            return None
        described.append(one)
    q = q.detach().float().contiguous()
    out = torch.empty(runs, rows, described[0].value.dim)
    lse = torch.empty(runs, rows)
    failed = library.kvpress_attend(
        (_Part * len(described))(*described),
        ctypes.c_int64(len(described)),
        ctypes.c_void_p(q.data_ptr()),
        ctypes.c_int64(runs),
        ctypes.c_int64(rows),
        ctypes.c_double(scale),
        ctypes.c_double(cap or 0.0),
        ctypes.c_void_p(out.data_ptr()),
        ctypes.c_void_p(lse.data_ptr()),
        ctypes.c_int64(torch.get_num_threads()),
    )
    return None if failed else Partial(out, lse)
