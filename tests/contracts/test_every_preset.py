"""No preset escapes: each name is under all contracts, and padded rows give under each variant what they give alone."""

from __future__ import annotations

import pytest
import torch

from kvpress import PRESETS, Press
from tests.helpers import ALL, gap, kept, rollout
from tests.models import build, left_padded, tokens

LENGTHS, STEPS = (151, 97, 201), 5
EVICTION = "snapkv(keep=0.4, window=5)"
SMALLER = {"keep": 0.4, "start": 0.0}  # so that something is evicted from, and shared by, a small model


def small(name: str) -> Press:
    """A preset by its own values, but for those that would do nothing to prompts of a hundred tokens."""
    known = PRESETS[name].signature.parameters
    given = ", ".join(f"{argument}={value}" for argument, value in SMALLER.items() if argument in known)
    press = Press.parse(f"{name}({given})" if given else name)
    return press | Press.parse(EVICTION) if press.recipe.unfinished else press


def test_every_preset_is_in_the_list_of_the_contracts() -> None:
    """tests/helpers.py: add a press with arguments for prompts of thirty tokens, and every contract runs on it."""
    listed = {part.name.split("@")[0] for text in ALL.values() for part in Press.parse(text).parts}
    assert {name.split("@")[0] for name in PRESETS} == listed


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_three_padded_rows_are_three_single_runs(name: str) -> None:
    model, press = build("llama", num_hidden_layers=4), small(name)
    rows, follow = [tokens(1, n)[0] for n in LENGTHS], tokens(3, STEPS, 1)
    ids, mask = left_padded(rows)
    with press(model) as session:
        together, cache = rollout(session, ids, follow, mask)
        for number, row in enumerate(rows):
            single, own = rollout(session, row[None], follow[number : number + 1])
            assert gap(together[number : number + 1], single) < (2e-2 if press.recipe.block else 3e-5)
            shift = max(LENGTHS) - len(row)
            assert [[[p - shift for p in head] for head in layer[number]] for layer in kept(cache)] == [
                rows_of[0] for rows_of in kept(own)
            ]
    dropped = any(len(head) < max(LENGTHS) + STEPS for rows_of in kept(own) for head in rows_of[0])
    acted = dropped or any(layer.held for layer in own.stores)
    assert acted == (name != "full") and torch.isfinite(together).all()
