"""One schema for a row: every committed row reads, is written as it was, and what is no row says where and why."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
from kvpress_eval.rows.parsing import parse_row, read_rows
from kvpress_eval.rows.row import HINTS, Row
from kvpress_eval.rows.row_faults import RowError, decoded
from kvpress_eval.rows.row_files import row_files, row_text

from tests.eval.report import made

COMMITTED = Path(__file__).parents[3] / "leaderboards" / "results"


def text(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n"


def test_committed_rows_are_written_as_they_were_read() -> None:
    """What a row of before lacks is written as a new row has it, and nothing else changes, not even the order."""
    new = {one.name: one.default for one in fields(Row) if one.default is not MISSING}
    new |= {one.name: one.default_factory() for one in fields(Row) if one.default_factory is not MISSING}
    seen = 0
    for path in row_files(COMMITTED):
        line = row_text(path)
        data = json.loads(line)
        row = Row.from_dict(data)
        written = row.to_dict()
        assert list(written) == list(HINTS)
        assert text({name: value for name, value in written.items() if name in data}) == line, path
        assert written == {name: {**new, "asked": row.press, **data}[name] for name in HINTS}, path
        assert text(Row.from_dict(written).to_dict()) == text(written)
        seen += 1
    assert seen > 1000


def test_no_committed_file_is_ignored() -> None:
    rows, ignored = read_rows(COMMITTED)
    assert not ignored and len(rows) >= len(row_files(COMMITTED))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"format": 2}, "format is 2, expected 1"),
        ({"format": None}, "format is None, expected 1"),
        ({"model": None}, "model is missing"),
        ({"model": "  "}, "model: expected text that is not blank"),
        ({"press": "x" * 1001}, "press: expected text of length <= 1000"),
        ({"status": "done"}, "status: invalid enum value 'done'"),
        ({"length": "long"}, "length: expected a whole number, got text"),
        ({"sessions": True}, "sessions: expected a whole number, got true or false"),
        ({"chance": "0.5"}, "chance: expected a number or null, got text"),
        ({"tpot_s": 1e308}, "tpot_s: expected a number from -2^63 to 2^63"),
        ({"bytes": 10**400}, "bytes: expected a number from -2^63 to 2^63"),
        ({"score": float("nan")}, "score: expected a number from -2^63 to 2^63"),
        ({"quiet": "yes"}, "quiet: expected true or false or null, got text"),
        ({"subtasks": {"a": "much"}}, "subtasks[...]: expected a number, got text"),
        ({"extras": ["much"]}, "extras: expected object, got a list"),
        ({"session_scores": [[1.5]]}, "session_scores[0][0]: expected a number from 0 to 1"),
        ({"session_scores": [[0.5]]}, "session_scores: 1 lists for 24 session_ids"),
        ({"session_scores": []}, "session_ids and session_scores are missing or empty"),
        ({"session_scores": [[]] * 24}, "session_scores, reference_scores: a session without turns"),
        ({"session_ids": ["a"] * 24}, "session_ids: repeats among 24"),
        ({"turn_tasks": [["a"]]}, "turn_tasks: 1 lists for 24 session_ids"),
        ({"measures": {"nll": [[0.5]]}}, "measures, nll: 1 lists for 24 session_ids"),
        ({"premises": [{}]}, "premises[0]: says is missing"),
        ({"answers": {"questions": 3}}, "answers: no sha256 of them"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(change: dict[str, Any], fault: str) -> None:
    data = {**made.make_row("full", "kv"), **change}
    for read in (Row.from_dict, lambda data: parse_row(data, "m/0.json")):  # one notion of valid
        with pytest.raises(RowError) as found:
            read(data)
        assert found.value.fault == fault
        assert len(str(found.value)) < 300 and "run the cell again" in str(found.value)


@pytest.mark.parametrize("wrong", ["", "[1", "\x00", "[" * 100_000, "1" * 10_000])
def test_what_is_no_json_is_no_row(wrong: str) -> None:
    with pytest.raises(RowError, match="not valid JSON"):
        decoded(wrong)
    with pytest.raises(RowError, match="not a JSON object"):
        Row.from_dict([1])


def test_a_null_is_what_was_not_written() -> None:
    row = made.make_row("full", "kv")
    nulls = dict.fromkeys(name for name in HINTS if name not in ("format", "status", "length", *(row.keys())))
    assert Row.from_dict({**row, **nulls, "versions": None, "error": None}).error == ""
    told = parse_row({**row, "seconds": None, "score": None}, "m/0.json")
    assert told.seconds is told.score is None


def test_what_the_file_does_not_have_cannot_be_written_into_it() -> None:
    row = Row.from_dict({**made.make_row("full", "kv"), "path": "x", "twin": True, "transcript": "eA=="})
    assert (row.path, row.twin, row.transcript) == ("", False, b"") and not {"path", "twin"} & row.to_dict().keys()
