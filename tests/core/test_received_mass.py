"""Attention mass without the n x n matrix equals the column sums of the matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvpress import Press
from kvpress.evidence import evidence
from kvpress.evidence.evidence import Evidence, Rule, received_mass
from kvpress.recipe.recipe import Recipe
from kvpress.storage.block import Block
from kvpress.storage.columns import MASS
from tests.helpers import dense_attention, rollout
from tests.models import build, left_padded, shared, tokens


def columns(q: Tensor, k: Tensor, rule: Rule, start: int, valid: Tensor | None) -> Tensor:
    """Dense softmax, summed over queries and over the query heads of each KV head; fp64."""
    batch, heads, total, _ = k.shape
    m = q.shape[2]
    at = torch.arange(start, start + m)
    see = torch.arange(total) <= at[:, None]
    real = torch.ones(batch, total, dtype=torch.bool) if valid is None else valid
    see = (see & real[:, None]).unsqueeze(1).expand(batch, heads, m, total)
    _, probs = dense_attention(q, k, k, see, rule.scale, rule.cap, rule.sink)
    probs = probs * real[:, None, start : start + m, None]
    return probs.view(batch, heads, -1, m, total).sum((2, 3))


@pytest.mark.parametrize("tile", [1 << 9, 16 << 20], ids=["small tiles", "one tile"])
@pytest.mark.parametrize("group", [1, 4], ids=["mha", "gqa"])
@pytest.mark.parametrize("sink", [False, True], ids=["plain", "sink"])
@pytest.mark.parametrize("cap", [None, 3.0], ids=["no cap", "cap"])
@pytest.mark.parametrize("padded", [False, True], ids=["even", "padded"])
@pytest.mark.parametrize("start", [0, 6])
def test_equals_dense_columns(
    start: int, padded: bool, cap: float | None, sink: bool, group: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "_TILE_BYTES", tile)
    generator = torch.Generator().manual_seed(3)
    q = 2 * torch.randn(2, 3 * group, 31, 16, generator=generator)
    k = torch.randn(2, 3, start + 31, 16, generator=generator)
    valid = None
    if padded:
        valid = torch.ones(2, start + 31, dtype=torch.bool)
        valid[1, :9] = False
    rule = Rule(0.5, cap, torch.randn(3 * group, generator=generator) if sink else None)
    got = received_mass(q, k, rule, start, valid)
    assert (got - columns(q, k, rule, start, valid)).abs().max() < 2e-5
    if not sink and start == 0:  # every real query hands out exactly one
        real = 62 if valid is None else int(valid.sum())
        assert abs(float(got.sum()) - real * 3 * group) < 1e-3


def test_window_probabilities_equal_dense_rows() -> None:
    generator = torch.Generator().manual_seed(4)
    q = torch.randn(2, 4, 5, 16, generator=generator)
    k = torch.randn(2, 2, 23, 16, generator=generator)
    order = torch.randperm(23, generator=generator)  # slots need not be sorted by position
    pos = torch.arange(23, dtype=torch.int32)[order].expand(2, 2, -1).clone()
    pos[1, :, :3] = -1
    at = torch.tensor([[18, 19, 20, 21, 22], [-1, -1, 20, 21, 22]], dtype=torch.int32)
    rule = Rule(0.4, 4.0, torch.randn(4, generator=generator))
    got = Evidence(0, rule, pos, q, at).window(Block(k, k, pos), 5)
    see = (pos >= 0)[:, :, None] & (pos[:, :, None] <= at[:, None, :, None])
    _, probs = dense_attention(q, k, k, see, rule.scale, rule.cap, rule.sink)
    wanted = probs.view(2, 2, 2, 5, 23) * (at >= 0)[:, None, None, :, None]
    assert (got - wanted).abs().max() < 1e-6
    last = Evidence(0, rule, pos, q, at).window(Block(k, k, pos), 2)
    assert (last - got[:, :, :, 3:]).abs().max() < 1e-6


@pytest.mark.parametrize("chunk", [None, 1, 7])
@pytest.mark.parametrize("padded", [False, True], ids=["even", "padded"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss", "gpt_neox"])
def test_mass_of_a_model_equals_its_attention_weights(family: str, padded: bool, chunk: int | None) -> None:
    """Prompt, however it is cut, and decoded tokens, against output_attentions of the eager model."""
    model, mask = shared(family), None
    ids, follow = tokens(2, 19), tokens(2, 4, 1)
    if padded:
        ids, mask = left_padded([ids[0], ids[1, :12]])
    with Press.parse("h2o(keep=300)")(model) as session:
        cache = rollout(session, ids, follow, mask, chunk)[1]
    whole = torch.cat([ids, follow], 1)
    seen = torch.ones_like(whole) if mask is None else torch.cat([mask, torch.ones_like(follow)], 1)
    eager = shared(family, "eager")
    at = (seen.cumsum(1) - 1).clamp(min=0)
    weights = eager(whole, attention_mask=seen, position_ids=at, output_attentions=True).attentions
    for layer in cache.stores:
        probs = weights[layer.index].double() * seen[:, None, :, None]  # queries of padding count for nothing
        wanted = probs.view(2, layer.tail.k.shape[1], -1, 23, 23).sum((2, 3))
        got = layer.tail.used()[MASS]
        assert (got - wanted)[seen.bool()[:, None].expand_as(got)].abs().max() < 1e-4


def test_mass_reaches_packed_slots_too() -> None:
    """What slots of a segment received is counted like that of the tail: every decoded query hands out one a head."""
    model = build("llama", num_hidden_layers=1)
    with Press.parse("h2o(keep=200) | kivi(bits=8, group=4, residual=5)")(model) as session:
        cache = session.prefill(tokens(2, 40))
        layer = cache.stores[0]
        assert layer.held

        def total() -> Tensor:
            parts = [layer.tail.used()[MASS], *(item.columns[MASS] for item in layer.held)]
            return torch.stack([part.sum((1, 2)) for part in parts]).sum(0)

        before = total()
        for step in range(9):
            model(tokens(2, 1, step), past_key_values=cache)
        assert (total() - before - 9 * 4).abs().max() < 1e-3


def test_scorers_that_do_not_declare_what_they_read_are_told() -> None:
    from kvpress.errors import KVPressError

    pos = torch.zeros(1, 1, 1, dtype=torch.int32)
    block = Block(torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4), pos)
    seen = Evidence(0, Rule(1.0), pos)
    with pytest.raises(KVPressError, match="Needs\\(mass=True\\)"):
        seen.mass()
    with pytest.raises(KVPressError, match="Needs\\(window"):
        seen.window(block, 1)
    assert Recipe().needs.window == 0 and not Recipe().needs.mass
