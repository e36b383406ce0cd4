"""The answers of a row: what they say, that they and their row are one, and reading them."""

from __future__ import annotations

import gzip
import io
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kvpress_eval.cli import main
from kvpress_eval.errors import StorageError, UsageError
from kvpress_eval.rows import answers as told
from kvpress_eval.rows.answers import finished_row, read_answers, seal, state, unpacked
from kvpress_eval.rows.row import Row
from kvpress_eval.rows.row_files import answers_path, load_row, write_row
from kvpress_eval.runs import transcript
from kvpress_eval.runs.config import RunConfig
from kvpress_eval.runs.evidence_places import known_tokens, ranges, share_kept
from kvpress_eval.runs.loaded import Loaded, load
from kvpress_eval.runs.prepare import prepare
from kvpress_eval.runs.runner import run_cell
from kvpress_eval.sweeps.leftovers import clean_parts
from kvpress_eval.sweeps.merge import merge, same_results
from kvpress_eval.sweeps.sweep import run_sweep

from tests.eval.rows.test_harness_rows import make_row as whole_row

ASKED = RunConfig(press="snapkv(keep=0.4, window=5)", task="kv", length=300, sessions=2, turns=3)
HOSTILE = "[red]x[/] \x1b[31m\u202e\x07 <b>"


@pytest.fixture(scope="module")
def tiny() -> Loaded:
    return load("tiny")


def questions(row: Row) -> list[dict[str, Any]]:
    return [json.loads(line) for line in unpacked(row.transcript).decode().splitlines()][1:]


def make_row(run: str = "0123456789ab", said: str = "yes", **changes: Any) -> Row:
    """A row with the answers to one question."""
    row = whole_row(**{"run_id": run, "started": "2026-01-02T03:04:05+00:00", **changes})
    record = {"session": "s", "turn": 1, "prompt": "is it ?", "gold": "yes", "answer": said, "finish": "stop"}
    seal(row, [{**record, "score": float(said == "yes"), "reference": None, "gold_logprob": -1.5, "kept": None}])
    return row


def test_a_run_says_what_was_asked_and_answered(tiny: Loaded) -> None:
    row = run_cell(prepare(ASKED, tiny))
    cell = prepare(ASKED, tiny)
    asked = questions(row)
    assert row.answers == {"sha256": row.answers["sha256"], "questions": 6, "of": 6}
    assert [(q["session"], q["turn"]) for q in asked] == [(s, t) for s in row.session_ids for t in (1, 2, 3)]
    assert [q["score"] for q in asked] == [score for turns in row.session_scores for score in turns]
    assert [q["gold_logprob"] for q in asked] == [v for turns in row.measures["gold_logprob"] for v in turns]
    for number, question in enumerate(asked):
        episode = cell.episode(number // 3)
        turn = episode.turns[number % 3]
        assert question["gold"] == turn.answer
        assert turn.question.strip() in question["prompt"]
        assert (question["answer"] == turn.answer.removesuffix(" ;")) == (question["score"] == 1)
        ids = tiny.prompter.prompt(episode).context
        held = [ids[i] for start, stop in question["evidence"] for i in range(start, stop)]
        assert tiny.tokenizer.decode(held).split() == [
            w for a, b in turn.evidence for w in episode.context[a:b].split()
        ]
        (start, stop), *_ = question["evidence"]
        assert question["depth"] == pytest.approx(100 * (start + stop) / 2 / len(ids), abs=0.06)
        assert 0 <= question["kept"] <= 1
    later = asked[1]["prompt"]
    assert later.startswith(cell.episode(0).turns[0].question.strip()[:4]), "what was read before is the turn before"
    again = run_cell(prepare(ASKED, tiny))
    assert again.transcript == row.transcript
    assert (again.transcript[4:8], gzip.decompress(row.transcript)) == (b"\0" * 4, unpacked(row.transcript))


def test_natural_text_has_both_scores_and_its_finish(text_model: str) -> None:
    loaded = load(text_model)
    asked = RunConfig(model=text_model, task="needle", length=690, sessions=1, turns=1, mode="multi-request")
    row = run_cell(prepare(asked, loaded))
    (question,) = questions(row)
    assert (row.status, question["finish"]) == ("ok", "length")
    assert question["score"] == row.session_scores[0][0] and question["reference"] == row.reference_scores[0][0]
    assert question["prompt"].endswith("<|assistant|>"), "the template is seen as it is"
    assert len(question["prompt"]) <= 600


@pytest.mark.parametrize("chat", ["on", "off"])
def test_where_evidence_stands_is_known_in_a_chat_too(text_model: str, chat: str) -> None:
    loaded = load(text_model, chat=chat)
    asked = RunConfig(model=text_model, task="needle", length=690, turns=1, chat=chat)
    episode = prepare(asked, loaded).episode(0)
    ids = loaded.prompter.prompt(episode).context
    found = known_tokens(loaded.prompter, episode, ids)
    assert found is not None
    ((a, b),) = episode.turns[0].evidence
    assert loaded.tokenizer.decode([ids[i] for i in found[0]]) == episode.context[a:b]
    bare = replace(episode, turns=tuple(replace(turn, evidence=()) for turn in episode.turns))
    assert known_tokens(loaded.prompter, bare, ids) is None
    assert known_tokens(loaded.prompter, episode, ids[:-1]) is None or chat == "on"


PRESSES = ["full", "kivi(bits=4)", "snapkv(keep=0.4, window=5)", "ada | snapkv(keep=0.3, window=5)", "h2o(keep=0.3)"]


@pytest.mark.parametrize("press", PRESSES)
def test_the_share_kept_is_that_of_the_slots(tiny: Loaded, press: str) -> None:
    cell = prepare(replace(ASKED, press=press), tiny)
    ids = torch.randint(5, 300, (1, 90), generator=torch.Generator().manual_seed(0))
    wanted = [[3, 4, 5, 50], [], [88]]
    with cell.press(tiny.model) as session:
        cache = session.prefill(ids).fork(rows=3)
        found = share_kept(cache, wanted)
        held = [layer.block().pos for layer in cache.stores]
    for row, tokens in enumerate(wanted):
        there = [t in set(pos[row, head].tolist()) for pos in held for head in range(pos.shape[1]) for t in tokens]
        assert found[row] == (pytest.approx(sum(there) / len(there)) if tokens else None)
    assert (found[0] == 1) == (press in PRESSES[:2])


def test_ranges_join_neighbours() -> None:
    assert ranges([1, 2, 3, 7, 9, 10]) == [[1, 4], [7, 8], [9, 11]] and ranges([]) == []


def test_what_is_cut_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = whole_row(run_id="0123456789ab")
    records = [{"session": "s", "turn": t, "answer": "x" * 100} for t in range(9)]
    seal(row, records, cap=500)
    assert (row.answers["questions"], row.answers["of"]) == (3, 9)
    assert row.answers["cut"] == "the first 3 of 9 answers: a row keeps at most 500 bytes of them"
    path = write_row(row, tmp_path)
    found, _ = read_answers(answers_path(path), row.answers)
    assert len(found.questions) == 3 and found.cut == row.answers["cut"]
    monkeypatch.setattr(told, "CAP", 10)
    seal(row, records)
    assert row.answers["questions"] == 0 and unpacked(row.transcript).count(b"\n") == 1


def test_any_text_is_kept(tmp_path: Path) -> None:
    text = "\ud800 \u2028\u0085\n\r\x00\x1c naïve 中文 😀"
    row = make_row(said=text)
    found, _ = read_answers(answers_path(write_row(row, tmp_path)), row.answers)
    assert found.questions[0]["answer"] == text


def test_answers_are_there_before_the_row_that_claims_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    move = os.replace

    def killed(source: Path, target: Path) -> None:
        if len(moved) == 1:
            raise KeyboardInterrupt
        moved.append(Path(target).name)
        move(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_row(make_row(), tmp_path)
    assert moved == ["0123456789ab.answers.jsonl.gz"]
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == moved, "no row, and nothing half-written"


def test_a_full_disk_leaves_the_old_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_row(make_row(), tmp_path)
    before = path.read_bytes(), answers_path(path).read_bytes()
    calls = 0

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # the answers still fitted
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space"):
        write_row(make_row(said="no"), tmp_path)
    assert (path.read_bytes(), answers_path(path).read_bytes()) == before and len(list(path.parent.iterdir())) == 2


def test_a_row_without_answers_takes_away_those_of_the_row_before(tmp_path: Path) -> None:
    path = write_row(make_row(), tmp_path)
    write_row(whole_row(run_id="0123456789ab", status="failed", error="broke"), tmp_path)
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_resume_runs_a_row_with_damaged_answers_again(tmp_path: Path) -> None:
    def ran(force: bool = False) -> int:
        return run_sweep([ASKED], tmp_path, force=force).ran

    assert (ran(), ran()) == (1, 0)
    (path,) = tmp_path.glob("*/*.json")
    row, file = load_row(path), answers_path(path)
    assert row is not None and state(path, row) == "whole" and row.transcript == b""
    whole = file.read_bytes()
    for spoiled in (whole[:-9], b"", b"text", told.packed(b'{"format":1}\n'), whole[:30] + b"\0" + whole[31:]):
        file.write_bytes(spoiled)
        assert state(path, row) == "damaged" and finished_row(path) is None
        assert (ran(), ran()) == (1, 0)
        assert file.read_bytes() == whole
    file.unlink()
    assert state(path, row) == "missing" and ran() == 0, "its figures count without its answers"
    assert ran(force=True) == 1
    assert file.read_bytes() == whole, "both are new"


def test_merging_brings_answers_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, into = tmp_path / "a", tmp_path / "b", tmp_path / "into"
    first, later = make_row(), make_row(said="no", started="2027-01-02T03:04:05+00:00")
    path, other = write_row(first, a), write_row(later, b)
    target = into / "tiny" / path.name
    merge([a], into)
    assert answers_path(target).read_bytes() == answers_path(path).read_bytes() and same_results(a, into) == []
    merge([b], into)
    assert answers_path(target).read_bytes() == answers_path(other).read_bytes()
    assert merge([a], into).kept == 1 and state(target, later) == "whole"
    answers_path(target).unlink()
    assert merge([b], into).kept == 1 and state(target, later) == "whole", "what it lacked"
    answers_path(other).write_bytes(b"damaged")
    assert merge([b], tmp_path / "new").lacking == [str(other)]
    assert state(tmp_path / "new" / "tiny" / path.name, later) == "missing"
    assert main(["merge", str(b), "--into", str(tmp_path / "again")]) == 0
    assert "without its answers" in capsys.readouterr().out
    newest = whole_row(run_id=first.run_id, started="2028-01-02T03:04:05+00:00")
    write_row(newest, tmp_path / "c")
    merge([tmp_path / "c"], into)
    assert state(target, newest) == "none" and not answers_path(target).exists()


def test_diff_compares_answers(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    path = write_row(make_row(), a)

    def other(row: Row) -> list[str]:
        write_row(row, b)
        return same_results(a, b)

    assert other(make_row()) == []
    (line,) = other(make_row(said="yes "))
    assert line.endswith('answers (question 1: answer is "yes" and "yes ")') or "score" in line
    rounded = make_row()
    record = questions(rounded)[0]
    seal(rounded, [{**record, "gold_logprob": -1.5004}])
    assert other(rounded) == [], "another machine rounds it in another way"
    seal(rounded, [{**record, "gold_logprob": -1.51}])
    assert len(other(rounded)) == 1
    (line,) = other(whole_row(run_id="0123456789ab"))
    assert line.endswith(f"answers (only {path} has them)")
    other(make_row())
    answers_path(path).unlink()
    (line,) = same_results(a, b)
    assert "answers (missing: " in line


def test_measures_of_two_machines_are_near(tmp_path: Path) -> None:
    for folder, value in (("a", -0.5), ("b", -0.50001), ("c", -0.6)):
        write_row(whole_row(run_id="0123456789ab", measures={"gold_logprob": [[value, None]]}), tmp_path / folder)
    assert same_results(tmp_path / "a", tmp_path / "b") == []
    assert "measures" in same_results(tmp_path / "a", tmp_path / "c")[0]


@pytest.mark.parametrize(
    ("name", "one", "other", "same"),
    [
        ("kl", 0.0002, 0.0009, False),
        ("kl", 0.0002, 0.00028, True),
        ("kl@2-16", 0.0002, 0.0009, False),
        ("kl@2-16", 0.00085, 0.00094, True),
        ("nll", 2.5, 2.5003, False),
        ("nll", 2.5, 2.5002, True),
        ("agree", 0.99, 0.9902, False),
        ("agree@1", 0.99, 0.99009, True),
        ("gold_logprob", -0.5, -0.5012, False),
        ("gold_logprob", -0.5, -0.5009, True),
        ("gold_logprob", -5.0, -5.004, True),
    ],
)
def test_measures_are_told_apart_as_finely_as_they_are_known(
    tmp_path: Path, name: str, one: float, other: float, same: bool
) -> None:
    for folder, value in (("a", one), ("b", other)):
        write_row(whole_row(run_id="0123456789ab", measures={name: [[value]]}), tmp_path / folder)
    found = same_results(tmp_path / "a", tmp_path / "b")
    assert len(found) == (not same) and all("measures (measures is " in line for line in found)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"figure": 0.61234512}, True),
        ({"figure": 0.6133}, True),
        ({"figure": 0.6143}, False),
        ({"bound": 0.5001}, False),
        ({"holds": False}, False),
        ({"says": "else"}, False),
    ],
)
def test_the_figure_of_a_premise_is_near(tmp_path: Path, changes: dict[str, Any], same: bool) -> None:
    premise = {"method": "snapkv", "says": "it does", "measures": "a share", "figure": 0.6123456, "bound": 0.5}
    premise["holds"] = True
    for folder, found in (("a", premise), ("b", {**premise, **changes})):
        write_row(whole_row(run_id="0123456789ab", premises=[found]), tmp_path / folder)
    lines = same_results(tmp_path / "a", tmp_path / "b")
    assert len(lines) == (not same) and all("premises (premises is " in line for line in lines)


def test_answers_whose_row_is_gone_go_after_a_day(tmp_path: Path) -> None:
    path = write_row(make_row(), tmp_path)
    file = answers_path(path)
    os.utime(file, (1, 1))
    assert clean_parts(tmp_path) == 0
    path.unlink()
    young = answers_path(path.with_name("young.json"))
    young.write_bytes(b"")
    assert clean_parts(tmp_path) == 1 and [found.name for found in path.parent.iterdir()] == [young.name]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rows of the bundled model: a press in two modes, and the full cache in one."""
    folder = tmp_path_factory.mktemp("results")
    grid = [ASKED, replace(ASKED, press="full"), replace(ASKED, mode="multi-request", schedule="default")]
    run_sweep(grid, folder)
    return folder


def said(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    assert main(["answers", *words]) == code
    out = capsys.readouterr()
    text = out.out if code == 0 else out.err
    assert max(map(len, text.splitlines()), default=0) <= (80 if code == 0 else 310)
    return text


def test_the_command_reads_filters_and_compares(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    where = ("--results", str(results))
    text = said(capsys, 0, ASKED.press, "--task", "kv", "--mode", "multi-turn", *where)
    (row,) = [
        r for p in results.glob("*/*.json") if (r := load_row(p)) and r.press != "full" and r.mode == "multi-turn"
    ]
    asked = read_answers(results / "tiny" / f"{row.run_id}.answers.jsonl.gz", row.answers)[0].questions
    assert text.count("\nprompt ") == len(asked) == 6
    for question in asked:
        assert question["answer"] in text and question["gold"] in text
    assert "gold log p \u2212" in text and "% kept, at depth" in text
    wrong = said(capsys, 0, row.run_id[:6], "--wrong", "--limit", "0", *where)
    assert wrong.count("\nprompt ") == sum(question["score"] < 1 for question in asked) > 0
    beside = said(capsys, 0, str(results / "tiny" / f"{row.run_id}.json"), "--diff", "full", "--limit", "1")
    assert "5 more; --limit 0 shows all" in beside and "evidence 100 % kept" in beside.replace("\n", " ")
    assert any(line.split() == [*ASKED.press.split(), "full"] for line in beside.splitlines())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((ASKED.press,), "2 rows of snapkv(keep=0.4, window=5); give --task, --mode or --length, or a run id: "),
        (("knorm(keep=0.5)",), "no row of knorm(keep=0.5)"),
        (("/no/such/folder/0123456789ab.json",), "no such file"),
        ((ASKED.press, "--mode", "multi-request", "--diff", "full"), "no row of full with the sessions of "),
        ((ASKED.press, "--task", "vt"), "no row of snapkv(keep=0.4, window=5)"),
    ],
)
def test_what_is_not_there_is_said(
    results: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], reason: str
) -> None:
    assert reason in said(capsys, 2, *words, "--results", str(results))


def test_answers_that_are_gone_damaged_or_never_were(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("0123456789ab", "--results", str(tmp_path))
    path = write_row(make_row(), tmp_path)
    assert "yes" in said(capsys, 0, *where)
    answers_path(path).write_bytes(told.packed(b"{}\n"))
    assert "holds other answers than its row claims; run its command again with --force" in said(capsys, 2, *where)
    answers_path(path).unlink()
    assert "are gone" in said(capsys, 2, *where)
    write_row(whole_row(run_id="0123456789ab"), tmp_path)
    assert "has no answers: it is older than they are" in said(capsys, 2, *where)
    write_row(whole_row(run_id="0123456789ab", status="failed", error="it broke"), tmp_path)
    assert "failed: it broke" in said(capsys, 2, *where)
    assert "no such folder" in said(capsys, 2, "full", "--results", str(tmp_path / "none"))


def test_texts_are_no_markup_and_reach_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = whole_row(run_id="0123456789ab", model="tiny")
    keys = ("session", "task", "prompt", "gold", "expected", "answer", "finish")
    hostile = dict.fromkeys(keys, HOSTILE)
    values = {"turn": HOSTILE, "score": HOSTILE, "gold_logprob": [1], "kept": 0.5, "depth": "x", "evidence": [[1], 2]}
    seal(row, [{**hostile, **values}, {name: [None, {"a": HOSTILE}] for name in (*keys, *values)}, {}])
    write_row(row, tmp_path)
    for more in ((), ("--diff", row.press), ("--wrong",)):
        text = said(capsys, 0, "0123456789ab", "--results", str(tmp_path), *more)
        assert "[red]x[/]" in text and "<b>" in text
        assert not set(text) & set("\x1b\u202e\x07")


def test_no_row_is_needed_to_read_the_end_of_a_prompt(tiny: Loaded) -> None:
    """Own history: what stands before a question is what the model said."""
    asked = replace(ASKED, history="own", press="full")
    row = run_cell(prepare(asked, tiny))
    first, second = questions(row)[:2]
    assert second["prompt"].startswith(f"? {first['prompt'].rpartition('? ')[2]} {first['answer']}".strip())
    assert transcript._CHARACTERS == 600


def test_a_text_that_unpacks_without_end_is_refused() -> None:
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb") as file:
        for _ in range(9):
            file.write(b"\0" * (1 << 20))
    with pytest.raises(UsageError, match="more than"):
        unpacked(bomb.getvalue())
