"""The scorers as metrics of ``evaluate``, loaded from the tree in a process that cannot reach a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import setuptools
from kvpress_eval.errors import UsageError
from kvpress_eval.metrics import module_path

SCRIPT = """
import json, socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("network")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
import evaluate, numpy
from kvpress_eval.metrics import module_path
found = {}
for scorer in ("reference", "corrected"):
    metric = evaluate.load(module_path(scorer))
    needles = [{"name": "f", "needle": "def f(x):\\n    return x"}]
    golds = [417, ["Light", "A"], "71432", {"func_name": "f", "lang": "python", "needles": needles}]
    answers = ["-417", "(A)", "document 3: 71432", needles[0]["needle"]]
    tasks = ["mf", "choice_eng", "summary_with_needles", "repoqa_and_kv"]
    metric.add(prediction="so 0123", reference="0123")
    metric.add_batch(predictions=["0123"], references=["123"])
    found[scorer] = [
        metric.compute(task="needle"),
        metric.compute(predictions=answers, references=golds, task=tasks),
        metric.compute(predictions=["9"] * 3, references=numpy.array([9, 9, 8]), task="scbench_mf"),
    ]
    for wrong in (
        dict(predictions=["9", "8"], references=[9, 8], task=["mf"]),
        dict(predictions=["9"], references=[{1, 2}], task="mf"),
        dict(predictions=[], references=[], task="mf"),
    ):
        try:
            metric = evaluate.load(module_path(scorer))
            metric.compute(**wrong)
        except Exception as error:
            found[scorer].append(f"{type(error).__name__}: {error}")
json.dump(found, open(sys.argv[1], "w"))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    folder = tmp_path_factory.mktemp("evaluate")
    environment = {
        **os.environ,
        "PYTHONPATH": ":".join(sys.path),
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", SCRIPT, str(folder / "found.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "found.json").read_text())


def test_scores_and_their_mean(found: dict[str, list[Any]]) -> None:
    assert found["reference"][0] == {"score": 0.5, "scores": [1.0, 0.0]}
    assert found["corrected"][0] == found["reference"][0]
    assert found["reference"][1]["scores"] == [1.0, 0.0, 0.0, 1.0]
    assert found["corrected"][1]["scores"] == [0.0, 1.0, 1.0, 1.0]
    assert found["corrected"][1]["score"] == 0.75
    assert found["corrected"][2]["score"] == pytest.approx(2 / 3)


def test_mistakes(found: dict[str, list[Any]]) -> None:
    for scorer in ("reference", "corrected"):
        tasks, kind, none = found[scorer][3:]
        assert tasks == "UsageError: 1 tasks for 2 answers; give one name, or one an answer"
        assert kind.startswith("UsageError: a reference is text, a number, a list or a mapping, got set")
        assert none.startswith("UsageError: no answers to score")


def test_module_paths() -> None:
    path = Path(module_path("reference"))
    assert (path / f"{path.name}.py").is_file()
    with pytest.raises(UsageError, match="did you mean 'corrected'"):
        module_path("corected")


def test_a_wheel_holds_the_modules() -> None:
    # the folders evaluate loads are packages without an __init__, which setuptools takes as well
    names = setuptools.find_namespace_packages(
        where=str(Path(module_path("reference")).parents[3]), include=["kvpress*"]
    )
    assert {f"kvpress_eval.metrics.modules.kvpress_{s}" for s in ("reference", "corrected")} <= set(names)
