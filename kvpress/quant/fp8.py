"""fp8: keys and values as 8-bit floats (e4m3), with one scale per head and block or per token.

paper     Micikevicius et al. 2022, FP8 Formats for Deep Learning (2209.05433); kept in this form by most servers
idea      four exponent bits follow the spread of a row by themselves, so a coarse scale is enough
formula   s = amax / 448 of the block of a KV head ("head") or of the slot ("token"), x' = e4m3(clamp(x / s)) * s
cost      2 * (D + 2/block) bytes a slot of a KV head with scale="head", 2 * (D + 2) with scale="token"
deviates  scales are set when slots are packed and never again, not calibrated; they are bf16, because the smallest
          and largest of them leave the range of fp16; a prompt has a scale for every `block` slots
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvpress.errors import PressSyntaxError
from kvpress.recipe.kinds import Decisions
from kvpress.recipe.press import preset
from kvpress.storage.codec import Packed

_TOP = 448.0  # the largest e4m3 number
_TILE_NUMBERS = 1 << 18  # decoded numbers in flight


@dataclass(frozen=True)
class Fp8:
    """Codec with one scale per KV head and `block` slots, or per slot (`per_token`).

    Bytes of n slots of one KV head: n*D codes, and 2*ceil(n/block) or 2*n for scales. Slots taken out of their
    blocks carry their scale along: 2*n.
    """

    block: int = 32
    per_token: bool = False

    def __post_init__(self) -> None:
        if self.block < 1:
            raise PressSyntaxError(f"block={self.block} is a number of slots; use 1 or more.")

    @property
    def name(self) -> str:
        return f"fp8_{'token' if self.per_token else 'head'}{self.block}"

    def check(self, head_dim: int) -> None:
        return None

    def encode(self, x: Tensor) -> Fp8Packed:
        span = 1 if self.per_token else self.block
        high = x.float().abs().amax(-1)  # (R, n)
        count = -(-high.shape[1] // span)
        high = torch.nn.functional.pad(high, (0, count * span - high.shape[1])).unflatten(1, (count, span)).amax(-1)
        scale = (high / _TOP).to(torch.bfloat16)
        safe = torch.where(scale == 0, torch.inf, scale.float())
        # Clamped first: a number above the largest is not saturated but NaN where the cast follows the standard.
        codes = (x.float() / _spread(safe, span, x.shape[1]).unsqueeze(-1)).clamp(-_TOP, _TOP)
        return Fp8Packed(codes.to(torch.float8_e4m3fn), scale, span, x.dtype)

    def load(self, tensors: dict[str, Tensor], dtype: torch.dtype, dim: int) -> Fp8Packed:
        codes, scale = tensors["codes"], tensors["scale"]
        each = scale.shape[1] == codes.shape[1]
        return Fp8Packed(codes, scale, 1 if each else self.block, dtype)


def _spread(scale: Tensor, span: int, slots: int) -> Tensor:
    """(R, scales) as (R, slots)."""
    return scale if span == 1 else scale.repeat_interleave(span, 1)[:, :slots]


class Fp8Packed:
    """R runs of n slots. codes: (R, n, D) float8_e4m3fn. scale: (R, ceil(n/span)) bf16, one for `span` slots."""

    def __init__(self, codes: Tensor, scale: Tensor, span: int, dtype: torch.dtype) -> None:
        self.codes, self.scale, self.span, self.dtype = codes, scale, span, dtype
        self.runs, self.slots = codes.shape[:2]

    def _scales(self) -> Tensor:
        """(R, n) bf16."""
        return _spread(self.scale, self.span, self.slots)

    def _tiles(self) -> Iterator[tuple[slice, Tensor]]:
        """Slots in turn, with their codes in fp32: what is decoded at a time fits in a cache."""
        step = max(1, _TILE_NUMBERS // (self.runs * self.codes.shape[-1]))
        for start in range(0, self.slots, step):
            at = slice(start, start + step)
            yield at, self.codes[:, at].float()

    def decode(self) -> Tensor:
        return (self.codes.float() * self._scales().float().unsqueeze(-1)).to(self.dtype)

    def logits(self, q: Tensor) -> Tensor:
        products = [q.float() @ codes.mT for _, codes in self._tiles()]
        return torch.cat(products, -1) * self._scales().float().unsqueeze(1)

    def mix(self, weights: Tensor) -> Tensor:
        scaled = weights * self._scales().float().unsqueeze(1)
        out = scaled.new_zeros(self.runs, weights.shape[1], self.codes.shape[-1])
        for at, codes in self._tiles():
            out = out + scaled[..., at] @ codes
        return out

    def take(self, run: Tensor, index: Tensor) -> Fp8Packed:
        run = run.unsqueeze(-1)
        return Fp8Packed(self.codes[run, index], self._scales()[run, index], 1, self.dtype)

    def cat(self, others: Sequence[Packed]) -> Fp8Packed:
        parts = [self, *(o for o in others if isinstance(o, Fp8Packed))]
        codes = torch.cat([part.codes for part in parts], 1)
        whole = all(part.slots % part.span == 0 for part in parts[:-1])
        if whole and len({part.span for part in parts}) == 1:
            return Fp8Packed(codes, torch.cat([part.scale for part in parts], 1), self.span, self.dtype)
        return Fp8Packed(codes, torch.cat([part._scales() for part in parts], 1), 1, self.dtype)

    def tensors(self) -> dict[str, tuple[str, Tensor]]:
        return {"codes": ("codes", self.codes), "scale": ("scales", self.scale)}


@preset(
    "fp8", small="block=4, residual=3", unsettled="a number format, which many servers use with scales of their own"
)
def fp8(scale: str = "head", block: int = 32, residual: int = 32) -> Decisions:
    """Keys and values as 8-bit floats (e4m3), scaled per head and block or per token."""
    if scale not in ("head", "token"):
        raise PressSyntaxError(f'scale={scale!r}: one scale per "head" (and block of slots) or per "token".')
    codec = Fp8(block, scale == "token")
    return {"key": codec, "value": codec, "residual": residual}
