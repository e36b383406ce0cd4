"""How the bytes of stored keys or values lie in memory: what a kernel has to know of a format, and all it may know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Kind = Literal["dense", "channel", "token"]


@dataclass(frozen=True, eq=False)
class Layout:
    """R runs of n slots of `dim` channels. Made once for data that never changes, and compared by identity.

    kind: "dense" rows, or codes of `bits` bits, packed along channels with the lowest bits first, in groups of `group`
    slots of one "channel" or of `group` channels of one "token". data: (R, n, D) numbers, or (R, n, D*bits/8) uint8.
    step, lo: fp16 (R, groups, D) or (R, n, groups); a number is code * step + lo. owner: (R, n) int32, the group of
    each slot where groups are not whole, None = slot // group.
    """

    kind: Kind
    data: Tensor
    dim: int
    bits: int = 0
    group: int = 0
    step: Tensor | None = None
    lo: Tensor | None = None
    owner: Tensor | None = None
