"""Fused attention for few query rows over slots in their stored form, by format and device.

Everything here has a reference in torch (`Slab.attend`, `Tail.attend`) that gives the same numbers. The table says
which formats a kernel reads; what is not in it, or cannot run here, is left to the reference by returning None.
`KVPRESS_KERNELS=reference` in the environment leaves everything to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kvpress.attention.backends import cpu
from kvpress.attention.partial import Partial
from kvpress.errors import KVPressError
from kvpress.quant.affine import AffinePacked
from kvpress.storage.codec import DensePacked, Packed

VARIABLE = "KVPRESS_KERNELS"
MAX_ROWS = 64  # more rows than that are matrix products, which the reference leaves to BLAS


class Part(NamedTuple):
    """Slots that every query sees, of some or all runs (one run = one KV head of one batch row).

    key, value: packed, or dense rows (R, capacity, D) or (B, H, capacity, D). slots: how many of each run count.
    runs: (R,) int64, the runs of the query these are, None = all in order. pos: (B, H, capacity) int32, negative =
    no slot; valid: (B, capacity) bool, false = padding; None = every slot counts.
    """

    key: Packed | Tensor
    value: Packed | Tensor
    slots: int
    runs: Tensor | None = None
    pos: Tensor | None = None
    valid: Tensor | None = None


Kernel = Callable[[Sequence[Part], Tensor, float, float | None], Partial | None]
_FORMATS = (Tensor, DensePacked, AffinePacked)
_TABLE: dict[tuple[type, type, str], Kernel] = {(k, v, "cpu"): cpu.attend for k in _FORMATS for v in _FORMATS}


def enabled() -> bool:
    """False where the environment asks for the reference. Raises KVPressError for a value that says neither."""
    choice = os.environ.get(VARIABLE, "auto")
    if choice not in ("auto", "reference"):
        raise KVPressError(f'{VARIABLE}={choice!r} is unknown; set it to "auto" (the default) or "reference".')
    return choice == "auto"


def attend(parts: Sequence[Part], q: Tensor, scale: float, cap: float | None) -> Partial | None:
    """Exact attention over the union of `parts`, or None: use the reference.

    q: (R, m, D), or (B, H, m, D) with R = B*H, and the Partial alike.
    """
    if not parts or q.shape[-2] > MAX_ROWS or not enabled() or (q.requires_grad and torch.is_grad_enabled()):
        return None
    device = q.device.type
    kernel = _TABLE.get((type(parts[0].key), type(parts[0].value), device))
    for part in parts[1:]:
        if _TABLE.get((type(part.key), type(part.value), device)) is not kernel:
            return None
    return None if kernel is None else kernel(parts, q, scale, cap)
