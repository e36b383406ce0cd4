"""Dropped slots go into kept ones: by the formula, with their number as a bias, wherever the slots go afterwards."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kvpress import Press, PressCache
from kvpress.errors import PressConflictError
from kvpress.policies.absorb import Absorb
from kvpress.storage.block import Block
from kvpress.storage.columns import BIAS
from tests.helpers import decode, gap, rollout
from tests.models import left_padded, shared, tokens


def plain(k: Tensor, v: Tensor, keep: Tensor) -> dict[int, tuple[Tensor, Tensor, int]]:
    """One head, in fp64: kept slot -> mean key, mean value and number of its group."""
    groups = {int(i): [int(i)] for i in keep.nonzero().flatten()}
    unit = torch.nn.functional.normalize(k.double(), dim=-1)
    for slot in (~keep).nonzero().flatten().tolist():
        near = max(groups, key=lambda kept: float(unit[slot] @ unit[kept]))
        if float(unit[slot] @ unit[near]) >= 0:
            groups[near].append(slot)
    return {i: (k[g].double().mean(0), v[g].double().mean(0), len(g)) for i, g in groups.items()}


def test_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    k, v = torch.randn(2, 2, 2, 19, 8, generator=generator)
    keep = torch.rand(2, 2, 19, generator=generator) > 0.6
    block = Block(k, v, torch.arange(19, dtype=torch.int32).expand(2, 2, -1))
    for tile in (1, 1 << 20):
        monkeypatch.setattr("kvpress.policies.absorb._TILE", tile)
        got = Absorb()(block, keep, ~keep, torch.zeros(2, 2, 19))
        for row in range(2):
            for head in range(2):
                for slot, (key, value, count) in plain(k[row, head], v[row, head], keep[row, head]).items():
                    assert gap(got[0][row, head, slot], key) < 1e-5 and gap(got[1][row, head, slot], value) < 1e-5
                    assert abs(float(got[2][row, head, slot]) - math.log(count)) < 1e-6


def test_merging_twice_is_merging_once() -> None:
    """A slot that stands for some weighs as many when it is merged again."""
    k = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2]]).view(1, 1, 3, 2)
    block = Block(k, k, torch.arange(3, dtype=torch.int32).view(1, 1, 3))
    keep = torch.tensor([True, False, True]).view(1, 1, 3)
    first = Absorb()(block, keep, ~keep, torch.zeros(1, 1, 3))
    left = Block(first[0], first[1], block.pos)
    only = torch.tensor([True, False, False]).view(1, 1, 3)
    k2, _, bias = Absorb()(left, only, keep & ~only, first[2])
    assert gap(k2[0, 0, 0], k.mean(2)[0, 0]) < 1e-6 and abs(float(bias[0, 0, 0]) - math.log(3)) < 1e-6


@pytest.mark.parametrize("storage", ["", " | kivi(bits=8, group=4, residual=3)", " | every(tokens=3)"])
@pytest.mark.parametrize("scorer", ["knorm(keep=12, recent=2)", "h2o(keep=12)"])
def test_groups_add_up_and_rows_are_as_alone(scorer: str, storage: str) -> None:
    if scorer.startswith("h2o") and storage:
        scorer = 'h2o(keep=12, schedule="after_prefill")'
    model = shared("llama")
    ids, mask = left_padded([tokens(1, 41)[0], tokens(1, 29, 5)[0]])
    with Press.parse(f"absorb | {scorer}{storage}")(model) as session:
        together, cache = rollout(session, ids, tokens(2, 9, 1), mask)
        assert torch.isfinite(together).all()
        assert any(bool((layer.block().columns[BIAS] > 0).any()) for layer in cache.stores)
        for layer in cache.stores:  # nothing is counted twice or lost: groups add up to the tokens that were seen
            block = layer.block()
            number = (block.columns[BIAS].exp() * block.valid).sum(-1)
            assert bool((number <= layer.lengths()[:, None] + 1e-3).all())
        for number, row in enumerate((tokens(1, 41), tokens(1, 29, 5))):
            alone, _ = rollout(session, row, tokens(2, 9, 1)[number : number + 1])
            assert gap(together[number : number + 1], alone) < (2e-2 if "kivi" in storage else 3e-5)


def test_what_is_in_no_slot_is_in_no_group() -> None:
    generator = torch.Generator().manual_seed(3)
    k, v = torch.randn(2, 1, 2, 9, 8, generator=generator)
    k[:, :, 0], v[:, :, 1] = torch.nan, torch.inf  # padding may hold anything
    pos = torch.arange(9, dtype=torch.int32).expand(1, 2, -1).clone()
    pos[..., :2] = -1
    keep = (pos >= 0) & (pos % 3 == 2)
    got = Absorb()(Block(k, v, pos), keep, (pos >= 0) & ~keep, torch.zeros(1, 2, 9))
    assert all(bool(torch.isfinite(x[keep]).all()) for x in got)


def test_saved_and_forked(tmp_path: Path) -> None:
    model, follow = shared("llama"), tokens(1, 6, 1)
    with Press.parse("absorb | snapkv(keep=12, window=4)")(model) as session:
        cache = session.prefill(tokens(1, 40))
        cache.save(tmp_path / "cache", model)
        fork, loaded = cache.fork(), PressCache.load(tmp_path / "cache", model)
        wanted = decode(model, cache, follow)
        assert torch.equal(decode(model, fork, follow), wanted) and torch.equal(decode(model, loaded, follow), wanted)


def test_refused_with_layers_that_share() -> None:
    with pytest.raises(PressConflictError, match="dropped slots go into slots"):
        Press.parse("absorb | snapkv | minicache")
