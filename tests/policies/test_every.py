"""Slots chosen again while decoding: when, among which, and that a row of a batch does as it does alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kvpress import Press, PressCache
from kvpress.errors import PressConflictError, PressSyntaxError, UnsupportedError
from kvpress.pipeline import fire
from kvpress.pipeline.layer import Layer
from kvpress.policies.every import Every
from kvpress.recipe.kinds import EveryStep
from tests.helpers import decode, gap, kept, rollout
from tests.models import build, left_padded, shared, tokens

SCORERS = (
    "knorm(keep=12, recent=2)",
    "snapkv(keep=12, window=4, kernel_size=3)",
    "keydiff(keep=12, recent=2)",
    "h2o(keep=12)",
    "tova(keep=12, recent=1)",
)


@pytest.mark.parametrize("scorer", SCORERS)
def test_slots_are_chosen_every_so_many_tokens(scorer: str) -> None:
    model = shared("llama")
    with Press.parse(f"{scorer} | every(tokens=5)")(model) as session:
        cache = session.prefill(tokens(1, 30))
        held = [int(cache.stores[1].counts().max())]
        for step in range(12):
            decode(model, cache, tokens(1, 1, step))
            held.append(int(cache.stores[1].counts().max()))
    assert held == [12, 13, 14, 15, 16, 12, 13, 14, 15, 16, 12, 13, 14]


def test_every_token_is_every_step() -> None:
    """The same slots as a press that evicts at every step by itself."""
    model, ids, follow = shared("llama"), tokens(2, 30), tokens(2, 9, 3)
    out = []
    for text in ("h2o(keep=12)", 'h2o(keep=12, schedule="after_prefill") | every(tokens=1)'):
        with Press.parse(text)(model) as session:
            logits, cache = rollout(session, ids, follow)
            out.append((logits, kept(cache)))
    assert gap(out[0][0], out[1][0]) < 1e-5 and out[0][1] == out[1][1]


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("storage", ["", " | kivi(bits=8, group=4, residual=4)"])
def test_of_the_decoded_tokens_alone(scorer: str, storage: str) -> None:
    """What is left of a prompt stays, a later one too, and at most 12 decoded slots and the interval beside it."""
    model = build("llama", num_hidden_layers=2)
    with Press.parse(f"{scorer} | every(tokens=4, prompt=false){storage}")(model) as session:
        cache = session.prefill(tokens(1, 30))
        prompt = [[set(head) for head in row] for row in kept(cache)[1]]
        for step in range(30):
            decode(model, cache, tokens(1, 1, step))
            now = kept(cache)[1]
            for head, before in zip(now[0], prompt[0], strict=True):
                assert before <= set(head)
                decoded = [p for p in head if p >= 30]
                assert len(decoded) <= 12 + 3 and 30 + step in decoded
        session.prefill(tokens(1, 8, 2), cache=cache)
        for step in range(9):
            decode(model, cache, tokens(1, 1, 50 + step))
        for head in kept(cache)[1][0]:
            assert {*range(60, 68)} <= set(head)  # the second prompt
            assert len([p for p in head if 30 <= p < 60 or p >= 68]) <= 12 + 3


@pytest.mark.parametrize("text", ["knorm(keep=0.5) | every(tokens=3)", "h2o(keep=9) | every(tokens=4, prompt=false)"])
def test_a_padded_row_is_as_alone(text: str) -> None:
    model, rows, follow = shared("llama"), [tokens(1, 31)[0], tokens(1, 19, 5)[0]], tokens(2, 11, 1)
    ids, mask = left_padded(rows)
    with Press.parse(text)(model) as session:
        together, cache = rollout(session, ids, follow, mask)
        for number, row in enumerate(rows):
            alone, own = rollout(session, row[None], follow[number : number + 1])
            assert gap(together[number : number + 1], alone) < 3e-5
            shift = 31 - len(row)
            mine = [[[p - shift for p in head] for head in layer[number]] for layer in kept(cache)]
            assert mine == [layer[0] for layer in kept(own)]


def test_saved_and_forked_in_the_middle_of_an_interval(tmp_path: Path) -> None:
    model, follow, press = (
        shared("llama"),
        tokens(1, 9, 2),
        Press.parse("knorm(keep=9) | every(tokens=4, prompt=false)"),
    )
    with press(model) as session:
        cache = session.prefill(tokens(1, 25))
        decode(model, cache, tokens(1, 10, 1))
        cache.save(tmp_path / "cache", model)
        fork = cache.fork()
        wanted = decode(model, cache, follow)
        assert torch.equal(decode(model, fork, follow), wanted)
        assert torch.equal(decode(model, PressCache.load(tmp_path / "cache", model), follow), wanted)


def test_what_it_takes_the_place_of() -> None:
    assert Press.parse("h2o | every(tokens=8)").recipe.schedule == Every(8)
    assert Press.parse("every(tokens=8) | h2o").recipe.schedule == Every(8)
    assert Press.parse("h2o").recipe.schedule == EveryStep()
    with pytest.raises(PressConflictError, match="when slots are chosen"):
        Press.parse("every | every(tokens=8) | h2o")
    with pytest.raises(PressConflictError, match="says when slots are chosen, but nothing"):
        Press.parse("every").ready()
    with pytest.raises(PressSyntaxError, match="tokens=0"):
        Press.parse("every(tokens=0)")
    with pytest.raises(PressConflictError, match="second reading"):
        Press.parse("kvzip | every")


def test_sinks_that_move_are_not_mixed_with_slots_that_go_together() -> None:
    """Sinks are found in the dense window, one slot at a time; anything else would turn other keys."""
    for text in ("streaming_llm | every(tokens=8)", "streaming_llm | every(tokens=8, prompt=false)"):
        with pytest.raises(PressConflictError, match='positions="keep"'):
            Press.parse(text)
    for text in ("streaming_llm | absorb", "streaming_llm | newest_pages"):
        with pytest.raises(PressConflictError, match='positions="keep"'):
            Press.parse(text)
    with pytest.raises(PressConflictError, match="among decoded slots alone"):
        Press.parse("pyramid | snapkv | every(prompt=false)")
    once = Press.parse('streaming_llm(keep=12, schedule="after_prefill")')
    with once(shared("llama")) as session, pytest.raises(UnsupportedError, match="moves the sinks once"):
        session.prefill(tokens(1, 40), chunk=10, between=True)


def test_evidence_stays_for_what_is_decoded_after_a_prompt_that_was_compressed_between_its_chunks() -> None:
    with Press.parse("h2o(keep=0.25) | every(tokens=4, prompt=false)")(shared("llama")) as session:
        cache = session.prefill(tokens(1, 64), chunk=16, between=True)
        before = [[set(head) for head in layer[0]] for layer in kept(cache)]
        decode(session.model, cache, tokens(1, 9, 1))
        for layer, heads in zip(kept(cache), before, strict=True):
            for head, prompt in zip(layer[0], heads, strict=True):
                assert len(prompt) == 16 and prompt <= set(head)
                assert len([p for p in head if p >= 64]) <= 2 + 3  # a quarter of 9, and the interval


def test_the_interval_counts_decoded_tokens_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of a later prompt, nor those that were taken back; and nothing is decoded while there is room."""
    model, chosen = shared("llama"), list[int]()
    original = fire.evict

    def watched(layer: Layer, total: Tensor, decoded: bool = False) -> bool:
        out = original(layer, total, decoded)
        if layer.index == 0 and out:
            chosen.append(layer.logical)
        return out

    monkeypatch.setattr(fire, "evict", watched)
    with Press.parse("knorm(keep=6) | every(tokens=8, prompt=false)")(model) as session:
        cache = session.prefill(tokens(1, 40))
        decode(model, cache, tokens(1, 7, 1))
        session.prefill(tokens(1, 20, 2), cache=cache)
        decode(model, cache, tokens(1, 10, 3))
    assert chosen == [40, 68, 76]  # the prompt; 7 decoded tokens, a turn of 20 and one more; 8 more
    blocks: list[int] = []
    block = Layer.block
    monkeypatch.setattr(Layer, "block", lambda self: blocks.append(1) or block(self))
    with Press.parse("knorm(keep=40) | every(tokens=4, prompt=false)")(model) as session:
        cache = session.prefill(tokens(1, 60))
        blocks.clear()
        decode(model, cache, tokens(1, 30, 1))
    assert not blocks
