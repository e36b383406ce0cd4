"""What README shows runs, and its answers are right."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from kvpress_eval.cli import main

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
SMALL = ["--sessions", "2", "--turns", "2"]


def test_the_quickstart_runs_and_answers_correctly(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(first, "README.md", "exec"), names)
    exec(compile(second, "README.md", "exec"), names)
    assert names["fork"].stores[0].batch_size == 3 and names["fork"].get_seq_length() == names["context"].shape[1]
    *answers, report = capsys.readouterr().out.splitlines()
    assert len(answers) == 4
    for line in answers:
        said, gold = line.split(" | gold: ")
        assert said.endswith(gold)
    assert "tokens in" in report


def test_the_commands_run_in_the_order_printed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Benchmark block from an empty folder of results; `make` and the study are small, the others as printed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eval").symlink_to(ROOT / "eval")
    block = README.read_text().partition("## Benchmark")[2].split("```")[1]
    lines = [words for line in block.splitlines() if (words := shlex.split(line, comments=True))]
    assert lines[0] == ["make", "run"] and ["make", "real"] in lines
    presses = ["snapkv(keep=0.25)", "kivi(bits=4)"]
    smoke = f"presses={presses}", "tasks=[kv]", "sessions=2", "turns=2"
    assert main(["sweep", "eval/configs/smoke.yaml", *smoke]) == 0
    ran = []
    for name, *words in lines:
        if name in ("make", "."):  # the first is above, the second is `make run`'s environment, the third has tests
            continue
        assert name == "kvpress"
        if words[0] == "run":
            words += SMALL
        if words[0] == "study":
            words += ["--dry-run"]
        assert main(words) == 0, f"{words}\n{capsys.readouterr().err}"
        ran.append(words[0])
    assert ran == ["compare", "run", "answers", "report", "show", "fit", "sweep", "study"]
    assert (tmp_path / "runs" / "index.html").is_file()


def test_nothing_says_to_install_what_is_not_published() -> None:
    """No index has a package of this name: an extra is installed in the checkout, or from a wheel file."""
    own = ("kvpress", "eval", "docs", "README.md", "CONTRIBUTING.md", "Makefile")
    files = [
        path for name in own for path in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*.*"))
    ]
    texts = {
        path: path.read_text(encoding="utf-8") for path in files if path.suffix in (".py", ".md", "") and path.is_file()
    }
    assert len(texts) > 200
    assert [path for path, text in texts.items() if re.search(r"pip install [^\n]*kvpress-lab", text)] == []
