"""Result folders as NVIDIA's evaluate.py 0.5.5 writes them, made here by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from kvpress_eval.importers import Imported, import_results
from kvpress_eval.rows.parsing import read_rows
from kvpress_eval.rows.row import Row
from kvpress_eval.rows.row_files import load_rows

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
NAME = "ruler__4096__meta-llama--Llama-3.1-8B-Instruct__snapkv__0.50"
CONFIG = f"""dataset: ruler
data_dir: '4096'
model: {MODEL}
device: null
press_name: snapkv
compression_ratio: 0.5
key_channel_compression_ratio: null
fraction: 1.0
max_context_length: null
query_aware: false
needle_depth: null
output_dir: ./results
model_kwargs:
  attn_implementation: flash_attention_2
  dtype: auto
press_init_command: SnapKVPress(compression_ratio=0.5, window_size=64, kernel_size=5)
seed: 42
fp8: false
"""
# pandas writes a column of arrays as numpy prints them: no commas
ANSWERS = [
    ("niah_multivalue", "['4821337' '9920113']", "they are 4821337\x0b and 77, 9920113"),
    ("niah_multivalue", "['1111111'\n '2222222']", "2222222"),
    ("niah_multivalue", "[\"it's\" 'b,c']", ""),
    ("qa_1", "['Oram', 'the town of Oram']", "It is ORAM."),
]
METRICS = {"niah_multivalue": {"string_match": 50.0}, "qa_1": {"string_match": 100.0}}


def run(
    home: Path, config: str | None = CONFIG, metrics: Any = METRICS, answers: list[tuple[str, str, str]] = ANSWERS
) -> Path:
    home.mkdir(parents=True)
    with (home / "predictions.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["question", "answer", "task", "predicted_answer", "length"])
        table.writerows([["What?", gold, task, said, "4096"] for task, gold, said in answers])
    (home / "metrics.json").write_text(metrics if isinstance(metrics, str) else json.dumps(metrics, indent=4))
    if config is not None:
        (home / "config.yaml").write_text(config)
    return home


def by_task(done: Imported) -> dict[str, Row]:
    return {row.task: row for row in done.rows}


def reasons(done: Imported) -> dict[str, str]:
    return {item.path: item.reason for item in done.skipped}


def test_a_run_becomes_a_row_for_each_task(tmp_path: Path) -> None:
    run(tmp_path / "results" / NAME)
    done = import_results("nvidia", tmp_path / "results", tmp_path / "rows")
    assert not done.skipped
    found = by_task(done)
    assert set(found) == {"ruler_niah_multivalue", "ruler_qa_1"}
    row = found["ruler_niah_multivalue"]
    assert row.session_scores == [[1.0], [0.5], [0.0]]
    assert row.score == 0.5
    assert row.press == "snapkv(compression_ratio=0.5)"
    assert (row.origin, row.scorer) == ("NVIDIA/kvpress results", "imported")
    assert (row.suite, row.source, row.length) == ("ruler", "simonjegou/ruler", 4096)
    assert (row.mode, row.question_visible, row.schedule) == ("multi-request", False, "after_context")
    assert "SnapKVPress(" in row.press_spec
    assert row.command.startswith("python evaluate.py --dataset ruler --data_dir 4096 --model meta-llama/Llama-3.1")
    assert "--compression_ratio 0.5" in row.command
    assert row.bytes is None and row.bytes_ratio is None and row.ttft_s is None  # not measured, not 0
    (shown, other), ignored = read_rows(tmp_path / "rows")
    assert not ignored
    assert {shown.bytes_ratio, other.bytes_ratio, shown.tpot_s, shown.seconds} == {None}


def test_again_changes_nothing_and_new_results_replace_the_old(tmp_path: Path) -> None:
    home, rows = tmp_path / "results" / NAME, tmp_path / "rows"
    run(home)
    assert len(import_results("nvidia", tmp_path / "results", rows).new) == 2
    before = {path: path.read_bytes() for path in rows.rglob("*.json")}
    assert len(import_results("nvidia", home, rows).same) == 2  # the folder of one run will do
    assert {path: path.read_bytes() for path in rows.rglob("*.json")} == before
    run(home / "1", metrics={**METRICS, "qa_1": {"string_match": 0.0}}, answers=[*ANSWERS[:3], ("qa_1", "['a']", "")])
    done = import_results("nvidia", tmp_path / "results", rows)
    assert [row.task for row in done.replaced] == ["ruler_qa_1"]
    assert reasons(done) == {NAME: f"an older run of the settings of {NAME}/1, which was taken"}
    assert len(load_rows(rows)) == 2


def test_the_full_cache_pairs_with_a_press(tmp_path: Path) -> None:
    run(tmp_path / "r" / NAME)
    full = CONFIG.replace("press_name: snapkv", "press_name: no_press").replace("ratio: 0.5", "ratio: 0.0")
    run(tmp_path / "r" / NAME.replace("snapkv__0.50", "no_press__0.00"), full)
    done = import_results("nvidia", tmp_path / "r", tmp_path / "rows")
    assert {row.press for row in done.rows} == {"full", "snapkv(compression_ratio=0.5)"}
    assert len({tuple(row.session_ids) for row in done.rows if row.task == "ruler_qa_1"}) == 1
    assert len({row.run_id for row in done.rows}) == 4


def test_without_settings_the_name_of_the_folder_counts(tmp_path: Path) -> None:
    run(tmp_path / "r" / f"{NAME}__fraction0.100__query_aware", config=None)
    row = by_task(import_results("nvidia", tmp_path / "r", tmp_path / "rows"))["ruler_qa_1"]
    assert (row.model, row.press, row.length) == (MODEL, "snapkv(compression_ratio=0.5)", 4096)
    assert row.question_visible is True
    assert row.source == "simonjegou/ruler (10 % of it)"
    assert row.command == ""  # the folder does not say all of it


def test_a_number_that_the_answers_do_not_give_is_kept_as_given(tmp_path: Path) -> None:
    run(tmp_path / "r" / NAME, metrics={"qa_1": {"string_match": 73.25}})
    (row,) = import_results("nvidia", tmp_path / "r", tmp_path / "rows").rows
    assert (row.score, row.sessions, row.session_ids) == (0.7325, 1, ["ruler/4096/qa_1/all"])


@pytest.mark.parametrize(
    ("dataset", "data_dir", "metrics", "task", "score"),
    [
        ("longbench", "hotpotqa", 43.21, "longbench_hotpotqa", 0.4321),
        ("longbench-e", "qasper", {"0-4k": 40.0, "4-8k": 35.5, "8k+": 20.0}, "longbench-e_qasper_4-8k", 0.355),
        ("infinitebench", "passkey", 0.875, "infinitebench_passkey", 0.875),
        ("loogle", "shortdep_qa", {"shortdep_qa": {"bleu1": 0.1, "rouge-l": 0.3, "bert": 0.9}}, "loogle_shortdep", 0.3),
        ("loogle", "shortdep_cloze", {"shortdep_cloze": {"exact_match": 0.2, "partial_match": 0.4}}, "loogle_", 0.2),
        ("longbench-v2", "0shot", {"average": 0.31, "easy": 0.4, "hard": 0.2}, "longbench-v2_0shot", 0.31),
        ("aime25", "", {"correct": 3, "answered": 9, "accuracy": 0.1, "total": 30}, "aime25", 0.1),
    ],
)
def test_other_data_sets_give_their_main_number(
    tmp_path: Path, dataset: str, data_dir: str, metrics: Any, task: str, score: float
) -> None:
    config = CONFIG.replace("dataset: ruler", f"dataset: {dataset}").replace("'4096'", data_dir or "null")
    run(tmp_path / "r" / "anything", config, metrics, [])
    found = by_task(import_results("nvidia", tmp_path / "r", tmp_path / "rows"))
    (name,) = [name for name in found if name.startswith(task)]
    assert found[name].score == pytest.approx(score)


def test_items_of_boxed_answers_and_of_needles(tmp_path: Path) -> None:
    config = CONFIG.replace("dataset: ruler", "dataset: math500").replace("'4096'", "null")
    answers = [("", "\\frac{1}{2}", "so \\boxed{\\frac{1}{2}}"), ("", "7", "\\boxed{8} or \\boxed{7}"), ("", "3", "3")]
    run(tmp_path / "r" / "a", config, {"correct": 1, "answered": 2, "accuracy": 1 / 3, "total": 3}, answers)
    config = CONFIG.replace("dataset: ruler", "dataset: needle_in_haystack").replace("depth: null", "depth: 40")
    items = [{"rouge-1": {"f": 0.9}, "rouge-l": {"r": 1.0, "p": 0.5, "f": 0.6}}, {"rouge-l": {"f": 0.2}}]
    run(tmp_path / "r" / "b", config.replace("length: null", "length: 8192"), items)
    found = by_task(import_results("nvidia", tmp_path / "r", tmp_path / "rows"))
    assert found["math500"].session_scores == [[1.0], [0.0], [0.0]]
    needle = found["needle_in_haystack_4096"]
    assert (needle.session_scores, needle.depth, needle.length) == ([[0.6], [0.2]], 40, 8192)


@pytest.mark.parametrize(
    ("changes", "press"),
    [
        ({"snapkv": "think", "key_channel_compression_ratio: null": "key_channel_compression_ratio: 0.4"}, "think"),
        ({"snapkv": "decoding_knorm", "fp8: false": "target_size: 2048\ncompression_interval: 512"}, "decoding_knorm"),
        ({"snapkv": "kvzap_mlp", "fp8: false": "threshold: -4.0"}, "kvzap_mlp"),
        ({"fp8: false": "fp8: true"}, "snapkv"),
    ],
)
def test_a_press_is_named_with_what_sets_it(tmp_path: Path, changes: dict[str, str], press: str) -> None:
    config = CONFIG.replace("SnapKVPress", "P")
    for old, new in changes.items():
        config = config.replace(old, new)
    run(tmp_path / "r" / NAME, config)
    wanted = {
        "think": "think(key_channel_compression_ratio=0.4)",
        "decoding_knorm": "decoding_knorm(compression_interval=512, target_size=2048)",
        "kvzap_mlp": "kvzap_mlp(threshold=-4)",
        "snapkv": "snapkv(compression_ratio=0.5) | fp8",
    }
    assert by_task(import_results("nvidia", tmp_path / "r", tmp_path / "rows"))["ruler_qa_1"].press == wanted[press]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda home: (home / "metrics.json").write_text('{"qa_1": {"stri'), "metrics.json is not JSON"),
        (lambda home: (home / "metrics.json").write_text('{"qa_1": {"string_match": NaN}}'), "nan is not a number"),
        (lambda home: (home / "metrics.json").write_text('{"qa_1": {"string_match": 140}}'), "not between 0 and 100"),
        (lambda home: (home / "metrics.json").write_text('{"qa_1": {"f1": 4}}'), "no 'string_match', only f1"),
        (lambda home: (home / "metrics.json").write_text("{}"), "no score in metrics.json"),
        (lambda home: (home / "metrics.json").unlink(), "the run did not finish"),
        (lambda home: (home / "config.yaml").write_text("dataset: [ruler"), "config.yaml is not YAML"),
        (lambda home: (home / "config.yaml").write_text("fraction: lots"), "fraction is 'lots', expected a number"),
        (lambda home: (home / "config.yaml").write_text("dataset: mmlu"), "unknown data set 'mmlu'"),
        (
            lambda home: home.rename(home.with_name("x")) and (home.with_name("x") / "config.yaml").unlink(),
            "no dataset",
        ),
        (lambda home: (home / "predictions.csv").write_text("task,answer\nqa_1,\"['a"), "predictions.csv is cut"),
    ],
)
def test_what_is_damaged_is_named_and_left_out(tmp_path: Path, spoil: Any, reason: str) -> None:
    spoil(run(tmp_path / "r" / NAME))
    run(tmp_path / "r" / NAME.replace("snapkv", "knorm"), CONFIG.replace("snapkv", "knorm"))
    done = import_results("nvidia", tmp_path / "r", tmp_path / "rows")
    (told,) = done.skipped
    assert reason in told.reason
    assert {row.press for row in done.rows} == {"knorm(compression_ratio=0.5)"}
    assert len(load_rows(tmp_path / "rows")) == 2
    assert not list((tmp_path / "rows").rglob("*.part"))


def test_other_files_and_folders_of_the_same_settings_are_named(tmp_path: Path) -> None:
    run(tmp_path / "r" / "mine" / NAME)
    run(tmp_path / "r" / "yours" / NAME, metrics={"qa_1": {"string_match": 50.0}})
    (tmp_path / "r" / "notes.txt").write_text("hello")
    done = import_results("nvidia", tmp_path / "r", tmp_path / "rows")
    assert reasons(done)["notes.txt"].startswith("not a file of this layout")
    assert reasons(done)[f"yours/{NAME}"] == f"the same settings as mine/{NAME}, which was taken"
    assert len(done.rows) == 2
