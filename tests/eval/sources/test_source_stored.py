"""Generated sessions written as rows and read back, and their command."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from kvpress_eval.cli import main
from kvpress_eval.errors import EpisodeError, UsageError
from kvpress_eval.rows.row_files import load_rows
from kvpress_eval.runs.config import RunConfig
from kvpress_eval.runs.loaded import Loaded, load
from kvpress_eval.runs.prepare import prepare
from kvpress_eval.sources import open_source
from kvpress_eval.sources.scbench_records import SCBENCH_TASKS
from kvpress_eval.sources.session_files import write
from kvpress_eval.suites import TASKS

LENGTHS = (2500, 8000, 40000)  # of tokens; the text model has one for each byte


@pytest.fixture(scope="module")
def text(text_model: str) -> Loaded:
    return load(text_model)


@pytest.fixture(scope="module")
def words(dialect_model: str) -> Loaded:
    return load(dialect_model)


def plain(gold: Any) -> Any:
    """A gold whose lists are all of one type, and none has one item."""
    if isinstance(gold, dict):
        return {key: plain(value) for key, value in gold.items()}
    if isinstance(gold, (list, tuple)):
        return plain(gold[0]) if len(gold) == 1 else [plain(value) for value in gold]
    return gold


def gold_needle(gold: Any) -> str:
    needles = gold["needles"] if isinstance(gold["needles"], list) else [gold["needles"]]
    return next(needle["needle"] for needle in needles if needle["name"] == gold["func_name"])


def write_shortest(task: str, folder: Path, lengths: Sequence[int], **options: Any) -> int:
    """Write rows of the first length that the task fits, and say which it is."""
    for length in lengths:
        with contextlib.suppress(EpisodeError):
            write([task], folder, length=length, **options)
            return length
    raise AssertionError(f"{task} fits none of {lengths}")


@pytest.mark.parametrize("rendering", ["natural", "dialect"])
@pytest.mark.parametrize("task", TASKS)
def test_what_is_written_is_read_back(
    text: Loaded, words: Loaded, text_model: str, tmp_path: Path, task: str, rendering: str
) -> None:
    loaded = text if rendering == "natural" else words
    if rendering not in TASKS[task].build:
        pytest.skip(f"the bundled model cannot do {task}")
    model = text_model if rendering == "natural" else "tiny"
    sizes: dict[str, Any] = {"sessions": 2, "turns": 2, "seed": 5}
    sizes["length"] = write_shortest(task, tmp_path, (640,) if model == "tiny" else LENGTHS, model=model, **sizes)
    generated = open_source(RunConfig(task=task, **sizes), loaded)
    sizes.pop("seed")
    read = open_source(RunConfig(task=task, source=str(tmp_path), **sizes), loaded)
    assert len(read) == 2
    for session in range(2):
        before, after = generated.episode(session), read.episode(session)
        assert (after.context, after.instruction, after.cut) == (before.context, before.instruction, False)
        assert after.max_new_tokens == before.max_new_tokens
        for ours, theirs in zip(before.turns, after.turns, strict=True):
            assert (ours.question, ours.answer, ours.task) == (theirs.question, theirs.answer, theirs.task)
            assert (ours.later, ours.alone, ours.opening) == (theirs.later, theirs.alone, theirs.opening)
            assert plain(ours.reference) == plain(theirs.reference)
            assert ours.max_new_tokens == theirs.max_new_tokens
            assert ours.evidence == theirs.evidence
        assert after.id.split("#")[0] == f"{task}/{tmp_path.name}/{session}"
        assert after.id.split("#")[1] == before.id.split("#")[1]
        assert loaded.prompter.prompt(before) == loaded.prompter.prompt(after)


@pytest.mark.parametrize("task", SCBENCH_TASKS)
def test_the_released_prompts_can_be_made_of_written_rows(text: Loaded, tmp_path: Path, task: str) -> None:
    """What SCBench's runner adds to a row gives a text that the generator could have written."""
    write_shortest(task, tmp_path, LENGTHS, sessions=1, turns=2, seed=0)
    sizes: dict[str, Any] = {"task": task, "source": str(tmp_path), "length": 200_000, "sessions": 1, "turns": 2}
    ours = open_source(RunConfig(**sizes), text).episode(0)
    theirs = open_source(RunConfig(**sizes, prompts="reference"), text).episode(0)
    if task != "mf":  # whose released head is the question
        assert theirs.context.endswith(ours.context[len(ours.instruction) :])
    for mine, released in zip(ours.turns, theirs.turns, strict=True):
        gold, other = plain(mine.reference), plain(released.reference)
        if isinstance(gold, dict):  # the functions it might be mistaken for are those of all rows, or all there are
            assert released.answer == gold_needle(gold)
            gold, other = gold["func_name"], other["func_name"]
        assert gold == other
        if task not in ("mf", "choice_eng"):
            assert mine.question == released.question
    assert [turn.max_new_tokens for turn in theirs.turns] != [0, 0]


def test_what_cannot_be_read_back_says_so(text: Loaded, words: Loaded, tmp_path: Path) -> None:
    def opened(loaded: Loaded, **changes: Any) -> object:
        config = RunConfig(**{"source": str(tmp_path), "length": 512, "turns": 2, **changes})
        return open_source(config, loaded).episode(0)

    write(["kv"], tmp_path, length=512, sessions=1, turns=2, seed=0, model="tiny")
    with pytest.raises(UsageError, match="is dialect text and this model reads natural"):
        opened(text)
    with pytest.raises(UsageError, match="512 tokens long; use --length 512 or more"):
        opened(words, length=511)
    path = tmp_path / "scbench_kv.jsonl"
    with pytest.raises(UsageError, match=r"scbench_kv\.jsonl, line 1 is of task 'kv', not 'vt'; use --task kv"):
        opened(words, source=str(path), task="vt")
    row = json.loads(path.read_text())
    del row["meta"]["task"]  # as rows of before
    (tmp_path / "old.jsonl").write_text(json.dumps(row))
    assert opened(words, source=str(tmp_path / "old.jsonl"))
    del row["meta"]["before"]
    path = tmp_path / "kv.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(UsageError, match=r"damaged meta \(KeyError: 'before'\)"):
        opened(words, source=str(path))
    del row["meta"]
    path = tmp_path / "bare.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(UsageError, match=r"is natural text, and model 'tiny' reads only its own dialect"):
        opened(words, source=str(path))


def test_the_command_writes_what_the_bundled_model_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = ["--length", "256", "--sessions", "2", "--turns", "2"]
    assert main(["data", "--task", "kv", "needle", "--model", "tiny", "--out", "rows", *sizes]) == 0
    assert sorted(path.name for path in Path("rows").iterdir()) == ["needle.jsonl", "scbench_kv.jsonl"]
    run = ["run", "--task", "kv", "--results", "results", *sizes]
    assert main([*run, "--source", "rows"]) == main(run) == 0
    read, made = sorted(load_rows(Path("results")), key=lambda row: row.source)[::-1]
    assert (read.source, made.source) == ("rows", "generated")
    assert read.session_scores == made.session_scores
    assert read.run_id != made.run_id
    assert "--source rows" in read.command
    capsys.readouterr()
    assert main(["data", "--task", "kv", "--length", "0", "--out", "rows"]) == 2
    assert "length must be at least 1" in capsys.readouterr().err


def test_the_run_id_follows_what_the_rows_hold(words: Loaded, tmp_path: Path) -> None:
    ids = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        write(["kv"], tmp_path / name, length=256, sessions=1, turns=2, seed=seed, model="tiny")
        ids.append(prepare(RunConfig(source=str(tmp_path / name), length=256, turns=2), words).id)
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": "nowhere"}, "no such source: nowhere; choose generated, scbench, a hub id"),
        ({"source": "{folder}", "task": "vt"}, r"holds nothing for task 'vt': expected scbench_vt\.jsonl"),
        ({"source": "{folder}", "seed": 1}, "seed is for generated sessions"),
        ({"source": "{folder}", "depth": 50}, "depth is for generated sessions"),
        ({"source": "scbench", "task": "needle"}, "source 'scbench' has no task 'needle'; choose from kv"),
        ({"source": "me/mine", "task": "needle"}, "source 'me/mine' has no task 'needle'"),
        ({"prompts": "reference"}, "prompts 'reference' are those of SCBench's data; give it with --source"),
    ],
)
def test_mistakes_are_found_before_anything_is_loaded(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    write(["kv"], tmp_path, length=256, sessions=1, turns=2, seed=0)
    given = {key: str(tmp_path) if value == "{folder}" else value for key, value in changes.items()}
    with pytest.raises(UsageError, match=words):
        RunConfig(**given)
