from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow
import pytest
from kvpress_eval.cli import main
from kvpress_eval.errors import UsageError
from kvpress_eval.runs.config import RunConfig
from kvpress_eval.sources import _read, data_files, find_sources, hub_rows
from kvpress_eval.sources.scbench_records import SCBENCH_TASKS, record
from pyarrow import parquet

from tests.eval.sources.scbench_rows import make


def test_rows_are_straightened() -> None:
    found = {task: record(task, make(task, 1), 1, "here", 5) for task in SCBENCH_TASKS}
    assert found["mf"].context == "[17, 3, 41]", "as the released prompts show a list"
    assert found["vt"].context.startswith("Track.")
    assert {task: r.id for task, r in found.items() if r.id != "1"} == {"vt": "8"}
    assert found["choice_eng"].questions[1].gold == ("Zoe", "D")
    assert found["vt"].questions[0].answer == "['AA', 'BB']"
    assert (found["repoqa"].repo, found["repoqa"].lang) == ("r/r", "python")
    assert len({r.digest for r in found.values()}) == 12
    assert len(record("kv", make("kv", 1), 1, "here", 1).questions) == 1


def test_a_struct_of_lists_is_a_list_of_structs() -> None:
    row = make("kv", 0)
    turns = row["multi_turns"]
    turned = {**row, "multi_turns": {key: [turn[key] for turn in turns] for key in turns[0]}}
    assert record("kv", turned, 0, "here", 5) == record("kv", row, 0, "here", 5)


def _without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda row: row.pop(key)


def _turn(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda row: row["multi_turns"][1].update(changes)


@pytest.mark.parametrize(
    ("task", "spoil", "words"),
    [
        ("kv", _without("context"), "has no text in context"),
        ("kv", _without("multi_turns"), "has no multi_turns"),
        ("kv", lambda row: row.update(multi_turns=[]), "has no multi_turns"),
        ("kv", lambda row: row.update(multi_turns=["a"]), "a turn that is no object"),
        ("kv", _turn(input=" "), r"turn 2 has no text in input"),
        ("kv", lambda row: row["multi_turns"][1].pop("answer"), "turn 2 has no answer"),
        ("kv", _turn(answer=None), "turn 2 has no answer"),
        ("kv", _turn(answer=""), "turn 2 has answer '', expected text"),
        ("kv", _turn(answer=["a"]), "expected text"),
        ("vt", _turn(answer="AA"), "expected a list of variable names"),
        ("vt", _turn(answer=[]), "expected a list of variable names"),
        ("qa_eng", _turn(answer=["", "a"]), "expected text"),
        ("choice_eng", _turn(answer="Ada"), "which is 0 of the options"),
        ("choice_eng", _turn(options=["Zoe", "Zoe", "a", "b"]), "which is 2 of the options"),
        ("choice_eng", _turn(options=["Zoe", "a"]), "expected four texts"),
        ("many_shot", _turn(answer="AB"), "expected one option letter"),
        ("mf", _turn(answer="many"), "expected a number"),
        ("mf", _turn(answer=True), "expected a number"),
        ("repoqa", _without("lang"), "has no repo or no lang"),
        ("repoqa", lambda row: row["multi_turns"][1].pop("name"), "turn 2 has no name"),
        ("summary_with_needles", _turn(task="scbench_kv"), "expected scbench_summary or scbench_passkey"),
        ("summary_with_needles", _turn(answer="none"), "expected digits"),
        ("kv", lambda row: row.update(meta={"evidence": [[[0, 4]]]}), "a meta.evidence that is not"),
        ("kv", lambda row: row.update(meta={"evidence": [[[0, 4]], [[0, 4000]]]}), "a meta.evidence that is not"),
        ("kv", lambda row: row.update(meta={"evidence": [[[0, 4]], [5]]}), "a meta.evidence that is not"),
    ],
)
def test_a_row_that_is_not_of_the_schema_is_named(task: str, spoil: Callable[[Any], object], words: str) -> None:
    row = copy.deepcopy(make(task, 0))
    record(task, row, 0, "rows.jsonl, line 3", 5)
    spoil(row)
    with pytest.raises(UsageError, match=rf"^rows\.jsonl, line 3.*{words}"):
        record(task, row, 0, "rows.jsonl, line 3", 5)


@pytest.mark.parametrize("task", ["mf", "choice_eng", "vt", "repoqa_and_kv"])
def test_parquet_holds_the_same_rows(data: Path, tmp_path: Path, task: str) -> None:
    rows = [make(task, i) for i in range(2)]
    folder = tmp_path / "data"  # as in a copy of the hub's repository
    folder.mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"scbench_{task}.parquet")
    theirs = _read(str(tmp_path), task, 9, 5)
    ours = _read(str(data), task, 9, 5)
    assert theirs.digest == ours.digest
    assert [(r.id, r.context, r.questions) for r in theirs.records] == [
        (r.id, r.context, r.questions) for r in ours.records
    ]


def test_shards_are_read_in_their_order(tmp_path: Path) -> None:
    folder = tmp_path / "scbench_kv"
    folder.mkdir()
    for i in (1, 0):
        parquet.write_table(pyarrow.Table.from_pylist([make("kv", i)]), folder / f"test-{i:05}.parquet")
    assert [r.id for r in _read(str(tmp_path), "kv", 9, 5).records] == ["0", "1"]


def test_nothing_after_the_sessions_asked_for_is_read(tmp_path: Path) -> None:
    path = tmp_path / "kv.jsonl"
    path.write_text(json.dumps(make("kv", 0)) + "\n{broken\n")
    assert len(_read(str(path), "kv", 1, 5).records) == 1
    with pytest.raises(UsageError, match=r"kv\.jsonl, line 2 is not JSON"):
        _read(str(path), "kv", 2, 5)


def test_rows_of_one_id_are_two_sessions(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({**make("kv", i), "id": 4}) for i in range(2)))
    assert [r.id for r in _read(str(path), "kv", 2, 5).records] == ["4", "4.1"]


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text("[1]\n")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "fake.parquet").write_text("no")
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "rows.csv").write_text("a,b")
    for name, words in (
        ("list.jsonl", "line 1 holds list; expected an object"),
        ("binary.jsonl", "expected UTF-8 text"),
        ("fake.parquet", "expected a parquet file"),
        ("empty.jsonl", "holds no rows of task 'kv'"),
        ("rows.csv", r"expected a \.jsonl or \.parquet file"),
        (".", "holds nothing for task 'kv'"),
    ):
        with pytest.raises(UsageError, match=words):
            _read(str(tmp_path / name), "kv", 1, 5)


def test_paths_and_hub_ids_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not data_files.is_local("owner/name")
    (tmp_path / "owner" / "name").mkdir(parents=True)
    for source in ("owner/name", "./x/y", "~/x", "kv.jsonl", "a/b/c", "nowhere"):
        assert data_files.is_local(source), source


class Hub:
    """Stands for ``datasets.load_dataset``."""

    def __init__(self, splits: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        self.splits, self.asked = splits, list[tuple[Any, ...]]()
        monkeypatch.setattr(datasets, "load_dataset", self)

    def __call__(self, name: str, config: str, split: str, revision: str | None) -> list[dict[str, Any]]:
        self.asked.append((name, config, split, revision))
        if not self.splits:
            raise ConnectionError("cannot\nreach the hub")
        if split not in self.splits:
            raise ValueError(f'Unknown split "{split}". Should be one of {self.splits}.')
        return [make("kv", i) for i in range(3)]


def test_the_hub_is_asked_for_a_pinned_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Hub(("test",), monkeypatch)
    assert len(list(hub_rows.rows("scbench", "kv"))) == 3
    assert found.asked == [("microsoft/SCBench", "scbench_kv", "test", "283310bb8c5ba6909dd9a6b1be087d2937f76f6d")]


def test_old_revisions_have_another_split(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Hub(("train",), monkeypatch)
    where, row = next(iter(hub_rows.rows("me/mine", "kv")))
    assert (where, row) == ("me/mine scbench_kv, row 1", make("kv", 0))
    assert found.asked == [("me/mine", "scbench_kv", "test", None), ("me/mine", "scbench_kv", "train", None)]


def test_without_the_hub_it_is_one_line_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    Hub((), monkeypatch)
    with pytest.raises(UsageError, match=r"cannot load scbench_kv .*cannot reach the hub.*download scbench_kv\.jsonl"):
        list(hub_rows.rows("scbench", "kv"))


@pytest.fixture
def dead_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub that is to be asked and cannot be reached; the folder of the copies that ``datasets`` keeps."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: pytest.fail("the hub is asked again"))
    return tmp_path


@pytest.mark.parametrize(
    ("source", "task", "told"),
    [
        ("scbench", "kv", "cannot load scbench_kv of microsoft/SCBench: it is not here, and the hub"),
        ("me/mine", "vt", "download scbench_vt.jsonl and name its folder with --source"),
        ("me/mine:part", "lm_text", "cannot load part of me/mine: it is not here, and the hub"),
        ("me/mine", "lm_text", "give files with --text"),
    ],
)
def test_a_hub_that_cannot_be_reached_is_known_at_once(
    source: str, task: str, told: str, dead_hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = ["--results", str(dead_hub / "rows")]
    sweep = dead_hub / "sweep.yaml"
    sweep.write_text(f"source: {source}\ntasks: [{task}]\n")
    for words in (["run", "--source", source, "--task", task], ["sweep", str(sweep)]):
        start = time.monotonic()
        assert main([*words, *results]) == 2
        assert time.monotonic() - start < 10
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line and "KVPRESS_HUB_RETRY=1" in line and len(line) < 307


def test_a_copy_is_enough_and_retries_are_the_hubs(dead_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(source: str, *tasks: str) -> None:
        find_sources([RunConfig(source=source, task=task) for task in tasks])

    held = [("microsoft___sc_bench", "scbench_repoqa_and_kv"), ("me___my_set2", "default-1f"), ("me___texts", "part")]
    for name, config in held:
        (dead_hub / name / config / "0.0.0" / "abc").mkdir(parents=True)
    find("scbench", "repoqa_and_kv")
    find("me/MySet2", "lm_text")
    find("me/MySet2:default", "lm_text")
    find("me/texts:part", "lm_text")
    for source, tasks in (
        ("scbench", ["repoqa"]),
        ("scbench", ["repoqa_and_kv", "kv"]),
        ("me/texts:other", ["lm_text"]),
    ):
        with pytest.raises(UsageError, match="it is not here"):
            find(source, *tasks)
    monkeypatch.setenv("KVPRESS_HUB_RETRY", "1")
    find("me/none", "kv")


def test_the_hub_is_asked_once_for_a_data_set(dead_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, float]] = []

    class Session:
        def head(self, url: str, timeout: float) -> None:
            asked.append((url, timeout))

    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    find_sources([RunConfig(source="scbench", task=task) for task in SCBENCH_TASKS])
    assert asked == [("http://127.0.0.1:9/datasets/microsoft/SCBench/resolve/main/README.md", 5.0)]


def test_the_folder_of_a_copy_is_the_one_that_datasets_looks_for() -> None:
    from datasets.naming import camelcase_to_snakecase

    for name in ("SCBench", "MySet2", "wikitext", "a-B_c", "C4x", "HTMLPages"):
        assert hub_rows._snake(name) == camelcase_to_snakecase(name), name
