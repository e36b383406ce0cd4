"""Result folders as SCBench's run_scbench.py writes them, made here by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kvpress_eval.cli import main
from kvpress_eval.importers import Imported, import_results
from kvpress_eval.rows.parsing import read_rows
from kvpress_eval.rows.row_files import load_rows

FOLDER = "Llama-3.1-8B-Instruct_dense_snapkv_window_size=32-max_capacity_prompt=4096"
GOLD = "2d9ab7c8-394a-4062-9928-310e39201a2f"
OTHER = "7b06bda1-8d5c-4c2e-b8c5-6fce79a4d2a1"
KV = [
    {"id": 0, "turn_idx": 0, "prediction": f"It is {GOLD}.", "ground_truth": GOLD},
    {"id": 0, "turn_idx": 1, "prediction": f"{OTHER} {GOLD}", "ground_truth": GOLD},
    {"id": 1, "turn_idx": 0, "prediction": "", "ground_truth": OTHER},
    {"id": 1, "turn_idx": 1, "prediction": OTHER, "ground_truth": OTHER},
]


def predictions(folder: Path, rows: list[dict[str, Any]], name: str = "prediction_scbench_kv_multi_turn.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def take(tmp_path: Path) -> Imported:
    return import_results("scbench", tmp_path / "out", tmp_path / "rows")


def test_answers_are_scored_again_by_both_scorers(tmp_path: Path) -> None:
    predictions(tmp_path / "out" / FOLDER, KV)
    (row,) = take(tmp_path).rows
    assert row.session_scores == [[1.0, 0.0], [0.0, 1.0]]  # the first value is what was answered
    assert row.reference_scores == [[1.0, 1.0], [0.0, 1.0]]  # the release: anywhere in the answer
    assert (row.scorer, row.score, row.score_by_turn, row.n_by_turn) == ("corrected", 0.5, [0.5, 0.5], [2, 2])
    assert (row.model, row.task, row.mode, row.history) == ("Llama-3.1-8B-Instruct", "kv", "multi-turn", "gold")
    assert row.press == "snapkv(window_size=32, max_capacity_prompt=4096)"
    assert (row.suite, row.source, row.origin) == ("scbench", "microsoft/SCBench", "SCBench runner")
    assert (row.prompts, row.question_visible, row.empty) == ("reference", True, 0.25)
    assert row.bytes_ratio is None and row.hit_limit is None
    assert [one.split("#")[0] for one in row.session_ids] == ["kv/0", "kv/1"]
    (shown, twin), ignored = read_rows(tmp_path / "rows")
    assert twin.twin and twin.scorer == "reference" and twin.origin == shown.origin
    assert not ignored
    assert (shown.bytes, shown.chance, shown.seconds) == (None, None, None)


def test_again_changes_nothing(tmp_path: Path) -> None:
    path = predictions(tmp_path / "out" / FOLDER, KV)
    assert len(take(tmp_path).new) == 1
    (file,) = (tmp_path / "rows").rglob("*.json")
    before = file.read_bytes()
    assert len(import_results("scbench", path.parent, tmp_path / "rows").same) == 1
    assert file.read_bytes() == before
    predictions(path.parent, KV[:2])
    assert len(take(tmp_path).replaced) == 1
    assert [row.sessions for row in load_rows(tmp_path / "rows")] == [1]


@pytest.mark.parametrize(
    ("folder", "model", "press", "history"),
    [
        ("Qwen2.5_7B_my_tune_hf_dense", "Qwen2.5_7B_my_tune", "full", "gold"),
        ("Qwen2-7B_vllm_dense", "Qwen2-7B", "full", "gold"),
        ("m_minference_with_dense_sink_dense", "m", "minference_with_dense_sink", "gold"),
        ("m_vllm_a_shape_dense_n_init=128-n_local=4096", "m", "vllm_a_shape(n_init=128, n_local=4096)", "gold"),
        ("m_tri_shape_disable_golden_context_kivi", "m", "tri_shape | kivi", "own"),
        ("m_dense_retr_attn_top_k=1e-3", "m", "retr_attn(top_k=1e-3)", "gold"),
    ],
)
def test_the_folder_says_model_press_and_history(
    tmp_path: Path, folder: str, model: str, press: str, history: str
) -> None:
    predictions(tmp_path / "out" / folder, KV)
    (row,) = take(tmp_path).rows
    assert (row.model, row.press, row.history) == (model, press, history)


def test_multi_request_and_compressed_prompts(tmp_path: Path) -> None:
    predictions(tmp_path / "out" / FOLDER, KV, "prediction_scbench_kv_scdq_lingua.jsonl")
    (row,) = take(tmp_path).rows
    assert (row.mode, row.question_visible) == ("multi-request", False)
    assert row.press == "snapkv(window_size=32, max_capacity_prompt=4096) | llmlingua"


def test_golds_that_are_lists_and_letters(tmp_path: Path) -> None:
    vt = [{"id": 0, "turn_idx": 0, "prediction": "xkqpt and aazzb", "ground_truth": ["XKQPT", "AAZZB", "QQWER"]}]
    predictions(tmp_path / "out" / FOLDER, vt, "prediction_scbench_vt_scdq.jsonl")
    shots = [{"id": 3, "turn_idx": 0, "prediction": "(B) Saturday", "ground_truth": "A"}]
    predictions(tmp_path / "out" / FOLDER, shots, "prediction_scbench_many_shot_multi_turn.jsonl")
    found = {row.task: row for row in take(tmp_path).rows}
    assert (found["vt"].session_scores, found["vt"].reference_scores) == ([[0.0]], [[0.67]])
    assert (found["many_shot"].session_scores, found["many_shot"].reference_scores) == ([[0.0]], [[1.0]])


def test_an_answer_may_hold_what_unicode_calls_a_line_end(tmp_path: Path) -> None:
    predictions(tmp_path / "out" / FOLDER, [{**row, "prediction": "one\u2028two\u0085three"} for row in KV])
    (row,) = take(tmp_path).rows
    assert row.turns == 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[:-30], "line 4 is not JSON: the file is cut or damaged"),
        (lambda text: text.replace('"ground_truth"', '"gold"', 1), "line 1 has no id, turn_idx, prediction and ground"),
        (lambda text: text.replace('"turn_idx": 1', '"turn_idx": 2', 1), "session 0 has turns [0, 2], expected 0, 1"),
        (lambda text: text + text.splitlines()[0], "session 0 has turns [0, 0, 1]"),
        (lambda text: text.replace('"prediction": ""', '"prediction": null', 1), "line 3: prediction must be text"),
        (lambda text: text.replace(f'"ground_truth": "{OTHER}"', '"ground_truth": ""', 1), "must not be empty"),
        (lambda text: "\n", "no predictions in it"),
    ],
)
def test_what_is_damaged_is_named_and_left_out(tmp_path: Path, change: Any, reason: str) -> None:
    path = predictions(tmp_path / "out" / FOLDER, KV)
    path.write_text(change(path.read_text()))
    predictions(tmp_path / "out" / FOLDER, KV, "prediction_scbench_kv_scdq.jsonl")
    done = take(tmp_path)
    (told,) = done.skipped
    assert told.path == f"{FOLDER}/{path.name}"
    assert reason in told.reason
    assert [row.mode for row in done.rows] == ["multi-request"]


def test_the_command_names_what_it_took_and_what_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions(tmp_path / "out" / FOLDER, KV)
    predictions(tmp_path / "out" / "somewhere", KV)
    predictions(tmp_path / "out" / FOLDER, KV, "prediction_scbench_nosuch_scdq.jsonl")
    (tmp_path / "out" / "log.txt").write_text("hello")
    words = ["import", "scbench", str(tmp_path / "out"), "--into", str(tmp_path / "rows")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "0.500  kv · snapkv(window_size=32, max_capacity_prompt=4096) · Llama-3.1-8B-Instruct · 4 answers" in out
    assert "'somewhere' does not say <model>_<attention>_<kv type>" in out
    assert "unknown task 'nosuch'" in out
    assert "skipped log.txt: not a predictions file" in out
    assert "1 new, 0 replaced, 0 already there, 3 skipped; rows in" in out
    assert main(["report", "--results", str(tmp_path / "rows"), "--out", str(tmp_path)]) == 0
    assert "snapkv(window_size=32" in (tmp_path / "README.md").read_text()
    assert main(["import", "scbench", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["import", "scbench", str(tmp_path / "rows"), "--into", str(tmp_path / "x")]) == 1


ADD = "def add(a, b, c):\n    first = a + b * c\n    second = first - a\n    return first + second + c\n"
SUB = "def sub(left):\n    while left > 3:\n        left -= len(str(left))\n    return [left, left * 2]\n"


def test_mixed_tasks_and_functions_of_a_repository(tmp_path: Path) -> None:
    code = {"lang": "python", "repo": "x/y"}
    rows = [
        {
            "task": "scbench_repoqa",
            "func_name": "add",
            "prediction": f"```python\n{ADD}```",
            "ground_truth": ADD,
            **code,
        },
        {"task": "scbench_kv", "prediction": GOLD, "ground_truth": OTHER, **code},
        {"task": "scbench_repoqa", "func_name": "sub", "prediction": ADD, "ground_truth": SUB, **code},
    ]
    mixed = [{"id": 0, "turn_idx": t, **row} for t, row in enumerate(rows)]
    predictions(tmp_path / "out" / FOLDER, mixed, "prediction_scbench_repoqa_and_kv_multi_turn.jsonl")
    whole = [{"id": 0, "turn_idx": t, **row} for t, row in enumerate([rows[0], rows[2]])]
    predictions(tmp_path / "out" / FOLDER, whole, "prediction_scbench_repoqa_scdq.jsonl")
    found = {row.task: row for row in take(tmp_path).rows}
    row = found["repoqa_and_kv"]
    assert (row.turn_tasks, row.session_scores) == ([["repoqa", "kv", "repoqa"]], [[1.0, 0.0, 0.0]])
    assert row.subtasks == {"kv": 0.0, "repoqa": 0.5}
    assert (found["repoqa"].session_scores, found["repoqa"].turn_tasks) == ([[1.0, 0.0]], [])


def test_golds_that_are_numbers_choices_and_sentences(tmp_path: Path) -> None:
    asked = {
        "mf": ("417", 417),
        "choice_eng": ("A", ["Walking Georgie", "A"]),
        "qa_eng": ("Peyton.", ["Peyton"]),
        "qa_chn": ("王小明", "王小明"),
        "summary": ("the paper is long", "The paper is long."),
    }
    for task, (said, gold) in asked.items():
        rows = [{"id": 0, "turn_idx": 0, "prediction": said, "ground_truth": gold}]
        predictions(tmp_path / "out" / FOLDER, rows, f"prediction_scbench_{task}_scdq.jsonl")
    found = {row.task: row.score for row in take(tmp_path).rows}
    assert found == {**dict.fromkeys(asked, 1.0)}
