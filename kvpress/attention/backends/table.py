"""Fused attention for few query rows over slots in their stored form. Which kernel runs is decided here.

Everything a kernel does has a reference in torch (`Pair.attend`, `Tail.attend`) that gives the same numbers. A kernel
is entered by `register`, with the layouts it reads and the type of device it runs on; the first that reads all of the
parts is asked, in order of priority. What none reads is left to the reference, by returning None.
`KVPRESS_KERNELS=reference` in the environment leaves everything to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kvpress.attention.layout import Kind, Layout
from kvpress.attention.partial import Partial
from kvpress.errors import KVPressError

VARIABLE = "KVPRESS_KERNELS"
MAX_ROWS = 64  # more rows than that are matrix products, which the reference leaves to BLAS


class Part(NamedTuple):
    """Slots that every query sees, of some or all runs (one run = one KV head of one batch row).

    key, value: how they are stored, or dense rows (B, H, capacity, D). slots: how many of each run count. runs: (R,)
    int64, the runs of the query these are, None = all in order. pos: (B, H, capacity) int32, negative = no slot; valid:
    (B, capacity) bool, false = padding; None = every slot counts.
    """

    key: Layout | Tensor
    value: Layout | Tensor
    slots: int
    runs: Tensor | None = None
    pos: Tensor | None = None
    valid: Tensor | None = None


@dataclass(frozen=True)
class Kernel:
    """attend(parts, q, scale, soft cap) -> exact attention over the union of the parts, or None where it cannot.

    layouts: the kinds it reads, of keys and of values alike. device: type of device. priority: the higher is asked
    first. available: whether it can run on this machine, asked at every use, so it has to be quick.
    """

    name: str
    device: str
    layouts: frozenset[Kind]
    attend: Callable[[Sequence[Part], Tensor, float, float | None], Partial | None]
    available: Callable[[], bool] = lambda: True
    priority: int = 0


_KERNELS: list[Kernel] = []


def register(kernel: Kernel) -> Kernel:
    """Enter a kernel, in place of one of the same name."""
    _KERNELS[:] = sorted([*(k for k in _KERNELS if k.name != kernel.name), kernel], key=lambda k: -k.priority)
    return kernel


def forget(name: str) -> None:
    """Undo `register`."""
    _KERNELS[:] = [kernel for kernel in _KERNELS if kernel.name != name]


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
    kinds = {_kind(side) for part in parts for side in (part.key, part.value)}
    for kernel in _KERNELS:
        if kernel.device == q.device.type and kinds <= kernel.layouts and kernel.available():
            found = kernel.attend(parts, q, scale, cap)
            if found is not None:
                return found
    return None


def _kind(side: Layout | Tensor) -> Kind:
    return "dense" if isinstance(side, Tensor) else side.kind
