"""Reading rows, pairing them, and the sanity gates."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from kvpress_eval.report.gates import Gate, run_gates
from kvpress_eval.rows import stats
from kvpress_eval.rows.analysis import analyse
from kvpress_eval.rows.parsing import parse_row, read_rows
from kvpress_eval.rows.press_text import family, keeps_everything, sweep

from tests.eval.report import made
from tests.eval.report.made import parsed


@pytest.fixture(scope="module")
def analysis(results: Path) -> Any:
    return analyse(*read_rows(results))


def gate(rows: list[dict[str, Any]], name: str) -> Gate:
    return next(g for g in run_gates(parsed(rows)) if g.name == name)


def pair(press: str = "snapkv(keep=0.5)", **changes: Any) -> list[dict[str, Any]]:
    return [made.make_row("full", "kv"), {**made.make_row(press, "kv"), **changes}]


def test_rows_and_ignored_files(results: Path) -> None:
    rows, ignored = read_rows(results)
    assert len(rows) == 462 and sum(not row.ok for row in rows) == 2
    assert [(i.path, i.reason) for i in ignored] == [
        ("notes.txt", "not a .json file"),
        ("org--tiny-retriever/cut.json", "not valid JSON"),
        ("org--tiny-retriever/old.json", "format is 0, expected 1"),
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": "done"}, "status"),
        ({"press": None}, "press"),
        ({"length": "long"}, "length"),
        ({"session_scores": [[1.0]]}, "session_ids"),
        ({"session_scores": []}, "missing or empty"),
        ({"session_scores": [[2.0]], "session_ids": ["a"]}, "0 to 1"),
        ({"session_scores": [[math.nan]], "session_ids": ["a"]}, "0 to 1"),
        ({"session_scores": [[0.5], [0.5]], "session_ids": ["a", "a"]}, "repeats"),
        ({"bytes_by_kind": {"codes": "many"}}, "bytes_by_kind"),
    ],
)
def test_what_is_no_row(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_row({**made.make_row("full", "kv"), **change}, "x.json")


def test_a_bare_row_is_enough() -> None:
    keys = (
        "format",
        "status",
        "model",
        "press",
        "task",
        "mode",
        "length",
        "session_ids",
        "session_scores",
    )
    row = parse_row({k: v for k, v in made.make_row("full", "kv").items() if k in keys}, "m/abc.json")
    assert row.run_id == "abc" and row.bytes is None and row.sessions == 24 and row.turns == 120


def test_controls_and_surrogates_do_not_reach_the_outputs() -> None:
    row = parse_row({**made.make_row("full", "kv"), "error": "a\u202eb\ud800\x00\nc"}, "x.json")
    assert row.error == "a\ufffdb\ufffd\ufffd\nc"


def test_the_zeros_of_a_failed_run_are_not_results() -> None:
    row = parse_row(made.failed(made.make_row("full", "kv"), "broke"), "x.json")
    assert (row.ok, row.error, row.sessions, row.bytes_by_kind) == (False, "broke", 0, {})
    assert row.score is row.bytes is row.bytes_ratio is row.ttft_s is None


def test_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Run a sweep first"):
        read_rows(tmp_path / "nowhere")


def test_press_text() -> None:
    assert family("snapkv(keep=0.25) | kivi(bits=2)") == "snapkv | kivi"
    assert family("outliers(kivi(bits=2), share=0.01)") == "outliers(kivi)"
    assert sweep("snapkv(keep=0.25, window=8)") == sweep("snapkv(keep=0.5, window=8)")
    assert sweep("snapkv(keep=0.25, window=8)") != sweep("snapkv(keep=0.25, window=9)")
    assert sweep("kivi(bits=2)") == sweep("kivi(bits=4)")
    assert keeps_everything("full") and keeps_everything("snapkv(keep=1.0, window=8)")
    assert not keeps_everything("snapkv(keep=1) | kivi(bits=2)") and not keeps_everything("h2o(keep=10)")


def test_differences_are_paired_by_session_id() -> None:
    full, press = pair()
    order = list(range(24))[::-1]
    shuffled = {k: [press[k][i] for i in order] for k in ("session_ids", "session_scores")}
    plain, mixed = (parsed([full, {**press, **change}]).contrasts["m/1.json"] for change in ({}, shuffled))
    assert plain == mixed
    expected = sum(map(sum, press["session_scores"])) - sum(map(sum, full["session_scores"]))
    assert plain.diff.mean == pytest.approx(expected / 120)


@pytest.mark.parametrize("field", ["model", "mode", "history", "rendering", "dtype", "task"])
def test_no_pairing_across_settings(field: str) -> None:
    analysis = parsed(pair(**{field: "other"}))
    assert not analysis.contrasts and not analysis.references


def test_the_schedule_of_the_full_cache_does_not_matter() -> None:
    assert parsed(pair(schedule="every 64 tokens", question_visible=False)).contrasts


def test_macro_mean_weights_tasks_equally_and_seeds_pool() -> None:
    rows = [made.make_row("full", "kv", seed=s, sessions=10 + s) for s in (0, 1)]
    rows.append(made.make_row("full", "multihop", sessions=5))
    macro = parsed(rows).macros(parsed(rows).tables[0])[0]
    flat = [sum(map(sum, row["session_scores"])) for row in rows]
    assert macro.score.mean == pytest.approx((sum(flat[:2]) / 105 + flat[2] / 25) / 2)
    assert macro.tasks == 2 and macro.complete


def test_a_newer_run_replaces_an_older_one() -> None:
    old, new = (
        made.make_row("full", "kv"),
        made.make_row("full", "kv", started="2027-01-01T00:00:00Z"),
    )
    new["session_scores"] = [[0.0] * 5 for _ in new["session_scores"]]
    analysis = parsed([new, old])
    assert analysis.superseded == {"m/1.json"}
    assert analysis.cells[0].score.mean == 0.0


def test_a_small_run_replaces_no_larger_one() -> None:
    """Neither a press's row nor the full cache's: every session of the larger one stays paired."""
    rows = [
        made.make_row(press, "kv", sessions=sessions, started=f"2027-01-0{day}")
        for day, sessions in ((1, 20), (2, 3))
        for press in ("full", "snapkv(keep=0.5)")
    ]
    analysis = parsed(rows)
    assert analysis.superseded == {"m/2.json", "m/3.json"}
    assert analysis.references["m/1.json"].path == analysis.references["m/3.json"].path == "m/0.json"
    macro = analysis.macros(analysis.tables[0])[1]
    assert macro.contrast is not None and macro.contrast.diff.n == 20
    assert gate(rows, "every row is paired").verdict == "pass"
    assert gate(rows, "keeping everything changes nothing").failures == (), "the sessions that both runs have"


def test_the_full_cache_of_the_same_sessions_is_the_reference() -> None:
    """Also where another run of it was on the same device."""
    rows = pair(device="cuda")
    others = {**made.make_row("full", "kv", device="cuda"), "session_ids": [f"x{i}" for i in range(24)]}
    assert parsed([*rows, others]).references["m/1.json"].path == "m/0.json"


def test_pooled_tasks_can_be_significant_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A press that loses every answer is worse on each task, whatever number of presses x tasks p is adjusted for."""
    monkeypatch.setattr(stats, "RESAMPLES", 1)  # as if the table were larger than these many can tell apart
    rows = [
        {**made.make_row("full", task, seed=seed, sessions=10, turns=1), "press": press}
        for press in ("full", *(f"h2o(keep={keep})" for keep in range(1, 21)))
        for task in made.TASKS
        for seed in (0, 1)
    ]
    for row in rows:
        row["session_scores"] = [[float(row["press"] == "full")]] * 10
    contrasts = [cell.contrast for cell in parsed(rows).cells if cell.contrast]
    assert len(contrasts) == 20 * (len(made.TASKS) + 1)
    assert max(contrast.p_holm for contrast in contrasts) < 0.05


def test_order_of_rows_does_not_matter() -> None:
    rows = [parse_row(row, f"{i:03}.json") for i, row in enumerate(made.sweep()[:60])]
    assert repr(analyse(rows)) == repr(analyse(rows[::-1]))


def test_incomplete_methods_are_not_on_the_front(analysis: Any) -> None:
    table = next(t for t in analysis.tables if t.length == 8192)
    partial = [cell for cell in analysis.macros(table) if not cell.complete]
    assert [cell.method.name for cell in partial] == ["random(keep=0.125)"] and not partial[0].front
    front = sorted((c for c in analysis.macros(table) if c.front), key=lambda c: c.bytes_ratio)
    assert len(front) > 2
    assert all(a.score.mean < b.score.mean for a, b in itertools.pairwise(front))


def test_interaction_shows_the_loss_on_later_turns() -> None:
    analysis = parsed(pair("snapkv(keep=0.125)"))
    cell = analysis.macros(analysis.tables[0])[-1]
    assert cell.interaction is not None and cell.interaction.high < 0


def test_all_gates_pass_on_the_made_up_sweep(analysis: Any) -> None:
    assert [g.verdict for g in run_gates(analysis)] == ["pass"] * 6


def test_gate_full_at_least_as_good() -> None:
    perfect = [[1.0] * 5 for _ in range(24)]
    found = gate(pair(session_scores=perfect, score=1.0), "full cache at least as good")
    assert found.verdict == "fail" and "snapkv(keep=0.5) on kv" in found.failures[-1]
    worse = [[0.0] * 5 for _ in range(24)]
    assert gate(pair(session_scores=worse), "full cache at least as good").verdict == "pass"


def test_gate_keep_all() -> None:
    name = "keeping everything changes nothing"
    assert gate(pair(), name).verdict == "not checked"
    rows = pair("snapkv(keep=1.0)")
    assert gate(rows, name).verdict == "pass"
    rows[1]["session_scores"][3][2] = 1 - rows[1]["session_scores"][3][2]
    assert "1 of 24 sessions differ" in gate(rows, name).failures[0]
    rows[1]["device"] = "another"
    assert gate(rows, name).verdict == "not checked" and "1 more" in gate(rows, name).note


def test_gate_repeated_full_cache() -> None:
    rows = [made.make_row("full", "kv"), made.make_row("full", "kv", schedule="every 64 tokens")]
    assert gate(rows, "keeping everything changes nothing").checked == 1
    rows[1]["session_scores"][0][0] = 1 - rows[1]["session_scores"][0][0]
    assert gate(rows, "keeping everything changes nothing").verdict == "fail"


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("claimed bytes are measured bytes", {"bytes": 5}, "5 claimed"),
        ("claimed bytes are measured bytes", {"bytes_by_kind": {}}, "no byte ledger"),
        ("claimed bytes are measured bytes", {"bytes_ratio": 0.01}, "0.0100 claimed"),
        ("a press saves bytes", {"bytes_ratio": 1.25}, "1.250"),
        ("a press saves bytes", {"bytes_ratio": None}, "not stated"),
        ("scores follow from sessions", {"score": 0.999}, "0.999 stated"),
        ("every row is paired", {"session_ids": [f"x{i}" for i in range(24)]}, "24 of 24 sessions"),
        ("every row is paired", {"length": 4096}, "no full-cache row"),
    ],
)
def test_gates_name_the_offender(name: str, change: dict[str, Any], words: str) -> None:
    assert gate(pair(), name).verdict == "pass"
    found = gate(pair(**change), name)
    assert found.verdict == "fail" and words in found.failures[0] and "snapkv(keep=0.5)" in found.failures[0]


def test_rows_survive_a_round_trip_through_json() -> None:
    row = made.make_row(made.HOSTILE, "kv")
    assert parse_row(json.loads(json.dumps(row)), "x").press == made.HOSTILE
