"""I4: positions follow the logical length; nothing is fed twice and nothing is shifted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from kvpress import Press, PressCache, full
from tests.helpers import ALL, EXACT, decode, forward, gap, over, rollout
from tests.models import shared, tokens

GREEDY: dict[str, Any] = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}


@contextmanager
def watched(model: PreTrainedModel) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """What the decoder is given: (ids, position ids) of every forward."""
    seen: list[tuple[Tensor, Tensor]] = []

    def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        cache = kwargs["past_key_values"]
        if isinstance(cache, PressCache) and cache.state.part is not None:
            return  # a prompt is repeated: what that adds is taken out again
        positions = kwargs.get("position_ids")
        if positions is None:
            start = cache.get_seq_length()
            positions = torch.arange(start, start + kwargs["input_ids"].shape[1])[None]
        seen.append((kwargs["input_ids"], positions))

    handle = model.model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def fed(seen: list[tuple[Tensor, Tensor]]) -> tuple[list[int], list[int]]:
    """All ids and all positions of row 0, in order."""
    return [t for ids, _ in seen for t in ids[0].tolist()], [p for _, at in seen for p in at[0].tolist()]


@pytest.mark.parametrize("given", ["all ids", "new ids"])
@over(ALL)
def test_second_generate_on_the_returned_cache(press: Press, given: str) -> None:
    model, ids, question = shared("llama"), tokens(1, 27), tokens(1, 6, 1)
    with press(model) as session, watched(model) as seen:
        first = model.generate(ids, max_new_tokens=5, **GREEDY)
        cache = first.past_key_values
        assert cache.get_seq_length() == 27 + 4
        whole = torch.cat([first.sequences, question], 1)
        split = whole.shape[1] - cache.get_seq_length()
        mask = torch.ones_like(whole)
        again = whole if given == "all ids" else whole[:, -split:]
        fork = cache.fork()
        second = model.generate(again, attention_mask=mask, past_key_values=cache, max_new_tokens=4, **GREEDY)
        ids_fed, positions = fed(seen)
        last = second.sequences[0, -4:].tolist()
        assert ids_fed == whole[0].tolist() + last[:-1]
        assert positions == list(range(len(ids_fed)))
        by_hand = session.prefill(whole[:, -split:], cache=fork).next_logits
        assert by_hand is not None
        assert gap(second.logits[0], by_hand) < 3e-5


@over(EXACT)
def test_third_turn_of_a_conversation_equals_no_press_when_everything_is_kept(press: Press) -> None:
    del press
    model = shared("gemma3")
    plain, pressed = None, None
    ids = tokens(1, 19)
    whole = other = ids
    for turn in range(3):
        question = tokens(1, 4 + turn, 9 + turn)
        whole, other = torch.cat([whole, question], 1), torch.cat([other, question], 1)
        a = model.generate(whole, past_key_values=plain, max_new_tokens=5, **GREEDY)
        with full()(model):
            b = model.generate(other, past_key_values=pressed, max_new_tokens=5, **GREEDY)
        whole, other, plain, pressed = a.sequences, b.sequences, a.past_key_values, b.past_key_values
        assert torch.equal(whole, other)


@over(ALL)
def test_prompt_in_chunks_is_the_prompt(press: Press) -> None:
    """However a prompt is cut, the press fires once, at its end, on the same evidence."""
    model, ids, follow = shared("llama"), tokens(2, 30), tokens(2, 7, 1)
    with press(model) as session:
        wanted, cache = rollout(session, ids, follow)
        for chunk in (1, 7, 29):  # the last one leaves a chunk of a single token
            got, other = rollout(session, ids, follow, chunk=chunk)
            assert gap(got, wanted) < (3e-5 if press.recipe.block == 0 else 2e-2), chunk
            assert session.report(other).fired == session.report(cache).fired == 1
        whole = model.generate(ids, max_new_tokens=6, **GREEDY)
        for chunk in (1, 8, 29):
            cut = model.generate(ids, prefill_chunk_size=chunk, max_new_tokens=6, **GREEDY)
            close = 3e-5 if press.recipe.block == 0 else 2e-2
            assert gap(torch.stack(cut.logits), torch.stack(whole.logits)) < close, chunk
            assert session.report(cut.past_key_values).fired == 1


@over(ALL)
def test_generate_is_session_prefill_and_then_decoding(press: Press) -> None:
    model, ids = shared("llama"), tokens(2, 30)
    with press(model) as session:
        out = model.generate(ids, max_new_tokens=6, **GREEDY)
        by_hand, _ = rollout(session, ids, out.sequences[:, 30:-1])
        only_read = model.generate(ids, max_new_tokens=1, **GREEDY).past_key_values
        assert session.report(only_read).fired == 1  # at the end of the prompt, not when decoding begins
    assert gap(torch.stack(out.logits, 1), by_hand) < 3e-5


@over(ALL)
def test_second_turn_in_chunks(press: Press) -> None:
    model, ids, question, follow = shared("llama"), tokens(2, 30), tokens(2, 11, 1), tokens(2, 6, 2)
    with press(model) as session:
        start = session.prefill(ids)
        wanted = decode(model, session.prefill(question, cache=start.fork()), follow)
        for chunk in (1, 4, 5):
            cache = session.prefill(question, cache=start.fork(), chunk=chunk)
            assert gap(decode(model, cache, follow), wanted) < (3e-5 if press.recipe.block == 0 else 2e-2), chunk


@over(ALL)
def test_forked_question_continues_at_the_next_position(press: Press) -> None:
    model, ids = shared("llama"), tokens(1, 27)
    with press(model) as session:
        cache = session.prefill(ids)
        with watched(model) as seen:
            for seed in range(2):
                fork = cache.fork()
                session.prefill(tokens(1, 5, seed), cache=fork)
                decode(model, fork, tokens(1, 3, seed))
        assert fed(seen)[1] == 2 * list(range(27, 35))
        assert cache.get_seq_length() == 27


@over({k: v for k, v in ALL.items() if k != "full"})
def test_prompt_of_one_token_and_of_two(press: Press) -> None:
    model = shared("llama")
    for length in (1, 2, 3):
        ids = tokens(1, length)
        with press(model) as session:
            got, cache = rollout(session, ids, tokens(1, 4, 1))
            assert torch.isfinite(got).all()
            assert int(session.report(cache).layers[0].least) >= 1
        assert gap(got[:, 0], forward(model, ids, None)[:, -1]) < 3e-5
