"""The picture in README: what it is made of, that it is drawn from the committed rows, what it says without."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from kvpress_eval.errors import UsageError
from kvpress_eval.report import picture
from kvpress_eval.report.picture import MODEL, answers, draw, points
from kvpress_eval.rows.parsing import parse_row, read_rows
from kvpress_eval.rows.row import Row

from tests.eval.report.made import make_row

ROOT = Path(__file__).parents[3]


def row(press: str, task: str, ratio: float, target: str = "", **changes: Any) -> Row:
    made = make_row("full", task, model=MODEL, length=1024, mode=changes.pop("mode", "multi-request"), sessions=4)
    held = {"bytes_ratio": ratio, "press": press, "asked": press, "target": target, "question_visible": False}
    return parse_row({**made, **held, **changes}, f"{press}{task}{target}")


def text(press: str, genre: str, ratio: float, kl: float, target: str = "", **changes: Any) -> Row:
    ids = [f"{genre}/{n}" for n in range(2)]
    measures = {"kl": [[kl - 0.01], [kl + 0.01]]}
    scores = {
        "session_ids": ids,
        "session_scores": [[0.5], [0.5]],
        "score_by_turn": [0.5],
        "n_by_turn": [2],
        "turns": 2,
    }
    own = {**scores, "suite": "lm", "mode": "continuation", "measures": measures, "forced": 256}
    return row(press, genre, ratio, target, **{**own, **changes})


def rows() -> list[Row]:
    return [
        *(text("full", genre, 1.0, 0.01) for genre in ("lm_code", "lm_reference")),
        text("snapkv", "lm_code", 0.25, 0.3, "25%"),
        text("snapkv", "lm_reference", 0.27, 0.1, "25%"),
        text("snapkv", "lm_code", 0.5, 0.03, "50%"),  # one genre of two: no point
        *(text("knorm(keep=1.0)", genre, 1.0, 0.01) for genre in ("lm_code", "lm_reference")),
        *(text("KnormPress", genre, 0.25, 0.4, origin="another") for genre in ("lm_code", "lm_reference")),
        *(row("full", task, 1.0, score=0.9) for task in ("needle", "passkey")),
        row("kivi(bits=4)", "needle", 0.2, score=0.5),
        row("kivi(bits=4)", "passkey", 0.3, score=1.0),
        row("kivi(bits=2)", "needle", 0.1, score=0.5),  # no passkey
    ]


def test_points_are_means_over_genres() -> None:
    (point,) = points(rows())
    assert (point["press"], point["kind"]) == ("snapkv", "drop tokens")
    assert (point["bytes"], point["KL"]) == (pytest.approx(26.0), pytest.approx(0.2))


def test_answers_are_means_over_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "TASKS", ("needle", "passkey"))
    found = {one["press"]: (one["kind"], one["score"], one["bytes"]) for one in answers(rows())}
    assert found == {
        "full": ("full cache", pytest.approx(90.0), 100.0),
        "kivi(bits=4)": ("fewer bits", pytest.approx(75.0), pytest.approx(25.0)),
    }


def test_it_is_drawn() -> None:
    pytest.importorskip("vl_convert", reason="the extra picture is not installed")
    drawn = draw(rows())
    assert drawn.startswith("<svg") and "kivi(bits=4)" in drawn and "drop tokens" in drawn


def test_without_rows_it_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="no rows of smollm2-135m"):
        draw([])


def said(drawn: str) -> list[str]:
    """Its words and its marks' values; where they stand depends on the fonts of a machine."""
    return re.findall(r'aria-label="([^"]*)"', drawn) + re.findall(r">([^<>]+)</text>", drawn)


def test_the_picture_is_of_the_committed_rows() -> None:
    """`make docs` draws it again."""
    pytest.importorskip("vl_convert", reason="the extra picture is not installed")
    committed = (ROOT / "docs" / "smollm2.svg").read_text(encoding="utf-8")
    assert len(said(committed)) > 50
    assert said(committed) == said(draw(read_rows(ROOT / "leaderboards" / "results")[0]))
