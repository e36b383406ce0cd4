"""Scores rounded so that equal tokens tie."""

from __future__ import annotations

import torch
from torch import Tensor

_DIGITS = 4096


def rounded(scores: Tensor) -> Tensor:
    """Scores to 12 binary digits, for methods that score equal tokens alike wherever they stand.

    Their scores differ by the rounding of rotations and sums; rounded they tie, and ties go to the earlier token.
    """
    mantissa, exponent = torch.frexp(scores)
    return torch.ldexp((mantissa * _DIGITS).round() / _DIGITS, exponent)
