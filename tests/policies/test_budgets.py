"""Budgets over layers and heads: exact sums within bounds, and each method's own figures."""

from __future__ import annotations

import random

import pytest
import torch

from kvpress import Press, ada, pyramid, zigzag
from kvpress.errors import PressConflictError, PressSyntaxError
from kvpress.policies.apportion import apportion
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


def test_a_budget_alone_says_what_it_lacks() -> None:
    for part in (ada(), pyramid(), zigzag(), ada() | zigzag()):
        with pytest.raises(PressConflictError, match="nothing scores slots"), part(shared("llama")):
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
