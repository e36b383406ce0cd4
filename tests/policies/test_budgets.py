"""Budgets over layers and heads: exact sums within bounds, and each method's own figures."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kvpress import Press, ada, pyramid, snapkv, zigzag
from kvpress.block import Block
from kvpress.errors import PressConflictError, PressSyntaxError
from kvpress.evidence import Evidence, Rule
from kvpress.policies.ada import AdaptiveHeads
from kvpress.policies.apportion import apportion
from kvpress.policies.pyramid import Pyramid
from kvpress.policies.zigzag import Uncertainty
from tests.helpers import decode, kept
from tests.models import left_padded, shared, tokens


@pytest.mark.parametrize("seed", range(40))
def test_apportion_is_exact_within_bounds_and_in_proportion(seed: int) -> None:
    rng = random.Random(seed)
    n = rng.randint(1, 9)
    weights = [rng.choice([0.0, rng.random(), 50 * rng.random()]) for _ in range(n)]
    least = [rng.randint(0, 5) for _ in range(n)]
    most = [low + rng.randint(0, 60) for low in least]
    total = rng.randint(0, 250)
    out = apportion(*(torch.tensor([x]) for x in (weights, total, least, most)))[0].tolist()
    assert sum(out) == min(max(total, sum(least)), sum(most))
    assert all(low <= x <= high for low, x, high in zip(least, out, most, strict=True))
    free = [i for i in range(n) if least[i] < out[i] < most[i] and weights[i] > 0]
    for i in free:  # shares that no bound touches stand in the proportion of their weights, but for rounding
        for j in free:
            assert out[i] + 1 >= weights[i] / weights[j] * (out[j] - 1) - 1e-6


def test_equal_weights_are_equal_shares_and_ties_go_to_the_first() -> None:
    ones, bounds = torch.ones(1, 3), (torch.zeros(1, 3).long(), torch.full((1, 3), 99))
    assert apportion(ones, torch.tensor([9]), *bounds).tolist() == [[3, 3, 3]]
    assert apportion(ones, torch.tensor([11]), *bounds).tolist() == [[4, 4, 3]]
    assert apportion(torch.zeros(1, 3), torch.tensor([4]), *bounds).tolist() == [[2, 1, 1]]


def slots(press: Press, length: int = 120, family: str = "llama") -> list[list[list[int]]]:
    """[layer][row][head] slots held after a left-padded prompt."""
    ids, mask = left_padded([tokens(1, length)[0], tokens(1, length // 2)[0]])
    with press(shared(family)) as session:
        cache = session.prefill(ids, mask)
        return [layer.counts().tolist() for layer in cache.stores]


@pytest.mark.parametrize("text", ["pyramid", "zigzag(window=6)", "ada", "ada(mode=floor)", "zigzag | ada(alpha=0.5)"])
@pytest.mark.parametrize("under", ["snapkv(keep=0.3, window=5)", "h2o(keep=0.3)", "snapkv(keep=21, window=5)"])
def test_totals_of_every_row_are_exact(text: str, under: str) -> None:
    press = Press.parse(f"{text} | {under}")
    found = slots(press)
    for row, length in enumerate((120, 60)):
        average = 21 if "21" in under else int(0.3 * length)
        assert sum(sum(layer[row]) for layer in found) == average * sum(len(layer[row]) for layer in found)
    if "ada" not in text:
        assert all(len(set(heads)) == 1 for layer in found for heads in layer)
    else:
        assert any(len(set(heads)) > 1 for layer in found for heads in layer)


def test_pyramid_gives_the_figures_of_the_paper() -> None:
    """C = 2048, W = 8, 32 layers, beta = 20: 3986 slots in the first layer and 110 in the last, window included."""
    weights = Pyramid().weights(torch.ones(32, 1), torch.tensor([2048]), torch.tensor([8]))[:, 0]
    assert weights[0].item() == pytest.approx(8 + 2 * 2040 - 102) and weights[-1].item() == pytest.approx(8 + 102)
    assert weights.mean().item() == pytest.approx(2048)
    steps = weights.diff()
    assert torch.allclose(steps, steps[:1].expand_as(steps))
    assert [layer[0][0] for layer in slots(pyramid() | snapkv(keep=0.3, window=5))] == [65, 36, 7]  # 65.45, 36, 6.55


def evidence(q: Tensor, k: Tensor) -> tuple[Block, Evidence, Callable[[], Tensor]]:
    n, w = k.shape[2], q.shape[2]
    pos = torch.arange(n, dtype=torch.int32).expand(*k.shape[:2], n)
    at = torch.arange(n - w, n, dtype=torch.int32)[None]
    return Block(k, k, pos), Evidence(0, Rule(1.0), pos, q, at), pos.float


def test_layer_need_counts_slots_up_to_tau() -> None:
    q = torch.ones(1, 2, 3, 4)
    uniform = Uncertainty(tau=0.9, window=1).measure(*evidence(q, torch.zeros(1, 1, 50, 4)))
    assert uniform.tolist() == [45.0]
    one_hot = torch.zeros(1, 1, 50, 4)
    one_hot[:, :, 7] = 20.0
    assert Uncertainty(tau=0.9, window=3).measure(*evidence(q, one_hot)).tolist() == [1.0]
    halves = torch.cat([one_hot, torch.zeros(1, 1, 50, 4)], 1)  # two KV heads: the mean of 1 and of 45
    assert Uncertainty(tau=0.9, window=1).measure(*evidence(torch.ones(1, 4, 1, 4), halves)).tolist() == [23.0]


def test_equal_need_is_equal_budgets_and_the_floor_holds() -> None:
    total, fixed = torch.tensor([100]), torch.tensor([5])
    zz = Uncertainty(floor=0.2)
    assert zz.weights(torch.full((4, 1), 7.0), total, fixed)[:, 0].tolist() == [100.0] * 4
    skewed = zz.weights(torch.tensor([[1e-9], [1.0], [1.0]]), total, fixed)[:, 0]
    assert skewed[0].item() == pytest.approx(20.0) and skewed.sum().item() == pytest.approx(300.0)


def plain_ada(scores: Tensor, total: int, alpha: float) -> list[float]:
    """Head budgets before rounding, from the formula, for one row."""
    heads, n = scores.shape
    best = sorted((-float(scores[h, i]), h, i) for h in range(heads) for i in range(n))[: heads * total]
    counts = [sum(h == head for _, h, _ in best) for head in range(heads)]
    return [(1 - alpha) * count + alpha * total for count in counts]


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1.0])
def test_ada_against_its_formula(alpha: float) -> None:
    torch.manual_seed(0)
    scores, total = torch.rand(3, 4, 33) ** 3, torch.tensor([5, 11, 20])
    out = AdaptiveHeads(alpha)(total, scores)
    assert out.sum(1).tolist() == (4 * total).tolist()
    for row in range(3):
        wanted = plain_ada(scores[row], int(total[row]), alpha)
        assert all(abs(a - b) < 1 for a, b in zip(out[row].tolist(), wanted, strict=True))
    if alpha == 1:
        assert out.tolist() == total[:, None].expand(3, 4).tolist()


def test_the_floor_variant_keeps_the_best_of_every_head_first() -> None:
    torch.manual_seed(0)
    scores = torch.rand(1, 4, 40)
    scores[:, 0] *= 1e-3
    out = AdaptiveHeads(0.25, "floor")(torch.tensor([12]), scores)[0]
    assert out[0] == 3 and out.sum() == 48


def test_every_head_keeps_a_slot() -> None:
    scores = torch.rand(1, 4, 40)
    scores[:, 2:] = 0
    for mode in ("interpolate", "floor"):
        assert AdaptiveHeads(0.0, mode)(torch.tensor([1]), scores).sum() == 4  # type: ignore[arg-type]
        assert AdaptiveHeads(0.0, mode)(torch.tensor([1]), scores).min() == 1  # type: ignore[arg-type]


def test_a_budget_alone_says_what_it_lacks() -> None:
    for part in (ada(), pyramid(), zigzag(), ada() | zigzag()):
        with pytest.raises(PressConflictError, match="nothing evicts any"), part(shared("llama")):
            raise AssertionError("not reached")
    for text in ("ada | random", "ada | tova", "streaming_llm | ada"):
        with pytest.raises(PressConflictError, match="across heads"):
            Press.parse(text)
    with pytest.raises(PressConflictError, match="both decide how slots are spread over layers"):
        pyramid() | zigzag()
    for text in ("ada(alpha=2)", "ada(mode=best)", "pyramid(beta=0.5)", "zigzag(tau=1.0)", "zigzag(floor=-0.1)"):
        with pytest.raises(PressSyntaxError):
            Press.parse(text)


def test_chunks_and_later_turns_follow_the_same_budgets() -> None:
    press = Press.parse("zigzag(window=4) | h2o(keep=20)")
    model, ids = shared("llama"), tokens(1, 90)
    with press(model) as session:
        whole, cut = session.prefill(ids), session.prefill(ids, chunk=11)
        assert kept(whole) == kept(cut)
        session.prefill(tokens(1, 7, 1), cache=whole)
        decode(model, whole, tokens(1, 9, 2))
        assert sum(layer.slots for layer in session.report(whole).layers) == 3 * 20
