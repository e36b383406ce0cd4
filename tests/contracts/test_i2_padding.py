"""I2: a row of a left-padded batch gives what it gives alone, over many evictions and packings."""

from __future__ import annotations

import pytest
import torch

from kvpress import Press
from tests.helpers import ALL, COMPOSED, EXACT, QUANTIZED, decode, forward, gap, kept, over, rollout
from tests.models import FAMILIES, SPECIAL, left_padded, shared, tokens

LENGTHS = (37, 21, 30, 9)
STEPS = 26  # with blocks of 4 and of 8 slots: several packings
# A rounding tie that falls the other way moves one code by one step; padding in a group moves many.
TOLERANCE = {True: 3e-5, False: 2e-2}


def alone_and_padded(family: str, press: Press, lengths: tuple[int, ...] = LENGTHS, steps: int = STEPS) -> int:
    """How many rows were compared with themselves alone, logits and slots kept."""
    compared = 0
    model = shared(family)
    rows = [tokens(1, length)[0] for length in lengths]
    follow = tokens(len(rows), steps, seed=1)
    ids, mask = left_padded(rows)
    width, tolerance = ids.shape[1], TOLERANCE[press.recipe.block == 0]
    with press(model) as session:
        together, cache = rollout(session, ids, follow, mask)
        for number, row in enumerate(rows):
            single, own = rollout(session, row[None], follow[number : number + 1])
            assert gap(together[number : number + 1], single) < tolerance
            pad = width - len(row)
            shifted = [[[[p - pad for p in head] for head in layer[number]]] for layer in kept(cache)]
            assert shifted == kept(own)
            compared += 1
    return compared


@over(ALL)
def test_every_press(press: Press) -> None:
    assert alone_and_padded("llama", press) == 4


@over({k: ALL[k] for k in ("h2o-slots", "snapkv", "tova|kivi")})
@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "llama"])
def test_every_family(family: str, press: Press) -> None:
    assert alone_and_padded(family, press, LENGTHS[1:], 13) == 3


@over({**EXACT, **COMPOSED})
@pytest.mark.parametrize("family", ["gemma3", "gpt_oss"])
def test_learned_sinks_and_sliding_layers(family: str, press: Press) -> None:
    assert alone_and_padded(family, press, LENGTHS[1:3], 17) == 2


@pytest.mark.parametrize("press", ["full", "h2o(keep=9)", "snapkv(keep=0.4, window=5) | kivi(bits=8, group=4)"])
def test_layers_that_share_keys(press: str) -> None:
    assert alone_and_padded("gemma3n", Press.parse(press), LENGTHS[1:3], 9) == 2


def test_special_families_are_the_two_tested_here_and_in_hybrid() -> None:
    assert SPECIAL == ("gemma3n", "qwen3_next")


@over({k: ALL[k] for k in ("full", "h2o", "snapkv|kivi")})
def test_hybrid_rows_of_equal_length(press: Press) -> None:
    """Linear layers read padding (in transformers too), so rows of a hybrid model are compared unpadded."""
    model, ids, follow = shared("qwen3_next"), tokens(3, 29), tokens(3, 11, 1)
    with press(model) as session:
        together = rollout(session, ids, follow)[0]
        for row in range(3):
            single = rollout(session, ids[row : row + 1], follow[row : row + 1])[0]
            assert gap(together[row : row + 1], single) < 5e-3


@over(QUANTIZED)
def test_generate_on_padded_rows(press: Press) -> None:
    """The way users run it: the attention mask alone, positions by generate."""
    model = shared("qwen3")
    rows = [tokens(1, length)[0] for length in (31, 18)]
    ids, mask = left_padded(rows)
    how = {"max_new_tokens": 12, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    with press(model):
        together = torch.stack(model.generate(ids, attention_mask=mask, **how).logits, 1)
        for number, row in enumerate(rows):
            single = torch.stack(model.generate(row[None], **how).logits, 1)
            assert gap(together[number : number + 1], single) < 5e-3


@over(ALL)
def test_second_turn_without_a_mask_knows_the_padding_of_the_first(press: Press) -> None:
    model, rows = shared("llama"), [tokens(1, n)[0] for n in (23, 14)]
    ids, mask = left_padded(rows)
    question, follow = tokens(2, 6, 2), tokens(2, 3, 3)
    with press(model) as session:
        cache = session.prefill(question, cache=session.prefill(ids, mask))
        seen = torch.cat([mask, torch.ones_like(question)], 1)
        together = decode(model, cache, follow, seen)
        for number, row in enumerate(rows):
            own = session.prefill(question[number : number + 1], cache=session.prefill(row[None]))
            assert own.next_logits is not None and cache.next_logits is not None
            tolerance = TOLERANCE[press.recipe.block == 0]
            assert gap(cache.next_logits[number], own.next_logits[0]) < tolerance
            assert gap(together[number : number + 1], decode(model, own, follow[number : number + 1])) < tolerance


def test_a_mask_that_hides_tokens_already_read_is_refused() -> None:
    from kvpress.errors import KVPressError

    model, ids = shared("llama"), tokens(1, 12)
    with Press.parse("full")(model) as session:
        cache = session.prefill(ids)
        mask = torch.ones(1, 13, dtype=torch.long)
        mask[0, 3] = 0
        with pytest.raises(KVPressError, match="mask"):
            forward(model, tokens(1, 1), cache, mask)
