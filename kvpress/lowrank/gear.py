"""GEAR (2403.05527): a quantizer's error is mostly a few directions and a few numbers; store those too.

paper     Kang et al. 2024, GEAR: An Efficient KV Cache Compression Recipe for Near-Lossless Generative Inference
idea      take outliers out before quantizing, which narrows the ranges, and add the error back in low rank
formula   x' = Quant(x - S) + A B^T + S; S the s/2 largest and s/2 smallest numbers of a channel of keys or of a token's
          values, A B^T of rank r the error of the rest, one pair a KV head and packed block
cost      of n slots of a head packed at once, K and V each: the quantizer's, 2*r*(n + D), and 2 + 1 bytes an outlier
deviates  S holds x - Quant - A B^T, so that outliers come back exactly; lines of V are those of a head, not of all
          heads; at least one outlier a side and line; a constant start basis, QR in every round; the newest
          `residual` slots stay dense when a block is packed; nothing is compressed twice
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvpress.errors import PressConflictError, PressSyntaxError
from kvpress.evidence.evidence import Evidence
from kvpress.evidence.premise import SLOTS, run_of
from kvpress.lowrank.corrected import Corrected
from kvpress.lowrank.factors import factors
from kvpress.lowrank.outliers import extremes, index_type, per_side, places, replaced
from kvpress.quant.affine import Affine, AffinePacked, Axis
from kvpress.recipe.kinds import Decisions
from kvpress.recipe.press import preset, variant
from kvpress.storage.block import Block

_FP16_MAX = 65504.0
_SURVEYED, _LEAST = 256, SLOTS  # tokens whose error is looked at, when a block is no longer than that or longer
_ROW = 1024  # wider than any head, which makes one group of a row


@dataclass(frozen=True)
class Gear:
    """Codec: a quantizer (`backbone`), low-rank factors of its error, and a fraction `outliers` of the numbers.

    axis: where the quantizer's groups and the outliers' lines run, "channel" (keys) or "token" (values). backbone:
    "kivi", groups of `group`; "kcvt", one group a channel of everything packed at once, or one a token.
    More than `block` slots at once are a prompt and get `prefill_rank`, `block` or fewer get `rank`: a flush while
    decoding is one block, and so is a prompt of a single block.

    Bytes of n slots of one KV head packed at once, with r = min(rank, n, D):
    codes n*D*bits/8; scales 4*D*ceil(n/group) or 4*n*ceil(D/group), one group a line for "kcvt"; factors 2*r*(n + D);
    outliers D*c(n)*(2 + i(n)) by channel or n*c(D)*(2 + i(D)) by token, c(N) = 2*min(max(1, round(s*N/2)), (N-1)//2)
    numbers a line, i = 1, 2 or 4 bytes an index for lines up to 256, 32768 or more. Blocks that had to be joined with
    longer ones, and slots left by an eviction, name their block: 1 byte a slot for up to 256 of them, 2 or 4 for more.
    """

    axis: Axis
    bits: int = 2
    backbone: str = "kivi"
    group: int = 64
    block: int = 64
    rank: int = 2
    prefill_rank: int = 4
    outliers: float = 0.02

    def __post_init__(self) -> None:
        if self.bits not in (2, 4):
            raise PressSyntaxError(f"bits={self.bits}: the error of 2- and 4-bit codes is worth storing; use 2 or 4.")
        if self.backbone not in ("kivi", "kcvt"):
            raise PressSyntaxError(f'backbone={self.backbone!r} is unknown; use "kivi" or "kcvt".')
        if min(self.rank, self.prefill_rank) < 1:
            raise PressSyntaxError(f"rank={self.rank} and prefill_rank={self.prefill_rank} must be 1 or more.")
        if not 0 <= self.outliers < 1:
            raise PressSyntaxError(f"outliers={self.outliers} is a fraction of all numbers, for example 0.02.")
        if self.backbone == "kivi" and (self.block < 1 or self.block % self._quantizer(1, 1).group):
            raise PressSyntaxError(f"block={self.block} must be a multiple of group={self.group}.")
        if self.backbone == "kcvt" and (self.block < 2 or self.block & (self.block - 1)):
            raise PressSyntaxError(f'block={self.block} must be a power of two with backbone="kcvt", for example 64.')

    @property
    def premise(self) -> CoherentError:
        return CoherentError(self)

    @property
    def name(self) -> str:
        return f"gear{self.bits}_{self.backbone}_{self.axis}{self.block}"

    def check(self, head_dim: int) -> None:
        self._quantizer(self.block, 1).check(head_dim)
        # Factors hold r (n + D) numbers of 16 bits, slots n D: n of a block is known, a prompt may be of any length.
        each = (self.block * head_dim - 1) // (self.block + head_dim)
        for name, rank, most, slots in (
            ("rank", self.rank, each, f"a block of {self.block} slots"),
            ("prefill_rank", self.prefill_rank, head_dim - 1, "a prompt"),
        ):
            if rank > max(1, most):
                raise PressConflictError(
                    f"{name}={rank} saves nothing on heads of {head_dim} channels: factors of that rank are no smaller "
                    f"than {slots} in 16 bits. Use {name}={max(1, most)} or less."
                )

    def _quantizer(self, slots: int, groups: int) -> Affine:
        """The backbone for `slots` slots in `groups` groups of equal length along the slots."""
        if self.backbone == "kivi":
            return Affine(self.bits, self.axis, self.group)
        return Affine(self.bits, self.axis, _ROW if self.axis == "token" else _power(-(-slots // groups)))

    def quantized(self, x: Tensor) -> tuple[AffinePacked, Tensor, Tensor]:
        """x (R, n, D) quantized without its outliers; which numbers those are, in lines; the error of the others."""
        quantizer, lines = self._quantizer(x.shape[1], 1), self._lines(x.float())
        length = lines.shape[-1]
        away = extremes(lines, per_side(self.outliers, length))
        rest = replaced(lines, away, min(quantizer.group, length))
        inner = quantizer.encode(self._lines(rest).contiguous())
        return inner, away, self._lines(lines - self._lines(inner.decode())).masked_fill(self._lines(away), 0.0)

    def encode(self, x: Tensor) -> Corrected:
        rank = self.prefill_rank if x.shape[1] > self.block else self.rank
        inner, away, error = self.quantized(x)
        lines = self._lines(x.float())
        length = lines.shape[-1]
        left, right = factors(error, rank)
        plain = Corrected(self, inner, left, right.unsqueeze(1), None, None, None, x.dtype)
        if self.outliers == 0:
            return plain
        index = places(away)
        value = (lines - self._lines(plain.values())).gather(-1, index).clamp(-_FP16_MAX, _FP16_MAX).half()
        index = index.to(index_type(length))
        if self.axis == "channel":
            index, value = index.unsqueeze(1), value.unsqueeze(1)
        return Corrected(self, inner, left, plain.right, None, value, index, x.dtype)

    def _lines(self, x: Tensor) -> Tensor:
        """(R, n, D) as lines along which outliers are sought, (R, D, n) for keys; and back."""
        return x.mT if self.axis == "channel" else x

    def load(self, tensors: dict[str, Tensor], dtype: torch.dtype, dim: int) -> Corrected:
        within = {name.removeprefix("inner."): t for name, t in tensors.items() if name.startswith("inner.")}
        groups = within["step"].shape[1] if self.axis == "channel" else 1
        quantizer = self._quantizer(within["codes"].shape[1], max(1, groups))
        t, inner = tensors, quantizer.load(within, torch.float32, dim)
        return Corrected(self, inner, t["left"], t["right"], t.get("owner"), t.get("value"), t.get("index"), dtype)


def _power(count: int) -> int:
    """The smallest power of two that is at least `count` and 2."""
    return 1 << max(1, (count - 1).bit_length())


@dataclass(frozen=True)
class CoherentError:
    """What quantizing leaves is not noise: a few directions hold more of it than they would of noise of its size.

    The figure is the share of the error's energy in its first `rank` directions over what they hold of white noise
    of the same shape, whose largest singular values are about sqrt(n) + sqrt(D): 1 is noise.
    """

    codec: Gear
    method = "gear"
    bound = 1.25

    @property
    def says(self) -> str:
        return f"the quantizer's error of {'keys' if self.codec.axis == 'channel' else 'values'} is low-rank"

    @property
    def measures(self) -> str:
        return f"energy of its first {self.codec.prefill_rank} directions, against noise"

    def sample(self, block: Block, seen: Evidence) -> Tensor:
        """(H,) of the first row's heads, over tokens in a row."""
        x = block.k if self.codec.axis == "channel" else block.v
        slots = min(_SURVEYED, int(block.valid[0, 0].sum())) // self.codec.block * self.codec.block
        x = x[0][:, run_of(block, slots or _LEAST)]
        energy = torch.linalg.svdvals(self.codec.quantized(x)[2].double()).square()
        share = energy[:, : self.codec.prefill_rank].sum(-1) / energy.sum(-1).clamp(min=torch.finfo(torch.float64).tiny)
        n, dim = x.shape[1:]
        noise = self.codec.prefill_rank * (n**0.5 + dim**0.5) ** 2 / (n * dim)
        return share / min(1.0, noise)

    def figure(self, samples: Sequence[Tensor]) -> float:
        return float(torch.cat(list(samples)).mean())


@preset("gear", small="bits=4, group=4, block=8, residual=5, outliers=0.1")
def gear(
    bits: int = 2,
    backbone: str = "kivi",
    group: int = 64,
    block: int = 64,
    residual: int = 64,
    rank: int = 2,
    prefill_rank: int = 4,
    outliers: float = 0.02,
) -> Decisions:
    """Quantized keys and values, with outliers and the low-rank part of the error stored beside (2403.05527)."""
    key = Gear("channel", bits, backbone, group, block, rank, prefill_rank, outliers)
    value = Gear("token", bits, backbone, group, block, rank, prefill_rank, outliers)
    return {"key": key, "value": value, "residual": residual}


@preset("gear_l", small="bits=2, group=8, block=8, residual=4")
def gear_l(
    bits: int = 2,
    backbone: str = "kivi",
    group: int = 64,
    block: int = 64,
    residual: int = 64,
    rank: int = 2,
    prefill_rank: int = 4,
) -> Decisions:
    """Quantized keys and values, with the low-rank part of the error stored beside (2403.05527)."""
    return gear.build(bits, backbone, group, block, residual, rank, prefill_rank, outliers=0.0)


variant(
    gear,
    "paper",
    "GEAR on KIVI: 2 bits in groups of 64, rank 4 for prompts and 2 for blocks of 64, 2 % outliers.",
    outliers=0.02,
)
variant(
    gear,
    "kcvt",
    "GEAR on the 4-bit per-channel keys and per-token values of the paper's other tables.",
    bits=4,
    backbone="kcvt",
)


variant(gear_l, "paper", "GEAR without outliers: 2 bits in groups of 64, rank 4 for prompts and 2 for blocks of 64.")
variant(
    gear_l,
    "authors",
    "GEAR-L as in the authors' CUDA code, which gave the speed and memory figures: rank 2 for prompts too.",
    prefill_rank=2,
)
