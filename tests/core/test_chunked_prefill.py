"""Prompts compressed between their chunks: the same slots where a score is a token's own, and a peak that holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kvpress import PRESETS, Press, PressCache, full
from kvpress.errors import BudgetError, KVPressError, SessionError, UnsupportedError, short
from kvpress.pipeline.meter import Meter
from tests.helpers import ALL, decode, forward, gap, kept, over
from tests.models import build, left_padded, shared, tokens

READY = {name: text for name, text in ALL.items() if Press.parse(text).recipe.waits is None}
WAITING = {name: text for name, text in ALL.items() if name not in READY}
OWN_SCORES = {
    "random": "random(keep=0.3, seed=3, sinks=2, recent=4)",
    "knorm": "knorm(keep=0.3, sinks=1, recent=3)",
    "knorm-slots": "knorm(keep=20)",
    "streaming_llm": 'streaming_llm(keep=0.3, sinks=2, positions="keep")',
    "knorm|kivi": "knorm(keep=0.3) | kivi(bits=8, group=4, residual=5)",
}


def test_some_wait_and_some_do_not() -> None:
    names = [{part.name for text in some.values() for part in Press.parse(text).parts} for some in (READY, WAITING)]
    assert names[0] >= {
        "full",
        "random",
        "knorm",
        "keydiff",
        "h2o",
        "tova",
        "streaming_llm",
        "kivi",
        "gear",
        "minicache",
    }
    assert names[1] >= {"snapkv", "kvzip", "expected_attention", "leverage", "pyramid", "zigzag", "pooled", "think"}


@over(WAITING)
def test_a_press_that_needs_the_whole_prompt_says_so(press: Press) -> None:
    with press(shared("llama")) as session:
        with pytest.raises(UnsupportedError, match="cannot be applied between the chunks") as caught:
            session.prefill(tokens(1, 40), chunk=8, between=True)
        assert short(press) in str(caught.value) and "between=False" in str(caught.value)
        assert session.prefill(tokens(1, 40), chunk=8).get_seq_length() == 40


@over(READY)
def test_slots_bytes_and_what_follows(press: Press, tmp_path: Path) -> None:
    """As many slots as at once, all bytes counted, and a cache that goes on: turns, forks, files."""
    model, ids = shared("llama"), tokens(2, 61)
    with press(model) as session:
        cache = session.prefill(ids, chunk=9, between=True)
        at_once = session.prefill(ids)
        assert [[sum(map(len, row)) for row in layer] for layer in kept(cache)] == [
            [sum(map(len, row)) for row in layer] for layer in kept(at_once)
        ]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for *_, t in cache.tensors()}
        assert cache.nbytes() == sum(storages.values())
        assert cache.get_seq_length() == 61 and cache.stores[0].state.reading is None
        session.prefill(tokens(2, 7, 3), cache=cache, chunk=3, between=True)
        cache.save(tmp_path / "cache.safetensors", model)
        other = PressCache.load(tmp_path / "cache.safetensors", model)
        fork = cache.fork()
        wanted = decode(model, cache, tokens(2, 6, 1))
        assert torch.equal(decode(model, fork, tokens(2, 6, 1)), wanted)
        assert torch.equal(decode(model, other, tokens(2, 6, 1)), wanted)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_waits_or_works(name: str) -> None:
    chosen = PRESETS[name]
    press = chosen(keep=0.4) if "keep" in chosen.signature.parameters else chosen()
    try:
        press.ready()
    except ValueError:
        press = press | Press.parse("h2o(keep=0.4)")
    with press(build("llama", num_hidden_layers=4)) as session:
        if press.recipe.waits is not None:
            with pytest.raises(UnsupportedError, match=press.recipe.waits[:20]):
                session.prefill(tokens(1, 90), chunk=16, between=True)
            return
        cache = session.prefill(tokens(1, 300), chunk=64, between=True)
        assert 0 < cache.peak <= session.peak(300, chunk=64, between=True).held


@over(OWN_SCORES)
@pytest.mark.parametrize("padded", [False, True], ids=["even", "padded"])
def test_scores_of_a_token_alone_choose_the_same_slots(press: Press, padded: bool) -> None:
    """In the first layer, whose keys do not depend on what was dropped before; the counts agree in all."""
    ids, mask = tokens(2, 60), None
    if padded:
        ids, mask = left_padded([ids[0], ids[1, :31]])
    for chunk in (7, 20, 59):
        with press(shared("llama")) as session:
            pieces, whole = session.prefill(ids, mask, chunk=chunk, between=True), session.prefill(ids, mask)
        assert kept(pieces)[0] == kept(whole)[0]
        for a, b in zip(kept(pieces), kept(whole), strict=True):
            assert [[len(head) for head in row] for row in a] == [[len(head) for head in row] for row in b]


def test_codes_are_those_of_a_prompt_packed_at_once() -> None:
    with Press.parse("kivi(bits=4, group=4, residual=5)")(shared("llama")) as session:
        pieces, whole = (session.prefill(tokens(1, 61), chunk=13, between=b).stores[0] for b in (True, False))
        for a, b in zip(pieces.block().k, whole.block().k, strict=True):
            assert torch.equal(a, b)
        assert torch.equal(pieces.tail.positions(), whole.tail.positions())


@over({name: READY[name] for name in ("full", "knorm", "h2o", "kivi", "knorm|kivi", "minicache")})
def test_all_padding_and_uneven_rows_stay_exact(press: Press) -> None:
    """Where the padding of a row is a multiple of the chunk, its chunks are those it has alone."""
    model = shared("llama")
    ids, mask = left_padded([tokens(1, 48)[0], tokens(1, 24)[0]])
    with press(model) as session:
        both = session.prefill(ids, mask, chunk=8, between=True)
        alone = session.prefill(ids[1:, 24:], chunk=8, between=True)
        assert both.next_logits is not None and alone.next_logits is not None
        assert gap(both.next_logits[1:], alone.next_logits) < (2e-2 if press.recipe.block else 3e-5)
        moved = [[[p - 24 for p in head] for head in layer[1]] for layer in kept(both)]
        assert moved == [layer[0] for layer in kept(alone)]


@pytest.mark.parametrize(
    ("text", "between", "near"),
    [
        ("full", False, 1.1),
        ("full", True, 1.1),
        ("knorm(keep=0.25)", True, 1.15),
        ("h2o(keep=0.125)", True, 1.15),
        ("kivi(bits=2)", True, 1.3),
        ("kivi(bits=4)", False, 1.25),
        ("knorm(keep=0.25) | kivi(bits=4)", True, 1.5),
        ("snapkv(keep=0.25)", False, 1.25),
        ("kvzip(keep=0.25)", False, 1.6),
    ],
)
def test_the_declared_peak_holds_and_is_near(text: str, between: bool, near: float) -> None:
    """Bytes of storages at their worst moment against the bound worked out before: never more, and not much less."""
    model = build("llama", num_hidden_layers=4)
    with Press.parse(text)(model) as session:
        bound = session.peak(4000, chunk=500, between=between)
        cache = session.prefill(tokens(1, 4000), chunk=500, between=between, peak=bound.total)
        assert cache.peak <= bound.held <= near * cache.peak
        assert cache.nbytes() <= cache.peak
        if between and text != "full":
            dense = session.peak(4000, chunk=500).held if session.press.recipe.waits else cache.dense_nbytes()
            assert cache.peak < 0.75 * dense


def test_a_peak_that_cannot_hold_is_refused_before_anything_is_read() -> None:
    model, ids = shared("llama"), tokens(1, 900)
    with Press.parse("knorm(keep=0.25)")(model) as session:
        need = session.peak_nbytes(900, chunk=64, between=True)
        with pytest.raises(BudgetError, match=rf"needs up to {need:,} bytes .* allows {need - 1:,}"):
            session.prefill(ids, chunk=64, between=True, peak=need - 1)
        with pytest.raises(BudgetError, match="no chunk fits with between=False"):
            session.prefill(ids, peak=10_000)
        small = session.prefill(ids, between=True, peak=need)
        assert small.peak <= need
        with pytest.raises(BudgetError, match="cannot be read"):
            session.prefill(ids, peak="a lot")
        with pytest.raises(SessionError, match="Give one of them"):
            session.prefill(ids, chunk=64, between=True, compress=False)
        with pytest.raises(SessionError, match="positive number"):
            session.prefill(ids, chunk=0)


def test_a_broken_bound_is_a_bug_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Meter.__init__
    monkeypatch.setattr(Meter, "__init__", lambda self, layers, limit=None: plain(self, layers, 1000))
    with full()(shared("llama")) as session, pytest.raises(KVPressError, match="bug in kvpress"):
        session.prefill(tokens(1, 90), chunk=16)


def test_generate_reads_in_chunks_and_compresses_at_the_end() -> None:
    model, ids = shared("llama"), tokens(1, 50)
    with Press.parse("knorm(keep=0.3)")(model) as session:
        out = model.generate(
            ids, max_new_tokens=2, do_sample=False, prefill_chunk_size=16, return_dict_in_generate=True
        ).past_key_values
        at_once = session.prefill(ids)
        forward(model, tokens(1, 1, 1), at_once)
        assert [len(head) for head in kept(out)[2][0]] == [len(head) for head in kept(at_once)[2][0]]
        assert {slot for slot in kept(out)[2][0][0] if slot < 50} == {s for s in kept(at_once)[2][0][0] if s < 50}
