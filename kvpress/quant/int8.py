"""int8: keys and values in 8 bits, each slot of a head with its own range.

paper     none of its own; per-token asymmetric 8-bit codes are the plain baseline of the quantization papers
idea      256 levels between the smallest and the largest number of a slot lose next to nothing
formula   see kvpress/quant/affine.py, with one group over all D channels of a slot, for keys and values alike
cost      2 * (D + 4) bytes a slot of a KV head, against 4*D in fp16
deviates  asymmetric: a symmetric range spends the half of its codes that one-sided channels never use
"""

from __future__ import annotations

from kvpress.quant.affine import Affine
from kvpress.recipe.kinds import Decisions
from kvpress.recipe.press import preset

_ROW = 1024  # wider than any head, which makes one group of a row


@preset("int8", small="residual=4")
def int8(residual: int = 32) -> Decisions:
    """Keys and values in 8 bits with one range per token and head."""
    codec = Affine(8, "token", _ROW)
    return {"key": codec, "value": codec, "residual": residual}
