"""The guides: their files are written, and their commands run, in the order of the page and in an empty folder."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kvpress_eval.cli import main

GUIDES = sorted((Path(__file__).parents[2] / "docs" / "guides").glob("*.md"))
OTHERS = {"lm-eval", "import"}  # about folders and commands of other projects: tests of their own


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """(language, content) of the fenced blocks."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        yield found[1], found[2]


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder; what a guide imports or registers is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    modules = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("guide", [g for g in GUIDES if g.stem not in OTHERS], ids=lambda guide: guide.stem)
def test_a_guide_does_what_it_says(guide: Path, empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = 0
    for language, content in blocks(guide.read_text(encoding="utf-8")):
        if language in ("python", "yaml"):
            name = content.split("\n")[0].removeprefix("# ")
            (empty_folder / name).write_text(content, encoding="utf-8")
        elif language == "sh":
            for line in content.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    assert words[0] == "kvpress", f"a guide runs kvpress only, got {line!r}"
                    assert main(words[1:]) == 0, f"{line}\n{capsys.readouterr().err}"
                    ran += 1
    assert ran > 0, "a guide without a command shows nothing"
