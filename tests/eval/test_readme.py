"""What README shows runs, and its answers are right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def test_the_quickstart_runs_and_answers_correctly(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 1
    exec(compile(blocks[0], "README.md", "exec"), {})
    *answers, report = capsys.readouterr().out.splitlines()
    assert len(answers) == 4
    for line in answers:
        said, gold = line.split(" | gold: ")
        assert said.endswith(gold)
    assert "tokens in" in report
