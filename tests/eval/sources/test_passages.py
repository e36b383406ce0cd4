"""The texts that are forced: fixed, whole, apart from each other."""

from __future__ import annotations

import ast
import json
import platform
import shlex
from pathlib import Path
from typing import Any

import pytest
from kvpress_eval.cli.parser import build_parser
from kvpress_eval.errors import UsageError
from kvpress_eval.models.bundled.dialect import decode
from kvpress_eval.runs.config import RunConfig
from kvpress_eval.runs.loaded import Loaded, load
from kvpress_eval.runs.prepare import prepare
from kvpress_eval.sources import Passages, genres, hub_rows, open_source
from kvpress_eval.sources.passage_cutting import cut
from kvpress_eval.suites import suite
from kvpress_eval.sweeps.grid import SweepConfig


@pytest.fixture(scope="module")
def text(text_model: str) -> Loaded:
    return load(text_model)


@pytest.fixture(scope="module")
def words(dialect_model: str) -> Loaded:
    return load(dialect_model)


def made(loaded: Loaded, **changes: Any) -> Passages:
    return cut(RunConfig(**{"length": 509, "forced": 67, "sessions": 12, **changes}), loaded.prompter)


@pytest.mark.parametrize("task", suite("lm"))
def test_what_every_python_holds_gives_twelve_passages_apart(text: Loaded, task: str) -> None:
    first, again, other = made(text, task=task), made(text, task=task), made(text, task=task, seed=1)
    assert first == again
    assert first.digest != other.digest
    assert first.told == f"Python {platform.python_version()}"
    assert len(first) == 12
    assert len({one.name for one in first.found}) == 12  # each of another document
    for one in first.found:
        assert (len(one.prefix), len(one.ids)) == (509, 67)
        assert one.prefix[0] != text.tokenizer.bos_token_id  # this tokenizer puts none
        assert text.tokenizer.decode([*one.prefix, *one.ids]) == one.text + one.forced
        assert one.id.startswith(f"{task}/509+67/0/")
    assert len({one.id for one in first.found}) == 12
    fewer = made(text, task=task, sessions=5)
    assert fewer.found == first.found[:5]
    long = made(text, task=task, length=60_000, sessions=2)
    assert all(len(one.prefix) == 60_000 for one in long.found)


def test_passages_of_one_text_do_not_overlap_and_all_there_are_are_used(text: Loaded, tmp_path: Path) -> None:
    numbers = "".join(f"{i:05d}\n" for i in range(1000))  # 6000 tokens, each line once
    (tmp_path / "a.txt").write_text(numbers[:3600])
    (tmp_path / "b.txt").write_text(numbers[3600:4200])
    (tmp_path / "c.txt").write_text(numbers[4200:])
    files = [str(tmp_path / name) for name in ("a.txt", "b.txt", "c.txt")]
    found = made(text, task="lm_text", text=files, length=800, forced=100, sessions=99)
    lines = [line for one in found.found for line in (one.text + one.forced).split("\n")[1:-1]]
    assert len(lines) == len(set(lines))
    assert len(found) == 4 + 2  # b.txt is too short, alone and with nothing to join it to
    assert [one.name for one in found.found][:2] in (["a.txt", "c.txt"], ["c.txt", "a.txt"])
    joined = made(text, task="lm_text", text=[files[1]] * 3, length=800, forced=100)
    assert [one.name for one in joined.found] == ["b.txt + b.txt"]
    assert "\n\n\n" in joined.found[0].text
    with pytest.raises(UsageError, match="has not 6100 tokens"):
        made(text, task="lm_text", text=files[1:2], length=6000, forced=100)


def test_the_begin_token_is_where_the_tokenizer_puts_it(text: Loaded, tmp_path: Path) -> None:
    from kvpress_eval.suites.prompt import Prompter
    from tokenizers.processors import TemplateProcessing

    tokenizer = load(text.name).tokenizer
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    path = tmp_path / "a.txt"
    path.write_text("abcdefgh" * 40)
    sizes = {"task": "lm_text", "text": [str(path)], "length": 50, "forced": 10, "sessions": 4}
    for one in cut(RunConfig(**sizes), Prompter(tokenizer, "natural")).found:
        assert one.prefix[0] == 1
        assert {1, 2}.isdisjoint([*one.prefix[1:], *one.ids])
        assert len(one.prefix) == 50


def test_other_texts_are_other_sessions_and_cells(text: Loaded, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one text. " * 90)
    config = RunConfig(task="lm_text", text=[str(path)], length=300, forced=40, sessions=2)
    before = prepare(config, text)
    path.write_text("two texts. " * 90)
    after = prepare(config, text)
    assert before.id != after.id
    assert before.source.episode(0).id != after.source.episode(0).id
    moved = tmp_path / "elsewhere" / "a.txt"
    moved.parent.mkdir()
    moved.write_text("two texts. " * 90)
    there = prepare(RunConfig(task="lm_text", text=[str(moved)], length=300, forced=40, sessions=2), text)
    assert there.id == after.id, "a cell is what its texts hold, not where they lie"


def test_rows_of_a_data_set_are_texts(text: Loaded, tmp_path: Path) -> None:
    rows = [{"text": f"line {i} of an article. " * 3, "n": i} for i in range(200)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = made(text, task="lm_text", source=str(file), length=400, forced=50, sessions=6)
    assert len(found) == 6
    assert found.told == "rows.jsonl"
    assert all("\n" in one.text for one in found.found)  # neighbouring rows are one document
    file.write_text('{"label": "x", "body": "y"}\n')
    with pytest.raises(UsageError, match="field text"):
        made(text, task="lm_text", source=str(file))


def test_a_data_set_of_the_hub_is_read_by_its_id(text: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps({"content": f"row {i} " * 50}) + "\n" for i in range(40)))
    monkeypatch.setattr("kvpress_eval.sources.data_files.is_local", lambda source: False)
    found = made(text, task="lm_text", source=str(folder), length=400, forced=50, sessions=3)
    assert len(found) == 3
    with pytest.raises(UsageError, match="cannot load"):
        hub_rows.texts(str(tmp_path / "nothing"))


def test_the_dialect_is_what_the_bundled_model_was_trained_on(words: Loaded) -> None:
    found = made(words, task="lm_dialect", length=331, forced=90, sessions=8)
    assert len(found) == 8
    assert found == made(words, task="lm_dialect", length=331, forced=90, sessions=8)
    for one in found.found:
        assert (len(one.prefix), len(one.ids)) == (331, 90)
        assert one.text.startswith("<bos> ")
        assert "?" not in one.text[: len(one.text) // 2]  # records first
        assert "?" in one.forced  # and then questions, with their answers
        assert decode(one.prefix) == one.text
        assert "<unk>" not in one.forced
    assert len({one.id for one in found.found}) == 8


def test_a_configuration_has_no_choice_that_means_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a file.txt"
    path.write_text("x")
    one = RunConfig(task="lm_text", text=[str(path)], mode="multi-turn", turns=5, history="own", forced_step=1)
    assert (one.mode, one.schedule, one.history, one.turns) == ("continuation", "after_context", "gold", 1)
    for config in (one, RunConfig(task="lm_code", forced=64, bytes="25%", press="snapkv", dtype="float32")):
        options = vars(build_parser().parse_args(shlex.split(config.command())[1:]))
        names = RunConfig.__dataclass_fields__
        given = {name: value for name, value in options.items() if name in names and value is not None}
        assert RunConfig(**given) == config
    for wrong, told in (
        ({"task": "kv", "forced": 64}, "forced is for"),
        ({"task": "kv", "mode": "continuation"}, "mode"),
        ({"task": "lm_code", "text": [str(path)]}, "text of its own"),
        ({"task": "lm_code", "source": "scbench"}, "text of its own"),
        ({"task": "lm_text"}, "needs a text"),
        ({"task": "lm_text", "text": [str(tmp_path / "none.txt")]}, "no such file"),
        ({"task": "lm_code", "chat": "on"}, "raw text"),
        ({"task": "lm_code", "forced": 0}, "at least 1"),
        ({"task": "lm_code", "forced_step": -1}, "at least 0"),
    ):
        with pytest.raises(UsageError, match=told):
            RunConfig(**wrong)


def test_a_sweep_gives_each_task_what_it_uses(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x")
    tasks = ("lm", "kv", "lm_text")
    cells = SweepConfig(tasks=tasks, presses=("knorm",), forced=64, text=(str(path),), turns=3).cells()
    kinds = {(cell.task, cell.mode, cell.forced, bool(cell.text), cell.turns) for cell in cells}
    assert kinds == {
        *((task, "continuation", 64, False, 1) for task in ("lm_reference", "lm_code", "lm_docstrings")),
        ("lm_text", "continuation", 64, True, 1),
        ("kv", "multi-turn", 256, False, 3),
        ("kv", "multi-request", 256, False, 3),
    }
    with pytest.raises(UsageError, match="forced is for"):
        SweepConfig(tasks=("kv",), forced=64).cells()


def test_passages_are_found_again_for_the_next_press(text: Loaded) -> None:
    config = RunConfig(task="lm_reference", length=301, forced=33, sessions=2)
    assert open_source(config, text) is open_source(RunConfig(**{**vars(config), "press": "int8"}), text)


def test_docstrings_are_of_everything_that_has_one() -> None:
    source = '''
"""Of the module."""
class A:
    """Of a class."""
    async def b(self):
        """Of an async method."""
        def c():
            """Of a function in it."""
async def d():
    """Of an async function."""
'''
    found = list(genres._of_module("pkg/mod.py", ast.parse(source.strip())))
    assert found == [
        "pkg.mod\n\nOf the module.",
        "pkg.mod.A\n\nOf a class.",
        "pkg.mod.A.b\n\nOf an async method.",
        "pkg.mod.A.b.c\n\nOf a function in it.",
        "pkg.mod.d\n\nOf an async function.",
    ]
