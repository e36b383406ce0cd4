"""Partial attention and its merge against textbook attention, whatever the path that computes it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from kvpress.attention.partial import Partial, attend, attend_reference, fold_queries, merge, unfold_partial
from kvpress.storage.tail import Tail
from tests.helpers import dense_attention

SHAPES = [(1, 1, 1, 1, 16), (2, 3, 5, 7, 16), (1, 2, 33, 65, 80), (3, 1, 1, 129, 64), (2, 2, 9, 9, 24)]


def tensors(shape: tuple[int, int, int, int, int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q (B, H, m, D), k and v (B, H, n, D), and a mask (B, H, m, n) with an empty row in it."""
    batch, heads, m, n, dim = shape
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, heads, m, dim, generator=generator)
    k, v = torch.randn(2, batch, heads, n, dim, generator=generator)
    mask = torch.rand(batch, heads, m, n, generator=generator) < 0.7
    mask[0, 0, 0] = False
    return q, k, v, mask


def lse_of(q: Tensor, k: Tensor, mask: Tensor, scale: float, cap: float | None) -> Tensor:
    logits = q.double() @ k.double().mT * scale
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    return logits.masked_fill(~mask, -torch.inf).logsumexp(-1)


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("function", [attend, attend_reference])
def test_out_and_lse(function: object, shape: tuple[int, int, int, int, int], masked: bool, cap: float | None) -> None:
    q, k, v, mask = tensors(shape)
    mask = mask if masked else torch.ones_like(mask)
    part = function(q, k, v, 0.3, mask if masked else None, cap)  # type: ignore[operator]
    wanted, _ = dense_attention(q, k, v, mask, 0.3, cap)
    assert (part.out - wanted).abs().max() < 1e-5
    lse = lse_of(q, k, mask, 0.3, cap)
    assert torch.equal(part.lse == -torch.inf, lse == -torch.inf)
    there = lse > -torch.inf
    assert (part.lse[there] - lse[there]).abs().max() < 1e-5 if there.any() else True


@pytest.mark.parametrize("sink", [False, True], ids=["plain", "sink"])
@pytest.mark.parametrize("pieces", [1, 2, 3, 5])
def test_merge_of_pieces_is_the_whole(pieces: int, sink: bool) -> None:
    q, k, v, mask = tensors((2, 3, 4, 41, 16))
    mask[1, 2, 3, :20] = False  # some pieces are empty for this query
    logit = torch.tensor([0.3, -1.0, 2.0]) if sink else None
    cuts = [41 * piece // pieces for piece in range(pieces + 1)]
    parts = [attend(q, k[:, :, a:b], v[:, :, a:b], 0.4, mask[..., a:b]) for a, b in pairwise(cuts)]
    got = merge(parts, None if logit is None else logit.view(1, 3, 1))
    wanted, _ = dense_attention(q, k, v, mask, 0.4, None, logit)
    assert (got.out - wanted).abs().max() < 1e-5
    assert not got.out.isnan().any()


def test_merge_of_nothing_is_nothing() -> None:
    q, k, v, _ = tensors((1, 2, 3, 5, 16))
    empty = attend(q, k[:, :, :0], v[:, :, :0], 1.0)
    assert torch.equal(merge([empty, empty]).out, torch.zeros(1, 2, 3, 16))
    assert (merge([empty, empty, empty]).lse == -torch.inf).all()
    whole = attend(q, k, v, 1.0)
    for parts in ([empty, whole], [whole, empty], [empty, whole, empty]):
        assert (merge(parts).out - whole.out).abs().max() < 1e-6


def test_large_logits_do_not_overflow() -> None:
    q, k, v, _ = tensors((1, 2, 3, 11, 16))
    q = q * 200
    parts = [attend(q, k[:, :, a:b], v[:, :, a:b], 1.0) for a, b in ((0, 4), (4, 11))]
    got, whole = merge(parts), attend(q, k, v, 1.0)
    assert torch.isfinite(got.out).all() and (got.out - whole.out).abs().max() < 1e-3


def test_folding_queries_and_back() -> None:
    q = torch.randn(2, 6, 5, 4)
    folded = fold_queries(q, 2)
    assert folded.shape == (2, 2, 15, 4)
    assert torch.equal(folded[1, 1, 5:10], q[1, 4])  # head 4 is the second query head of KV head 1
    assert torch.equal(unfold_partial(Partial(folded, folded[..., 0]), 6).out, q)


@pytest.mark.parametrize("state", ["plain", "padded", "ragged"])
@pytest.mark.parametrize("new", [1, 4, 13])
@pytest.mark.parametrize("old", [0, 1, 70])
def test_tail_is_causal(old: int, new: int, state: str) -> None:
    generator = torch.Generator().manual_seed(old + new)
    k, v = torch.randn(2, 2, 2, old + new, 16, generator=generator)
    q = torch.randn(2, 6, new, 16, generator=generator)
    valid = torch.ones(2, old + new, dtype=torch.bool)
    if state != "plain" and old > 1:
        valid[1, :5] = False
    tail = Tail(k, v, 0)
    for start, stop in ((0, old), (old, old + new)):
        if stop > start:
            tail.append(
                k[:, :, start:stop], v[:, :, start:stop], start, None if state == "plain" else valid[:, start:stop]
            )
        if start == 0 and state == "ragged":
            tail.explicit()
    at = torch.arange(old + new)
    see = (at <= at[old:, None]) & valid[:, None, None]
    wanted, _ = dense_attention(q, k, v, see.expand(2, 2, -1, -1), 0.25)
    got = unfold_partial(tail.attend(q, 0.25, None), 6).out
    assert (got - wanted).abs().max() < 1e-5


def test_tail_that_ends_before_the_next_token_keeps_true_positions() -> None:
    """Slots 1..3 survive of a prompt of 9 tokens; the next token is number 9, not 4."""
    k = torch.randn(1, 2, 3, 16)
    tail = Tail(k, k, 0)
    tail.append(torch.randn(1, 2, 9, 16), torch.randn(1, 2, 9, 16), 0, None)
    left = torch.tensor([1, 2, 3]).expand(1, 2, -1)
    tail.keep(left, left.int())
    assert tail.pos is None  # still a range
    tail.append(k[:, :, :2], k[:, :, :2], 9, None)
    assert tail.positions()[0].tolist() == [[1, 2, 3, 9, 10]] * 2
    empty = Tail(k, k, 0)
    empty.keep(left[..., :0], left[..., :0].int())
    empty.append(k, k, 7, None)
    assert empty.positions()[0].tolist() == [[7, 8, 9]] * 2
