"""Commands that compute nothing, and mistakes, do not pay for torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.eval.report import made

SCRIPT = """
import contextlib, io, json, sys
from kvpress_eval.cli import main
for wanted, words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    assert code == wanted, (words, code, err.getvalue()[-500:])
    found = {"torch", "transformers"} & set(sys.modules)
    assert not found, (words, found)
    assert "Traceback" not in err.getvalue()
"""


def test_torch_is_imported_only_where_something_is_computed(tmp_path: Path) -> None:
    rows, out = tmp_path / "rows", tmp_path / "out"
    made.write_rows(rows, [made.make_row(press, "kv") for press in ("full", "snapkv(keep=0.25)")])
    (tmp_path / "sweep.yaml").write_text("presses: [full]\n")
    sweep = ["sweep", str(tmp_path / "sweep.yaml"), "--results", str(out)]
    show = ["show", "--press", "full"]
    where = ["--results", str(rows)]
    commands = [
        (0, ["--help"]),
        (0, ["--version"]),
        (0, ["run", "--help"]),
        (0, ["bench", "--help"]),
        (0, ["report", *where, "--out", str(out)]),
        (0, ["report", *where, "--out", str(out), "--check"]),
        (0, ["compare", "snapkv(keep=0.25)", "full", *where]),
        (2, ["compare", "snapkvv", "full", *where]),
        (2, ["compare", "kivi | int8", "full", *where]),
        (0, ["merge", str(rows), "--into", str(tmp_path / "into")]),
        (0, ["diff", str(rows), str(tmp_path / "into")]),
        (0, ["list"]),
        (0, ["models"]),
        (2, ["answers", "snapkv(keep=0.25)", *where]),
        (2, ["run", "--press", "snapkvv"]),
        (2, ["run", "--press", "snapkv(keep=2.5)"]),
        (2, ["run", "--press", "snapkv(keep=0.5"]),
        (2, ["run", "--press", "snapkv(windw=3)"]),
        (2, ["run", "--press", "snapkv(keep=2)"]),
        (2, ["run", "--press", "snapkv(pooling=median)"]),
        (2, ["run", "--press", "full | full"]),
        (2, ["run", "--press", "ada"]),
        (2, ["run", "--model", "/no/such/folder"]),
        (2, ["run", "--model", "no-such.gguf"]),
        (2, ["run", "--task", "kvv"]),
        (2, ["run", "--results", "/dev/null/x"]),
        (2, ["run", "--results", "/proc/x"]),
        (2, ["run", "--source", "scbench"]),
        (2, ["run", "--source", "owner/name", "--task", "vt"]),
        (2, ["run", "--source", "owner/name:part", "--task", "lm_text", "--length", "509"]),
        (2, [*sweep[:2], "--results", "/proc/x"]),
        (2, [*sweep, "source=scbench", "tasks=[kv]"]),
        (2, [*sweep, "presses=[snapkvv]"]),
        (2, [*sweep, "presses=[ada | tova]"]),
        (2, [*sweep, "sesions=3"]),
        (2, ["sweep", str(tmp_path / "none.yaml")]),
        (2, ["show", "--press", "snapkvv"]),
        (2, [*show, "--file", str(tmp_path / "none.txt")]),
        (2, [*show, "--file", str(tmp_path)]),
        (2, [*show, "--file", sys.executable]),
        (2, ["fit", "--press", "snapkvv", "--memory", "1GiB"]),
        (2, ["fit", "--press", "knorm | snapkv", "--memory", "1GiB"]),
        (2, ["fit", "--press", "full", "--memory", "8GiBX"]),
        (2, ["fit", "--press", "full", "--memory", "0.1"]),
        (2, ["lm-eval", "run", "--tasks", "any", "--model_args", "pretrained=/no/such"]),
        (2, ["lm-eval", "run", "-a", "pretrained=tiny", "press=snapkv(keep=0.5,windw=3)"]),
        (2, ["lm-eval", "--model_args=press=snapkvv,pretrained=tiny"]),
        (2, ["bench", "--presses", "snapkvv"]),
        (2, ["bench", "--presses", "criticalkv | knorm"]),
        (2, ["data", "--task", "kvv", "--out", str(out)]),
        (2, ["study", "scbench-findings", "--report-only", *where]),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "no-copies")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(commands),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
