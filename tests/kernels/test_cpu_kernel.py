"""The compiled CPU kernel gives what the torch reference gives, for every format, shape and mask it accepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from kvpress.attention import backends as kernels
from kvpress.attention.backends import Part, build
from kvpress.attention.partial import Partial, attend_reference
from kvpress.quant.affine import Affine
from kvpress.storage.codec import Dense, Packed

pytestmark = pytest.mark.skipif(build.load().library is None, reason=f"no kernel: {build.load().detail}")

SLOTS = (1, 31, 33, 100, 1000)


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


class Stored(NamedTuple):
    """A Part, and what it was made of."""

    key: Packed | Tensor
    value: Packed | Tensor
    slots: int
    runs: Tensor | None = None
    pos: Tensor | None = None
    valid: Tensor | None = None

    def part(self) -> Part:
        key, value = (x if isinstance(x, Tensor) else x.layout() for x in self[:2])  # type: ignore[attr-defined]
        return Part(key, value, *self[2:])


def attend(stored: Sequence[Stored], q: Tensor, scale: float, cap: float | None) -> Partial | None:
    return kernels.attend([one.part() for one in stored], q, scale, cap)


def decoded(x: Packed | Tensor) -> Tensor:
    return x.float() if isinstance(x, Tensor) else x.decode().float()


def expected(part: Stored, q: Tensor, cap: float | None = None, mask: Tensor | None = None) -> Partial:
    k, v = decoded(part.key)[:, : part.slots], decoded(part.value)[:, : part.slots]
    if mask is not None:
        mask = mask[None, :, None, : part.slots]
    out = attend_reference(q[None].float(), k[None], v[None], 0.125, mask, cap)
    return Partial(out.out[0], out.lse[0])


def check(got: Partial | None, want: Partial) -> None:
    assert got is not None, "the kernel declined"
    torch.testing.assert_close(got.out, want.out, rtol=0, atol=1e-5)
    torch.testing.assert_close(got.lse, want.lse, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("dim", [16, 64, 80, 128])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packed(slots: int, dim: int, bits: int) -> None:
    k, v = rows(3, slots, dim), rows(3, slots, dim, seed=1)
    group = 16 if dim % 32 else 32
    for axis in ("channel", "token"):
        part = Stored(Affine(bits, axis, group).encode(k), Affine(bits, "token", group).encode(v), slots)
        for m in (1, 2, 8):
            q = rows(3, m, dim, seed=2) * 3
            check(attend([part], q, 0.125, None), expected(part, q))


@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("dim", [8, 64, 80])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dense(slots: int, dim: int, dtype: torch.dtype) -> None:
    k, v = rows(2, slots + 5, dim).to(dtype), rows(2, slots + 5, dim, seed=1).to(dtype)
    for m in (1, 3, 64):
        q = rows(2, m, dim, seed=2)
        check(attend([Stored(k, v, slots)], q, 0.125, None), expected(Stored(k, v, slots), q))


@pytest.mark.parametrize("cap", [None, 2.0])
def test_slots_taken_out_of_groups_and_mixed_formats(cap: float | None) -> None:
    k, v, q = rows(4, 200, 64), rows(4, 200, 64, seed=1), rows(4, 2, 64, seed=2)
    index = torch.rand(4, 200).argsort(1)[:, :77].sort(1).values
    run = torch.arange(4)
    key, value = Affine(2, "channel").encode(k).take(run, index), Dense().encode(v).take(run, index)
    part = Stored(key, value, 77)
    check(attend([part], q, 0.125, cap), expected(part, q, cap))
    part = Stored(Dense().encode(k), Affine(4, "channel").encode(v), 200)
    check(attend([part], q, 0.125, cap), expected(part, q, cap))


def test_union_of_ragged_parts_and_a_masked_tail() -> None:
    """Two segments over some of the runs each and a padded tail equal one attention over everything they hold."""
    q, tail_k, tail_v = rows(2, 2, 3, 64), rows(2, 2, 40, 64, seed=4), rows(2, 2, 40, 64, seed=5)
    one, two = torch.tensor([2]), torch.tensor([0, 1, 3])
    parts = [
        Stored(Affine(4, "channel").encode(rows(1, 65, 64)), Dense().encode(rows(1, 65, 64, seed=1)), 65, one),
        Stored(Dense().encode(rows(3, 9, 64, seed=2)), Affine(8, "token").encode(rows(3, 9, 64, seed=3)), 9, two),
    ]
    pos = torch.arange(40, dtype=torch.int32).repeat(2, 2, 1)
    pos[0, 1, ::3] = -1
    valid = torch.rand(2, 40, generator=torch.Generator().manual_seed(1)) > 0.5
    for tail in (Stored(tail_k, tail_v, 37, None, pos), Stored(tail_k, tail_v, 37, None, None, valid)):
        got = attend([*parts, tail], q, 0.125, None)
        assert got is not None and got.out.shape == (2, 2, 3, 64) and got.lse.shape == (2, 2, 3)
        live = pos >= 0 if tail.pos is not None else valid[:, None].expand(2, 2, 40)
        for run in range(4):
            part, at = (parts[0], 0) if run == 2 else (parts[1], [0, 1, 3].index(run))
            b, h = divmod(run, 2)
            keep = live[b, h, :37]
            k = torch.cat([decoded(part.key)[at], tail_k[b, h, :37][keep]])
            v = torch.cat([decoded(part.value)[at], tail_v[b, h, :37][keep]])
            want = attend_reference(q[b, h][None, None], k[None, None], v[None, None], 0.125)
            check(Partial(got.out[b, h], got.lse[b, h]), Partial(want.out[0, 0], want.lse[0, 0]))


def test_nothing_to_attend_to_gives_zero_and_minus_infinity() -> None:
    pos = torch.full((1, 2, 5), -1, dtype=torch.int32)
    for part in (Stored(rows(2, 5, 8), rows(2, 5, 8), 5, pos=pos), Stored(rows(2, 5, 8), rows(2, 5, 8), 0)):
        got = attend([part], rows(2, 1, 8), 0.125, None)
        assert got is not None and not got.out.any() and bool((got.lse == -torch.inf).all())


def test_extreme_logits() -> None:
    k, v, q = rows(2, 300, 64), rows(2, 300, 64, seed=1), rows(2, 2, 64, seed=2) * 100
    check(attend([Stored(k, v, 300)], q, 0.125, None), expected(Stored(k, v, 300), q))


def test_threads_change_nothing() -> None:
    k, v, q = rows(3, 5000, 64), rows(3, 5000, 64, seed=1), rows(3, 2, 64, seed=2)
    part = Stored(Affine(4, "channel").encode(k), Affine(4, "token").encode(v), 5000)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            got = attend([part], q, 0.125, None)
            again = attend([part], q, 0.125, None)
            check(got, expected(part, q))
            assert got is not None and again is not None and torch.equal(got.out, again.out)
    finally:
        torch.set_num_threads(before)


def test_what_it_declines() -> None:
    k, q = rows(2, 5, 8), rows(2, 1, 8)
    assert attend([Stored(k, k, 5)], rows(2, 65, 8), 1.0, None) is None, "many rows are matrix products"
    assert attend([Stored(k.half(), k.half(), 5)], q, 1.0, None) is None
    assert attend([Stored(rows(2, 5, 12), rows(2, 5, 12), 5)], rows(2, 1, 12), 1.0, None) is None
    assert attend([Stored(k, k, 5)], q.requires_grad_(), 1.0, None) is None
    assert attend([Stored(k.to("meta"), k.to("meta"), 5)], rows(2, 1, 8).to("meta"), 1.0, None) is None
