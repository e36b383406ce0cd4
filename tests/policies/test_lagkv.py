"""LagKV against partitions cut and compared one token at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kvpress import Press, lagkv
from kvpress.policies.lagkv import LagRelative
from kvpress.storage.block import Block
from tests.helpers import kept
from tests.models import left_padded, shared, tokens
from tests.policies.scoring import assert_order_in_memory_is_nothing, compare, padded


def weights(part: Tensor, reference: Tensor) -> list[float]:
    low, high = reference.amin(0), reference.amax(0)
    spread = []
    for token in part:
        scaled = ((token - low) / (high - low)).tolist()
        mean = sum(scaled) / len(scaled)
        spread.append(math.sqrt(sum((x - mean) ** 2 for x in scaled) / (len(scaled) - 1)))
    total = sum(math.exp(s) for s in spread)
    return [math.exp(s) / total for s in spread]


def by_hand(k: Tensor, v: Tensor, lag: int, sinks: int, cross: bool) -> list[float]:
    n = len(k)
    out = [1.0 if i < sinks else 1 + i / n for i in range(n)]
    for start in range(sinks, n - 2 * lag + 1, lag):
        middle, stop = start + lag, start + 2 * lag
        pairs = zip(weights(k[start:middle], k[middle:stop]), weights(v[start:middle], v[middle:stop]), strict=True)
        score = [(a + b) / 2 for a, b in pairs]
        for i, mine in enumerate(score):
            out[start + i] = mine if cross else sum(other < mine for other in score) / lag
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("lag", "sinks"), [(5, 2), (7, 0), (3, 4), (16, 4), (40, 1)])
@pytest.mark.parametrize("cross", [False, True])
def test_formula(cross: bool, lag: int, sinks: int, dtype: torch.dtype) -> None:
    scorer = LagRelative(lag, sinks, cross)
    compare(scorer, lambda k, v: by_hand(k, v, lag, sinks, cross), *padded(dtype=dtype), 1e-5)
    assert_order_in_memory_is_nothing(scorer)


def test_every_partition_gives_its_share_and_the_last_ones_stay() -> None:
    model, lengths = shared("llama"), (64, 47)
    ids, mask = left_padded([tokens(1, n)[0] for n in lengths])
    with lagkv(keep=0.5, sinks=4, lag=10)(model) as session:
        sets = kept(session.prefill(ids, mask))
    for rows in sets:
        for row, length in enumerate(lengths):
            pad, full = 64 - length, (length - 4) // 10
            for slots in rows[row]:
                own = {slot - pad for slot in slots}
                late = 4 + (full - 1) * 10
                assert len(own) == length // 2
                assert {0, 1, 2, 3, *range(late, length)} <= own
                shares = [sum(4 + p * 10 <= slot < 14 + p * 10 for slot in own) for p in range(full - 1)]
                assert max(shares) - min(shares) <= 1 and min(shares) > 0


def test_a_prompt_too_short_to_compare_is_a_sliding_window() -> None:
    with lagkv(keep=0.5, sinks=3, lag=20)(shared("llama")) as session:
        sets = kept(session.prefill(tokens(1, 42)))
    assert sets == [[[[0, 1, 2, *range(24, 42)]] * 2]] * 3


def test_gaps_left_by_an_earlier_eviction() -> None:
    """Partitions are those of the text: slots that are gone leave holes and move nothing."""
    block, seen = padded((37,), heads=2)
    there = torch.ones(37, dtype=torch.bool)
    there[[3, 9, 10, 11, 20]] = False
    pos, rank = (torch.where(there, x, -1) for x in (block.pos, seen.rank))
    scores = LagRelative(5, 2, cross=True)(
        Block(block.k, block.v, pos), type(seen)(1, seen.rule, rank)
    )  # holes at 3 (partition 0), 9-11 (1) and 20 (3)
    untouched = LagRelative(5, 2, cross=True)(block, seen)
    assert torch.equal(scores[..., 22:], untouched[..., 22:])
    assert not torch.equal(scores[..., 2:7], untouched[..., 2:7])
    own = [2, 4, 5, 6]
    wanted = [
        (a + b) / 2
        for a, b in zip(*(weights(x[0, 1, own].double(), x[0, 1, [7, 8]].double()) for x in (block.k, block.v)))
    ]
    assert (scores[0, 1, own].double() - torch.tensor(wanted)).abs().max() < 1e-5


def test_channels_without_range_are_finite() -> None:
    block, seen = padded((30,), heads=1)
    k = block.k.clone()
    k[..., 3] = 1.5
    scores = LagRelative(5, 2, cross=True)(Block(k, block.v, block.pos), seen)
    assert torch.isfinite(scores).all()


def test_variant() -> None:
    assert Press.parse("lagkv@authors").recipe.scorer == LagRelative(128, 16)
