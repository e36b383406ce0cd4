"""The script that measures peers: its figures, and its way from an export to rows that stand beside ours."""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from kvpress_eval.cli import main
from kvpress_eval.importers import import_results
from kvpress_eval.report import generate
from kvpress_eval.report.measure_changes import forced
from kvpress_eval.rows.parsing import read_rows
from kvpress_eval.rows.row import Row
from kvpress_eval.rows.row_files import load_rows
from transformers import DynamicCache

PEERS = Path(__file__).parents[3] / "eval" / "peers"
LM = ["--length", "204", "--forced", "37", "--sessions", "2"]
NEEDLE = ["--length", "690", "--turns", "2", "--sessions", "2"]
OURS = "streaming_llm@kvpress(keep=0.5)"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The command; its sibling is found as it is when the file is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PEERS))
        spec = importlib.util.spec_from_file_location("peers_measure", PEERS / "measure.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
        sys.modules.pop("reading", None)


@pytest.fixture(scope="module")
def reading(script: ModuleType) -> ModuleType:
    return sys.modules["reading"]


@pytest.mark.parametrize("name", ["measure", "reading"])
def test_the_script_needs_nothing_of_ours(name: str) -> None:
    tree = ast.parse((PEERS / f"{name}.py").read_text())
    names = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names])
    }
    assert "kvpress_eval" not in names
    at_import = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert "kvpress" not in at_import  # NVIDIA's, which only its presses need


def test_divergence_is_that_of_a_plain_sum(reading: ModuleType) -> None:
    full, press = torch.randn(5, 11), torch.randn(5, 11)
    full[2, 3] = -torch.inf  # ruled out: nothing to lose
    press[4] = full[4]
    tokens = torch.tensor([0, 3, 7, 10, 5])
    nll, kl, agree = reading.divergence(full, press, tokens)
    for t in range(5):
        p, q = (torch.softmax(x[t].double(), 0).tolist() for x in (full, press))
        assert nll[t] == pytest.approx(-math.log(q[tokens[t]]))
        assert kl[t] == pytest.approx(sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q) if a), abs=1e-12)
        assert agree[t] == (p.index(max(p)) == q.index(max(q)))
    assert kl[4] == 0


def test_bytes_are_those_of_every_tensor_once(reading: ModuleType) -> None:
    cache = DynamicCache()
    for layer in range(2):
        cache.update(torch.zeros(1, 3, 7, 5), torch.zeros(1, 3, 7, 9), layer)
    packed = torch.zeros(13, dtype=torch.uint8)
    cache.layers[0]._quantized_keys = (packed, {"scale": torch.zeros(3), "nested": [packed]})
    assert reading.held_bytes(cache) == 2 * (3 * 7 * 5 * 4 + 3 * 7 * 9 * 4) + 13 + 12


def test_gold_measures(reading: ModuleType) -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, 0.0]])
    found = reading.gold_measures(logits, [1, 2])
    expected = (1 - math.log(1 + math.e + 1 / math.e) - math.log(math.e**2 + 2)) / 2
    assert found == {"gold_logprob": pytest.approx(expected, abs=1e-6), "gold_argmax": 0.0}
    assert reading.gold_measures(logits, [1, 0])["gold_argmax"] == 1.0
    assert reading.gold_measures(logits[:0], []) == {"gold_logprob": None, "gold_argmax": None}


class Streaming:
    """A peer that keeps 4 sinks and the newest tokens: half of all, with their rotations."""

    def cache(self) -> DynamicCache:
        self.made = DynamicCache()
        return self.made

    @contextmanager
    def press(self, model: Any) -> Iterator[None]:
        yield
        for layer in self.made.layers:
            n = layer.keys.shape[2]
            slots = [*range(4), *range(n - n // 2 + 4, n)]
            layer.keys, layer.values = layer.keys[:, :, slots], layer.values[:, :, slots]


@pytest.fixture(scope="module")
def measured(
    script: ModuleType, text_model: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Row], dict[str, Row]]:
    """Folder of rows, and the rows by task and press: ours and the peer's, on the same passages and sessions."""
    folder = tmp_path_factory.mktemp("peers")
    words = ["--model", text_model]
    runs = {"lm_reference": LM, "needle": [*NEEDLE, "--mode", "multi-request"]}
    for task, sizes in runs.items():
        exported = NEEDLE if task == "needle" else LM
        assert main(["data", "--task", task, *words, *exported, "--out", str(folder / "in")]) == 0
        for press in ("full", OURS):
            run = ["--dtype", "float32", "--results", str(folder / "rows")]
            assert main(["run", "--task", task, "--press", press, *words, *sizes, *run]) == 0
    ours = {f"{row.task} {row.press.split('(')[0]}": row for row in load_rows(folder / "rows")}

    peer = Streaming()
    with pytest.MonkeyPatch.context() as patch:
        theirs = script.Peer("StreamingPress(0.5)", peer.cache, lambda: peer.press)
        patch.setattr(script, "hqq", lambda bits, config: [theirs])
        inputs = [str(folder / "in" / f"{task}.jsonl") for task in runs]
        arguments = ["hqq", *inputs, "--model", text_model, "--name", text_model, "--out", str(folder / "out")]
        assert script.main(arguments) == 0
        assert script.main(arguments) == 0  # nothing to do
    done = import_results("peer", folder / "out", folder / "rows")
    assert not done.skipped and len(done.new) == 4
    return folder / "rows", ours, {f"{row.task} {row.press.split('(')[0]}": row for row in done.new}


@pytest.mark.parametrize("press", ["full", "streaming"])
def test_a_peer_that_does_the_same_has_our_divergence(
    measured: tuple[Path, dict[str, Row], dict[str, Row]], press: str
) -> None:
    _, ours, theirs = measured
    mine = next(row for name, row in ours.items() if name.lower().startswith(f"lm_reference {press}"))
    other = next(row for name, row in theirs.items() if name.lower().startswith(f"lm_reference {press}"))
    assert mine.session_ids == other.session_ids
    assert mine.measures.keys() == other.measures.keys()
    for name, values in mine.measures.items():
        assert [v for (v,) in other.measures[name]] == pytest.approx([v for (v,) in values], rel=1e-3, abs=1e-5), name
    assert other.bytes_ratio == pytest.approx(mine.bytes_ratio, rel=0.02)  # ours counts positions too
    assert (sum(v or 0 for (v,) in other.measures["kl"]) > 0.01) == (press != "full")


@pytest.mark.parametrize("press", ["full", "streaming"])
def test_answers_are_scored_as_ours_are(measured: tuple[Path, dict[str, Row], dict[str, Row]], press: str) -> None:
    _, ours, theirs = measured
    mine = next(row for name, row in ours.items() if name.lower().startswith(f"needle {press}"))
    other = next(row for name, row in theirs.items() if name.lower().startswith(f"needle {press}"))
    assert mine.session_ids == other.session_ids
    assert (mine.session_scores, mine.reference_scores) == (other.session_scores, other.reference_scores)
    assert (mine.scorer, mine.mode, mine.schedule.split("+")[0]) == (other.scorer, other.mode, other.schedule)
    assert (mine.hit_limit, mine.empty) == (other.hit_limit, other.empty)
    for mine_one, other_one in zip(mine.measures["gold_logprob"], other.measures["gold_logprob"], strict=True):
        assert other_one == pytest.approx(mine_one, abs=1e-4)


def test_peers_stand_in_one_table_with_ours(
    measured: tuple[Path, dict[str, Row], dict[str, Row]], tmp_path: Path
) -> None:
    rows, _, theirs = measured
    assert not read_rows(rows)[1]
    (found,) = forced(generate.read(rows).analysis)
    origins = {line.cell.method.asked: line.cell.table.origin for line in found.lines}
    assert len(found.lines) == 4
    assert origins["StreamingPress(0.5)"].startswith("transformers ")
    for row in theirs.values():
        assert row.origin.startswith("transformers ")
    text = generate.write(rows, tmp_path).readme.read_text()
    lines = [line.split("|") for line in text.splitlines() if line.startswith("| `StreamingPress(0.5)`")]
    held = [cells[2].strip() for cells in lines if "transformers" not in cells[1]]
    assert held == ["49.9 %"] * 2  # of questions, by both scorers: what a peer measured of bytes is shown


def session(**changes: Any) -> dict[str, Any]:
    expected = [{"task": "needle", "answer": "17", "gold": None}, {"task": "needle", "answer": "5", "gold": ["5", "6"]}]
    return {"id": "s#1", "answers": ["17", "?"], "stopped": [True, False], "expected": expected, **changes}


def test_golds_of_answers_are_checked(tmp_path: Path) -> None:
    shared = {"kind": "kvpress-peer", "origin": "Other 1.0", "press": "P", "model": "m"}
    row = {"task": "needle", "length": 512, "seed": 0, "source": "generated", "rendering": "natural"}
    given = {
        "good": session(),
        "short": session(stopped=[True]),
        "none": session(answers=[], stopped=[], expected=[]),
        "gold": session(expected=[{"answer": "17"}] * 2),
        "text": session(expected="ab"),
    }
    for name, one in given.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({**shared, "row": row, "sessions": [one]}))
    done = import_results("peer", tmp_path, tmp_path / "into")
    assert {Path(one.path).stem for one in done.skipped} == given.keys() - {"good"}
    (good,) = done.rows
    assert (good.session_scores, good.hit_limit) == ([[1.0, 0.0]], 0.5)
