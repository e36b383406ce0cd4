"""kvpress show: which tokens a press keeps, in the terminal, as JSON and as a page."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kvpress_eval.cli import main
from kvpress_eval.cli.survivors_text import shade
from kvpress_eval.errors import UsageError
from kvpress_eval.report.survivors_page import survivors_page
from kvpress_eval.runs.config import RunConfig
from kvpress_eval.runs.loaded import Loaded, load
from kvpress_eval.runs.survivors import Survivors, of_episode, of_text

SMALL = RunConfig(length=131, turns=3)


@pytest.fixture(scope="module")
def tiny() -> Loaded:
    return load("tiny", device="cpu")


def shown(tiny: Loaded, press: str, **changes: Any) -> Survivors:
    return of_episode(RunConfig(**{"length": 131, "turns": 3, "press": press, **changes}), tiny)


def test_sinks_and_window_are_all_that_a_streaming_press_keeps(tiny: Loaded) -> None:
    found = shown(tiny, "streaming_llm(keep=0.3, sinks=3)")
    n = len(found.tokens)
    kept = found.kept[0].sum(1)[0]
    expected = np.zeros(n, dtype=bool)
    expected[:3] = expected[n - (kept - 3) :] = True
    assert all((heads == expected).all() for heads in found.kept) and 0.28 * n < kept < 0.32 * n
    assert found.evicts and found.layers == (0, 1, 2, 3) and found.tokens[0] == "<bos>" and found.others == 0


def test_heads_may_keep_different_numbers(tiny: Loaded) -> None:
    found = shown(tiny, "ada | snapkv(keep=0.5)")
    counts = np.stack([heads.sum(1) for heads in found.kept])
    assert (counts[:, 0] != counts[:, 1]).any() and len(set(counts.sum(1).tolist())) == 1
    assert found.by_layer.shape == (4, len(found.tokens)) and set(np.unique(found.by_layer)) <= {0.0, 0.5, 1.0}
    assert found.by_token.mean() == pytest.approx(counts.sum() / (8 * len(found.tokens)))


@pytest.mark.parametrize("press", ["kivi(bits=4)", "full"])
def test_a_press_that_only_stores_keeps_every_token(tiny: Loaded, press: str) -> None:
    found = shown(tiny, press)
    assert not found.evicts and all(heads.all() for heads in found.kept)


def test_evidence_is_found_in_the_tokens_and_followed(tiny: Loaded) -> None:
    found = shown(tiny, "knorm(keep=0.4)")
    from kvpress_eval.runs.prepare import prepare

    episode = prepare(SMALL, tiny).episode(0)
    assert found.evidence is not None and [one.turn for one in found.evidence] == [1, 2, 3]
    for one, turn in zip(found.evidence, episode.turns, strict=True):
        ((first, last),) = turn.evidence
        assert " ".join(found.tokens[one.start : one.end]) == episode.context[first:last].strip()
        share, whole = found.survival(one)
        held = np.concatenate(found.kept)[:, one.start : one.end]
        assert share == pytest.approx(held.mean()) and whole == sum(bool(head.all()) for head in held)
    assert any(found.survival(one)[0] not in (0.0, 1.0) for one in found.evidence)


def test_the_context_alone_where_no_question_is_seen(tiny: Loaded) -> None:
    seen, hidden = shown(tiny, "knorm(keep=0.4)"), shown(tiny, "knorm(keep=0.4)", mode="multi-request")
    assert len(hidden.tokens) == hidden.context == seen.context < len(seen.tokens)
    assert seen.tokens[seen.context] == "?"


def test_a_text_of_ones_own(tiny: Loaded) -> None:
    found = of_text("streaming_llm(keep=4, sinks=1)", tiny, "di ru tu = 02 53 58 10 ;")
    assert found.evidence is None and [tuple(np.flatnonzero(h)) for h in found.kept[0]] == [(0, 7, 8, 9)] * 2
    with pytest.raises(UsageError, match="'bogus'"):
        of_text("full", tiny, "di bogus")
    with pytest.raises(UsageError, match="no tokens"):
        of_text("full", tiny, "")


def test_session_and_bytes_that_are_not_there(tiny: Loaded) -> None:
    with pytest.raises(UsageError, match="at least 0"):
        of_episode(SMALL, tiny, -1)
    with pytest.raises(UsageError, match="cannot hold"):
        shown(tiny, "kivi", bytes="0.1%")
    assert of_episode(SMALL, tiny, 1).tokens != of_episode(SMALL, tiny, 0).tokens


def test_json_and_page_hold_the_same(tiny: Loaded) -> None:
    found = shown(tiny, "ada | snapkv(keep=0.5)")
    told = json.loads(json.dumps(found.to_dict()))
    page = survivors_page(found)
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    assert data["tokens"] == told["tokens"] == list(found.tokens) and data["evidence"] == told["evidence"]
    for heads, positions, packed in zip(found.kept, told["layers"], data["layers"], strict=True):
        for head, kept, text in zip(heads, positions["heads"], packed["heads"], strict=True):
            bits = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8))[: len(head)]
            assert (np.flatnonzero(head) == kept).all() and (bits == head).all()
    assert "default-src 'none'" in page and not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page)


def test_shades_keep_none_and_all_apart() -> None:
    assert [shade(share) for share in (0.0, 0.01, 0.5, 0.999, 1.0)] == [" ", "\u2591", "\u2592", "\u2593", "\u2588"]


def show(*words: str) -> int:
    return main(["show", "--length", "131", "--turns", "2", "--device", "cpu", *words])


def test_the_command_prints_strips_evidence_and_the_prompt(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert show("--press", "snapkv(keep=0.3)") == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert len(re.findall(r"^ +\d  [\d.]+ %  \d+ \d+ ", out, re.M)) == 4 and "\u2588" in out and "^^" in out
    assert re.search(r"^ +2 +[\d.]+ % +\d of 8 +", out, re.M) and "<bos> " in out
    assert show("--press", "kivi(bits=2)") == 0
    assert "every token is kept" in capsys.readouterr().out


def test_the_command_writes_json_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "new" / "kept.html"
    assert show("--press", "knorm(keep=0.3)", "--html", str(page), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["press"] == "knorm(keep=0.3)" and page.read_text("utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--press", "knorm", "--file", "nowhere.txt"], "cannot read nowhere.txt"),
        (["--press", "knorm", "--text", "di", "--bytes", "10%"], "--bytes"),
        (["--press", "nothing"], "Unknown press"),
        (["--press", "knorm", "--text", "a", "--file", "b"], "not allowed with"),
    ],
)
def test_mistakes_are_one_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(*words) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
