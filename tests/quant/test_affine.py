"""Affine codes: arithmetic in plain Python floats, attention on codes equal to attention on decoded values."""

from __future__ import annotations

import random as chance

import numpy as np
import pytest
import torch
from torch import Tensor

from kvpress.quant.affine import Affine, AffinePacked, pack, unpack_planes

BITS, AXES, DIMS = (2, 4, 8), ("channel", "token"), (16, 64, 80)
LENGTHS = (1, 7, 32, 65, 96)


def make(bits: int, axis: str, dim: int, n: int, runs: int = 3, group: int = 16) -> tuple[Tensor, AffinePacked]:
    generator = torch.Generator().manual_seed(dim + n)
    x = torch.randn(runs, n, dim, generator=generator) * torch.linspace(0.1, 4, dim) + torch.linspace(-3, 3, dim)
    return x, Affine(bits, axis, group).encode(x)  # type: ignore[arg-type]


def scalar(values: list[float], bits: int) -> tuple[list[int], list[float]]:
    """One group, by the formula of the digest: stored step and minimum are fp16, codes are made with those."""
    lo, hi, top = min(values), max(values), 2**bits - 1
    step = float(np.float16(np.float32(np.float32(hi) - np.float32(lo)) / np.float32(top)))
    low = float(np.float16(np.float32(lo)))
    codes = []
    for value in values:
        ratio = 0.0 if step == 0 else float((np.float32(value) - np.float32(low)) / np.float32(step))
        codes.append(max(0, min(top, round(ratio))))  # Python rounds half to even
    return codes, [code * step + low for code in codes]


def fields(data: Tensor, bits: int, dim: int) -> Tensor:
    """(..., bytes) -> (..., D) codes, one field after the other, lowest bits first."""
    count = 8 // bits
    out = [(data[..., d // count].int() >> (bits * (d % count))) & (2**bits - 1) for d in range(dim)]
    return torch.stack(out, -1)


@pytest.mark.parametrize("n", [1, 16, 23])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("bits", BITS)
def test_codes_and_values_of_the_formula(bits: int, axis: str, n: int) -> None:
    x, packed = make(bits, axis, 16, n, runs=2, group=8)
    codes, values = fields(packed.codes, bits, 16), packed.decode()
    for run in range(2):
        lines = range(n) if axis == "token" else range(16)
        length = 16 if axis == "token" else n
        for line in lines:
            for start in range(0, length, 8):
                at = [(line, i) if axis == "token" else (i, line) for i in range(start, min(start + 8, length))]
                wanted, back = scalar([float(x[run][p]) for p in at], bits)
                assert [int(codes[run][p]) for p in at] == wanted
                assert [float(values[run][p]) for p in at] == pytest.approx(back, abs=1e-5)


@pytest.mark.parametrize("bits", BITS)
def test_packing_round_trip_and_byte_order(bits: int) -> None:
    codes = torch.tensor([[chance.Random(bits).randrange(2**bits) for _ in range(80)]], dtype=torch.uint8)
    data = pack(codes, bits)
    assert data.shape == (1, 80 * bits // 8) and torch.equal(fields(data, bits, 80), codes.int())
    assert torch.equal(unpack_planes(data, bits).mT.flatten(-2), codes.float())


def test_two_bit_bytes_are_little_endian_fields() -> None:
    assert pack(torch.tensor([[3, 0, 1, 2]], dtype=torch.uint8), 2).tolist() == [[0b10_01_00_11]]


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("bits", BITS)
def test_attention_on_codes_is_attention_on_values(bits: int, axis: str, dim: int, n: int) -> None:
    x, packed = make(bits, axis, dim, n)
    generator = torch.Generator().manual_seed(1)
    q, w = torch.randn(3, 5, dim, generator=generator), torch.rand(3, 5, n, generator=generator)
    back = packed.decode()
    assert back.shape == x.shape
    taken = packed.take(torch.tensor([2, 0, 2]), torch.arange(0, n, 2).expand(3, -1))
    joined = packed.cat([packed, make(bits, axis, dim, 5)[1]])
    again = joined.take(torch.arange(3), torch.arange(1, joined.slots, 3).expand(3, -1)) if joined.slots > 1 else joined
    for each, rows in (
        (packed, back),
        (taken, back[[2, 0, 2], ::2]),
        (joined, torch.cat([back, back, make(bits, axis, dim, 5)[1].decode()], 1)),
        (again, joined.decode()[:, 1::3]),
    ):
        assert torch.equal(each.decode(), rows)  # the stored values themselves, never coded anew
        weights = w[..., : each.slots] if each.slots <= n else torch.rand(3, 5, each.slots, generator=generator)
        scale = float(rows.abs().max()) * dim
        assert (each.logits(q) - q @ rows.mT).abs().max() < 2e-6 * scale
        assert (each.mix(weights) - weights @ rows).abs().max() < 2e-6 * scale * each.slots


@pytest.mark.parametrize("n", [1, 31, 32, 33, 1000])
@pytest.mark.parametrize("dim", [16, 64, 80, 96, 128, 256])
@pytest.mark.parametrize(("bits", "axis"), [(2, "channel"), (4, "token"), (8, "channel")])
def test_bytes_are_the_formula(bits: int, axis: str, dim: int, n: int) -> None:
    group = 16
    packed = Affine(bits, axis, group).encode(torch.randn(2, n, dim))  # type: ignore[arg-type]
    total = sum(t.untyped_storage().nbytes() for _, t in packed.tensors().values())
    groups = dim * -(-n // group) if axis == "channel" else n * -(-dim // group)
    assert total == 2 * (n * dim * bits // 8 + 4 * groups)
    nothing = packed.take(torch.arange(0), torch.zeros(0, n, dtype=torch.long))
    assert sum(t.untyped_storage().nbytes() for _, t in nothing.tensors().values()) == 0


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    "kind", ["zero", "constant", "constant channel", "constant token", "huge", "tiny", "one outlier"]
)
def test_hostile_values_stay_finite_and_close(bits: int, axis: str, kind: str) -> None:
    x = torch.randn(2, 37, 16)
    if kind == "zero":
        x = torch.zeros_like(x)
    elif kind == "constant":
        x = torch.full_like(x, -2.5)
    elif kind == "constant channel":
        x[..., 3] = 1.25
    elif kind == "constant token":
        x[:, 5] = -0.75
    elif kind == "huge":
        x = x.sign() * 60_000
    elif kind == "tiny":
        x = x * 1e-9
    else:
        x[0, 5, 2] = 1e6  # beyond fp16
    packed = Affine(bits, axis, 8).encode(x)  # type: ignore[arg-type]
    back = packed.decode()
    assert torch.isfinite(back).all()
    assert torch.isfinite(packed.logits(torch.ones(2, 1, 16))).all() and torch.isfinite(packed.step).all()
    if kind in ("zero", "constant"):
        assert torch.equal(back, x)
    if kind == "constant channel" and axis == "channel":
        assert torch.equal(back[..., 3], x[..., 3])
    if kind == "constant token" and axis == "token":
        assert torch.equal(back[:, 5], x[:, 5])
    if kind == "huge":
        assert (back - x).abs().max() <= 60_000 * 2 / (2**bits - 1) / 2 + 64


@pytest.mark.parametrize("axis", AXES)
def test_error_is_at_most_half_a_step(axis: str) -> None:
    for bits in BITS:
        x, packed = make(bits, axis, 64, 96)
        dim = 1 if axis == "channel" else 2
        groups = x.unflatten(dim, (-1, 16))
        reach = (groups.amax(dim + 1) - groups.amin(dim + 1)).repeat_interleave(16, dim)
        half = reach / (2**bits - 1) / 2
        error = (packed.decode() - x).abs()
        assert (error <= half * 1.01 + 2e-3 * 4).all() and error.max() > 0


def test_half_precision_inputs_come_back_in_their_type() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.randn(2, 33, 16).to(dtype)
        packed = Affine(4, "token", 16).encode(x)
        assert packed.decode().dtype == dtype and packed.logits(x[:, :1]).dtype == torch.float32


def test_taken_slots_pay_only_for_their_own_groups() -> None:
    _, packed = make(2, "channel", 64, 96)
    index = torch.tensor([0, 1, 5, 40, 41, 95]).expand(3, -1)  # groups 0, 2 and 5 of 16 slots
    taken = packed.take(torch.arange(3), index)
    assert taken.step.shape == taken.lo.shape == (3, 3, 64)
    assert taken.owner is not None and taken.owner[0].tolist() == [0, 0, 0, 1, 1, 2]
    assert torch.equal(taken.take(torch.arange(3), index[:, :4] * 0 + torch.arange(4)).decode(), taken.decode()[:, :4])
