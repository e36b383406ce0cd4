"""Columns travel with their slots: through every operation, whatever they are called."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kvpress import Press, PressCache
from kvpress.cache.layer import StoreLayer
from kvpress.recipe.recipe import Recipe
from kvpress.storage.columns import BIAS, POSITION, Column, Columns
from kvpress.storage.held import Held
from kvpress.storage.pair import Split
from kvpress.storage.segment import Segment
from kvpress.storage.tail import Tail
from tests.helpers import decode
from tests.models import left_padded, shared, tokens

MARK = Column("mark", "evidence", -7.0)
PRESSES = (
    "h2o(keep=0.5)",
    "tova(keep=20)",
    "snapkv(keep=0.7, window=4, every_prompt=true)",
    "ada | snapkv(keep=0.6, window=4) | kivi(bits=4, group=4, residual=4)",
    "knorm(keep=0.6) | think(window=4, recent=5)",
    "snapkv(keep=0.7, window=4) | minicache(start=0, block=4, retained=0.2) | kivi(bits=8, group=4, residual=4)",
)


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every recipe has a column more, as a stranger's method might ask for."""
    own = Recipe.columns.func
    columns = cached_property(lambda recipe: (*own(recipe), MARK))
    columns.__set_name__(Recipe, "columns")
    monkeypatch.setattr(Recipe, "columns", columns)


def mark(layer: StoreLayer) -> None:
    """Write the position of every slot that is new into the column."""
    values = layer.tail.used()[MARK]
    values.copy_(torch.where(values == MARK.fill, layer.tail.positions().float(), values))


def check(cache: PressCache) -> None:
    """Every slot carries its own position."""
    for layer in cache.stores:
        pos = layer.block().pos
        column = torch.cat([*(item.columns[MARK] for item in layer.held), layer.tail.used()[MARK]], 2)
        assert torch.equal(column[pos >= 0], pos[pos >= 0].float())


@pytest.mark.parametrize("text", PRESSES)
def test_a_column_of_a_stranger_follows_its_slots(text: str, marked: None, tmp_path: Path) -> None:
    model = shared("llama")
    ids, mask = left_padded([tokens(1, 41)[0], tokens(1, 29, 5)[0]])
    with Press.parse(text)(model) as session:
        cache = session.prefill(ids, mask, compress=False)
        for layer in cache.stores:
            mark(layer)
        session.compress(cache)
        check(cache)
        for step in range(12):
            decode(model, cache, tokens(2, 1, step), mask)
            mask = torch.cat([mask, mask.new_ones(2, 1)], 1)
            for layer in cache.stores:
                mark(layer)
            check(cache)
        check(cache.fork(torch.tensor([1, 1, 0])))
        cache.save(tmp_path / "cache.safetensors", model)
        check(PressCache.load(tmp_path / "cache.safetensors", model))
        assert cache.nbytes() == sum({e.data_ptr(): e.nbytes() for e in storages(cache)}.values())


def storages(cache: PressCache) -> list[torch.UntypedStorage]:
    return [tensor.untyped_storage() for *_, tensor in cache.tensors()]


def test_new_slots_are_filled_and_evicted_ones_written_over() -> None:
    k = torch.randn(2, 3, 5, 4)
    tail = Tail(k, k, 0, (MARK,))
    tail.append(k, k, 0, None)
    assert bool((tail.used()[MARK] == -7).all())
    tail.used()[MARK].copy_(torch.arange(5.0).expand(2, 3, -1))
    tail.drop_one(torch.full((2, 3), 2))
    tail.append(k[:, :, :1], k[:, :, :1], 5, None)
    assert tail.used()[MARK][0, 0].tolist() == [0, 1, -7, 3, 4]
    assert tail.positions()[0, 0].tolist() == [0, 1, 5, 3, 4]
    tail.append(k, k, 6, None)
    tail.trim(6)
    tail.append(k[:, :, :2], k[:, :, :2], 7, None)
    assert tail.used()[MARK][1, 2].tolist() == [0, 1, -7, 3, 4, -7, -7, -7]


def test_operations_treat_all_columns_alike() -> None:
    first = Columns({MARK: torch.arange(6.0).view(1, 2, 3), BIAS: torch.zeros(1, 2, 3)})
    second = first.map(lambda values: values + 10)
    index = torch.tensor([[[2, 0], [1, 1]]])
    assert first.take(index)[MARK].tolist() == [[[2, 0], [4, 4]]]
    assert first.join(second)[MARK].tolist() == [[[0, 1, 2, 10, 11, 12], [3, 4, 5, 13, 14, 15]]]
    assert list(first.only(frozen=True)) == [BIAS] and list(first.without(BIAS)) == [MARK]
    assert [entry[:3] for entry in first.tensors()] == [("mark", "-", "evidence"), ("bias", "-", "scales")]


def biased(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, pos: Tensor) -> Tensor:
    logits = (q.double() @ k.double().mT) * 0.3 + bias.double().unsqueeze(2)
    probs = torch.softmax(logits.masked_fill((pos < 0).unsqueeze(2), -torch.inf), -1)
    return probs.nan_to_num(0.0) @ v.double()  # a head may have no slot left


@pytest.mark.parametrize("queries", [1, 5, 70])
def test_a_bias_is_added_to_the_logits_of_frozen_slots(queries: int) -> None:
    generator = torch.Generator().manual_seed(1)
    k, v = torch.randn(2, 2, 2, 9, 8, generator=generator)
    bias = torch.rand(2, 2, 9, generator=generator) * 3
    pos = torch.arange(9, dtype=torch.int32).expand(2, 2, -1)
    counts = torch.tensor([[9, 4], [9, 6]])
    columns = Columns({BIAS: bias, POSITION: pos, MARK: pos.float()})
    order = torch.arange(9).expand(2, 2, -1)
    segment = Segment.encode(Split(), k, v, pos, order, counts, columns=columns)
    assert {column for slab in segment.slabs for column in slab.columns} == {BIAS}
    assert segment.parts is None  # no kernel adds a bias
    q = torch.randn(2, 2, queries, 8, generator=generator)
    held = torch.where(torch.arange(9) < counts.unsqueeze(-1), pos, -1)
    assert (segment.attend(q, 0.3).out - biased(q, k, v, bias, held)).abs().max() < 1e-5
    keep = torch.rand(2, 2, 9, generator=generator) > 0.4
    some = Held(segment).select(keep)
    assert some is not None
    left = torch.where(keep, held, -1)
    assert (some.segment.attend(q, 0.3).out - biased(q, k, v, bias, left)).abs().max() < 1e-5
    rows = torch.tensor([1, 0, 1])
    picked = segment.take_rows(rows).attend(q[rows], 0.3).out
    assert (picked - biased(q, k, v, bias, held)[rows]).abs().max() < 1e-5
    joined = segment.join(segment)
    assert joined is not None
    part = joined.attend(q, 0.3)
    assert (part.out - biased(q, k, v, bias, held)).abs().max() < 1e-5
    mass = joined.mass(q, part.lse, 0.3)
    assert torch.allclose(mass.sum(-1), torch.full((2, 2), float(queries)), rtol=1e-4)
