"""What README shows runs, and its answers are right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[2] / "README.md"


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
