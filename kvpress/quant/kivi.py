"""KIVI (2402.02750): keys in groups along tokens, values in groups along channels, 2 or 4 bits.

paper     Liu et al. 2024, KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache
idea      keys have outlier channels, so a key group is one channel over G tokens; values have none
formula   see kvpress/quant/affine.py; the newest `residual` slots stay dense because key groups need whole blocks
cost      2 * (D*b/8 + 4*D/G) bytes a slot of a KV head, against 4*D in fp16
deviates  K and V are flushed together in blocks of G once residual + G slots are dense (the authors flush K by
          `residual` and V by one token); codes are never re-quantized; sinks and padding never enter a group
"""

from __future__ import annotations

from kvpress.errors import PressSyntaxError
from kvpress.quant.affine import Affine
from kvpress.recipe.kinds import Decisions
from kvpress.recipe.press import preset, variant


@preset("kivi", small="bits=2, group=8, residual=8")
def kivi(
    bits: int = 2,
    k_bits: int | None = None,
    v_bits: int | None = None,
    group: int = 32,
    residual: int = 32,
    keys: str = "channel",
) -> Decisions:
    """Keys quantized per channel, values per token, newest slots dense (2402.02750)."""
    if keys not in ("channel", "token"):
        raise PressSyntaxError(f'keys={keys!r}: groups of keys run along a "channel" (the paper) or a "token".')
    for name, own in (("k_bits", k_bits), ("v_bits", v_bits)):
        if own not in (None, 2, 4, 8):
            raise PressSyntaxError(f"{name}={own} is not a code size; use 2, 4 or 8, or none (as `bits`).")
    k_bits, v_bits = (bits if own is None else own for own in (k_bits, v_bits))
    key = Affine(k_bits, "token" if keys == "token" else "channel", group)
    return {"key": key, "value": Affine(v_bits, "token", group), "residual": residual}


variant(kivi, "paper", "KIVI as in the authors' LongBench runs: 2 bits, groups of 32, 128 slots dense.", residual=128)
