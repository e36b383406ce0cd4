"""Grouped asymmetric integer codes: the storage behind KIVI (2402.02750).

idea      every group of `group` numbers keeps its minimum and its step, and each number a code of 2, 4 or 8 bits
formula   lo = min x, s = (max x - lo) / (2^b - 1), code = round((x - lo) / s) half to even, x' = code * s + lo
cost      D*b/8 bytes of codes a slot, and 4 bytes a group (s and lo in fp16): b + 32/group bits a number
deviates  s and lo are rounded to fp16 first and the codes computed from the rounded ones; s = 0 gives code 0;
          codes are packed along channels for keys too, so that a slot is one contiguous row (codes are the same)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kvpress.attention.layout import Layout
from kvpress.errors import PressConflictError, PressSyntaxError
from kvpress.evidence.evidence import Evidence
from kvpress.evidence.premise import run_of
from kvpress.storage.block import Block
from kvpress.storage.codec import Packed

Axis = Literal["channel", "token"]
_FP16_MAX = 65504.0
_TILE_NUMBERS = 1 << 18  # decoded numbers in flight; 1 MiB of fp32 stays in a core's cache


def quantize(x: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (uint8, shape of x), step and minimum (fp16, shape of x without its last axis) of groups x (..., G)."""
    x = x.float()
    lo = x.amin(-1)
    step = ((x.amax(-1) - lo) / (2**bits - 1)).clamp(max=_FP16_MAX).half()
    lo = lo.clamp(-_FP16_MAX, _FP16_MAX).half()
    safe = torch.where(step == 0, torch.inf, step.float())
    codes = ((x - lo.float().unsqueeze(-1)) / safe.unsqueeze(-1)).round().clamp(0, 2**bits - 1)
    return codes.to(torch.uint8), step, lo


def pack(codes: Tensor, bits: int) -> Tensor:
    """(..., D) uint8 codes to (..., D*bits/8) bytes; byte w holds channels 8/bits*w onwards, lowest bits first."""
    per_byte = 8 // bits
    fields = codes.unflatten(-1, (-1, per_byte))
    out = fields[..., 0].clone(memory_format=torch.contiguous_format)
    for field in range(1, per_byte):
        out |= fields[..., field] << (bits * field)
    return out


def unpack_planes(data: Tensor, bits: int) -> Tensor:
    """(..., W) bytes to fp32 (..., 8/bits, W): plane j holds field j of every byte, that is channel 8/bits*w + j."""
    per_byte = 8 // bits
    if per_byte == 1:
        return data.float().unsqueeze(-2)
    out = torch.empty(*data.shape[:-1], per_byte, data.shape[-1], dtype=torch.float32, device=data.device)
    for plane in range(per_byte):
        field = data >> (bits * plane) if plane else data
        out[..., plane, :] = field if plane == per_byte - 1 else field & (2**bits - 1)
    return out


def renumber(owner: Tensor) -> tuple[Tensor, Tensor]:
    """owner (R, n) int64, ascending: the group of each slot, some groups left without slots.

    Returns the same in numbers without gaps (R, n), and (R, groups) the old number of each new one; a run with
    fewer groups than another names group 0 at the end, which none of its slots has there.
    """
    fresh = torch.ones_like(owner)
    fresh[:, 1:] = owner[:, 1:] != owner[:, :-1]
    new = fresh.cumsum(1) - 1
    count = int(new[:, -1].max()) + 1 if new.numel() else 1
    return new, owner.new_zeros(owner.shape[0], count).scatter_(1, new, owner)


@dataclass(frozen=True)
class Affine:
    """Codec with `bits` (2, 4, 8) and groups of `group` slots per channel, or `group` channels per token.

    A group wider than a row is one group a row. Bytes of n slots of one KV head: n*D*bits/8 codes,
    and 4*D*ceil(n/group) (axis "channel") or 4*n*ceil(D/group) (axis "token") for steps and minima.
    """

    bits: int
    axis: Axis
    group: int = 32

    def __post_init__(self) -> None:
        if self.bits not in (2, 4, 8):
            raise PressSyntaxError(f"bits={self.bits} is not a code size; use 2, 4 or 8.")
        if self.axis not in ("channel", "token"):
            raise PressSyntaxError(f"axis={self.axis!r} is unknown; use 'channel' or 'token'.")
        if self.group < 2 or self.group & (self.group - 1):
            raise PressSyntaxError(f"group={self.group} must be a power of two, for example 32.")
        # Codes are packed along channels: a group along a token has to fill bytes, one along a channel need not.
        if self.axis == "token" and self.group * self.bits % 8:
            raise PressSyntaxError(f"group={self.group} codes of {self.bits} bits do not fill a byte; use group=4.")

    @property
    def name(self) -> str:
        return f"affine{self.bits}_{self.axis}{self.group}"

    @property
    def block(self) -> int:
        return self.group if self.axis == "channel" else 1

    @property
    def premise(self) -> OutlierChannels | None:
        return OutlierChannels(self.group) if self.axis == "channel" and self.bits < 8 else None

    def check(self, head_dim: int) -> None:
        if head_dim * self.bits % 8:
            raise PressConflictError(f"{self.bits}-bit codes of {head_dim} channels do not fill whole bytes; use int8.")
        if self.axis == "token" and head_dim % min(self.group, head_dim):
            fits = [g for g in (16, 8, 4) if head_dim % g == 0]
            raise PressConflictError(
                f"group={self.group} does not divide the head dimension {head_dim}; use group={fits[0] if fits else 2}."
            )

    def encode(self, x: Tensor) -> AffinePacked:
        runs, slots, dim = x.shape
        if self.axis == "channel":
            count = -(-slots // self.group)
            if short := count * self.group - slots:  # the last row again: it leaves the range as it is
                x = torch.cat([x, x[:, -1:].expand(-1, short, -1)], 1)
            codes, step, lo = quantize(x.view(runs, count, self.group, dim).mT, self.bits)
            codes = codes.mT.reshape(runs, -1, dim)[:, :slots]
        else:
            codes, step, lo = quantize(x.reshape(runs, slots, -1, min(self.group, dim)), self.bits)
            codes = codes.flatten(-2)
        return AffinePacked(self, pack(codes, self.bits), step, lo, None, x.dtype, dim)

    def load(self, tensors: dict[str, Tensor], dtype: torch.dtype, dim: int) -> AffinePacked:
        t = tensors
        return AffinePacked(self, t["codes"], t["step"], t["lo"], t.get("owner"), dtype, dim)


class AffinePacked:
    """R runs of n coded slots.

    codes: (R, n, D*bits/8) uint8. step, lo: fp16 (R, groups, D) per channel or (R, n, D/group) per token.
    owner: (R, n) int32, the group of each slot, only where slots were taken out of per-channel groups.
    """

    def __init__(
        self,
        codec: Affine,
        codes: Tensor,
        step: Tensor,
        lo: Tensor,
        owner: Tensor | None,
        dtype: torch.dtype,
        dim: int,
    ) -> None:
        self.codec, self.codes, self.step, self.lo = codec, codes, step, lo
        self.owner, self.dtype, self.dim = owner, dtype, dim
        self.runs, self.slots = codes.shape[:2]

    def layout(self) -> Layout:
        codec = self.codec
        return Layout(codec.axis, self.codes, self.dim, codec.bits, codec.group, self.step, self.lo, self.owner)

    def _owners(self) -> Tensor:
        if self.owner is not None:
            return self.owner
        each = torch.arange(self.slots, device=self.codes.device, dtype=torch.int32) // self.codec.group
        return each.expand(self.runs, -1)

    def decode(self) -> Tensor:
        values = unpack_planes(self.codes, self.codec.bits).mT.flatten(-2)
        if self.codec.axis == "token":
            values = values.unflatten(-1, (self.step.shape[-1], -1))
            values = (values * self.step.float().unsqueeze(-1) + self.lo.float().unsqueeze(-1)).flatten(-2)
        else:
            index = self._owners().long().unsqueeze(-1).expand(-1, -1, self.dim)
            values = values * self.step.float().gather(1, index) + self.lo.float().gather(1, index)
        return values.to(self.dtype)

    def _planes(self, x: Tensor) -> Tensor:
        """Channels of x (..., D) in the order of `unpack_planes`, flat."""
        return x.unflatten(-1, (-1, 8 // self.codec.bits)).mT.flatten(-2)

    def _tile(self) -> int:
        tile, block = max(1, _TILE_NUMBERS // (self.runs * self.dim)), self.codec.block
        return max(block, tile // block * block)

    def logits(self, q: Tensor) -> Tensor:
        if self.codec.axis == "token" or self.owner is not None or self.slots % self.codec.group:
            return self._logits_decoded(q)
        q = self._planes(q.float())
        # Steps and minima move to the query's side: one small product a group instead of D*group of them.
        scaled = q.unsqueeze(1) * self._planes(self.step.float()).unsqueeze(2)
        bias = self._planes(self.lo.float()) @ q.mT
        group, out = self.codec.group, []
        for start in range(0, self.slots, tile := self._tile()):
            codes = unpack_planes(self.codes[:, start : start + tile], self.codec.bits)
            codes = codes.view(self.runs, -1, group, self.dim)
            first = start // group
            part = scaled[:, first : first + codes.shape[1]] @ codes.mT
            part = part + bias[:, first : first + codes.shape[1]].unsqueeze(-1)
            out.append(part.transpose(1, 2).flatten(2))
        return torch.cat(out, 2) if len(out) > 1 else out[0]

    def _logits_decoded(self, q: Tensor) -> Tensor:
        if self.codec.axis == "channel":
            return q.float() @ self.decode().float().mT
        groups = self.step.shape[-1]
        parts = q.float().unflatten(-1, (groups, -1)).transpose(1, 2)  # (R, Y, m, G)
        codes = self._token_groups(0, self.slots)
        each = (self._planes_of_groups(parts) @ codes.mT) * self.step.float().mT.unsqueeze(2)
        return each.sum(1) + parts.sum(-1).mT @ self.lo.float().mT

    def _planes_of_groups(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, 8 // self.codec.bits)).mT.flatten(-2)

    def _token_groups(self, start: int, stop: int) -> Tensor:
        """fp32 codes (R, Y, n, G), each group's channels in plane order."""
        data = self.codes[:, start:stop].unflatten(-1, (self.step.shape[-1], -1)).transpose(1, 2)
        return unpack_planes(data, self.codec.bits).flatten(-2)

    def mix(self, weights: Tensor) -> Tensor:
        if self.codec.axis == "channel":
            return weights @ self.decode().float()
        groups, per_byte = self.step.shape[-1], 8 // self.codec.bits
        out = torch.zeros(1, dtype=torch.float32, device=weights.device)
        step = self.step.float().mT.unsqueeze(2)  # (R, Y, 1, n)
        for start in range(0, self.slots, tile := self._tile()):
            stop = min(start + tile, self.slots)
            scaled = weights[:, None, :, start:stop] * step[..., start:stop]
            out = out + scaled @ self._token_groups(start, stop)
        out = out.unflatten(-1, (per_byte, -1)).mT.flatten(-2)  # (R, Y, m, G), channels in order
        floor = (weights @ self.lo.float()).mT.unsqueeze(-1)  # (R, Y, m, 1)
        return (out + floor).transpose(1, 2).reshape(self.runs, -1, groups * out.shape[-1])

    def take(self, run: Tensor, index: Tensor) -> AffinePacked:
        run = run.unsqueeze(-1)
        codes = self.codes[run, index]
        if self.codec.axis == "token":
            return self._like(codes, self.step[run, index], self.lo[run, index], None)
        new, source = renumber(self._owners()[run, index].long())
        return self._like(codes, self.step[run, source], self.lo[run, source], new.to(torch.int32))

    def _like(self, codes: Tensor, step: Tensor, lo: Tensor, owner: Tensor | None) -> AffinePacked:
        return AffinePacked(self.codec, codes, step, lo, owner, self.dtype, self.dim)

    def cat(self, others: Sequence[Packed]) -> AffinePacked:
        parts = [self, *(o for o in others if isinstance(o, AffinePacked))]
        codes, step, lo = (torch.cat([getattr(p, name) for p in parts], 1) for name in ("codes", "step", "lo"))
        whole = all(p.owner is None and p.slots % p.codec.block == 0 for p in parts[:-1])
        whole = whole and all(p.codec == self.codec for p in parts)
        if self.codec.axis == "token" or (whole and parts[-1].owner is None):
            return self._like(codes, step, lo, None)
        owners, base = [], 0
        for part in parts:
            owners.append(part._owners() + base)
            base += part.step.shape[1]
        return self._like(codes, step, lo, torch.cat(owners, 1))

    def tensors(self) -> dict[str, tuple[str, Tensor]]:
        out = {"codes": ("codes", self.codes), "step": ("scales", self.step), "lo": ("scales", self.lo)}
        if self.owner is not None:
            out["owner"] = ("indices", self.owner)
        return out


@dataclass(frozen=True)
class OutlierChannels:
    """Keys differ more between channels than within one, so that groups along a channel have the smaller ranges.

    The error of a group of codes grows with the square of its range, so the figure is how many times larger the
    squared error of groups along tokens would be.
    """

    group: int
    method = "kivi"
    says = "key channels differ in size more than tokens do"
    measures = "squared ranges by token over those by channel"
    bound = 1.0

    def sample(self, block: Block, seen: Evidence) -> Tensor:
        """(2,) mean squared range of groups by token and by channel, of tokens in a row."""
        slots = min(self.group, int(block.valid[0, 0].sum()))
        x = block.k[0][:, run_of(block, slots)].float()  # (H, n, D)
        width = min(self.group, x.shape[-1])
        parts = x[..., : x.shape[-1] // width * width].unflatten(-1, (-1, width))
        by_token, by_channel = parts.amax(-1) - parts.amin(-1), x.amax(1) - x.amin(1)
        return torch.stack([by_token.square().mean(), by_channel.square().mean()])

    def figure(self, samples: Sequence[Tensor]) -> float:
        by_token, by_channel = torch.stack(list(samples)).double().unbind(1)
        return float((by_token / by_channel.clamp(min=torch.finfo(torch.float64).tiny)).mean())
