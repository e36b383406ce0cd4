"""What README shows runs, and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def test_the_quickstart_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 1
    exec(compile(blocks[0], "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    promised = re.search(r"print\(tokenizer.*# (.*)", blocks[0])
    assert promised is not None
    assert printed[0] == promised.group(1)
    assert [line.split() for line in printed[1:3]] == [["fi", "01"], ["ku", "03"]]
    assert "tokens in" in printed[3]
