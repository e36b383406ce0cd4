"""KeyDiff against the average of all pairwise similarities, which its anchor stands for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvpress.policies.keydiff import KeyDifference
from kvpress.storage.block import Block
from tests.policies.scoring import assert_order_in_memory_is_nothing, compare, padded


def by_hand(k: Tensor, v: Tensor) -> list[float]:
    unit = [key / key.square().sum().sqrt() for key in k]
    anchor = sum(unit) / len(unit)
    return [-float((u * anchor).sum() / anchor.square().sum().sqrt()) for u in unit]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_formula(dtype: torch.dtype) -> None:
    compare(KeyDifference(), by_hand, *padded(dtype=dtype), 1e-3)
    assert_order_in_memory_is_nothing(KeyDifference())


def test_the_order_is_that_of_the_mean_similarity_to_all_keys() -> None:
    block, seen = padded((41,), heads=2)
    scores = KeyDifference()(block, seen)[0]
    for head in range(2):
        unit = torch.nn.functional.normalize(block.k[0, head].double(), dim=-1)
        similarity = (unit @ unit.T).mean(1)
        assert scores[head].argsort().tolist() == similarity.argsort(descending=True).tolist()


def test_the_length_of_a_key_does_not_matter() -> None:
    block, seen = padded()
    factor = torch.rand(*block.pos.shape, 1, generator=torch.Generator().manual_seed(1)) * 9 + 0.1
    scaled = Block(block.k * factor, block.v, block.pos)
    gap = (KeyDifference()(scaled, seen) - KeyDifference()(block, seen))[block.valid]
    assert gap.abs().max() < 1e-6


def test_the_odd_one_out_scores_best_and_a_zero_key_is_harmless() -> None:
    k = torch.ones(1, 1, 9, 4) + 0.01 * torch.randn(1, 1, 9, 4, generator=torch.Generator().manual_seed(2))
    k[0, 0, 5], k[0, 0, 7] = -1.0, 0.0
    pos = torch.arange(9, dtype=torch.int32).view(1, 1, 9)
    scores = KeyDifference()(Block(k, k, pos), padded((9,), 1, 4)[1])
    assert int(scores.argmax()) == 5 and scores[0, 0, 5] > 0.99 and scores[0, 0, 7] == 0
