"""The guides: their files are written, and their commands run, in the order of the page and in an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def install(folder: Path) -> Path:
    """`pip install .` into a folder of its own, without network; returns that."""
    site = folder / "site"
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *offline, "--target", str(site), "."], check=True)
    return site


def elsewhere(lines: list[list[str]], site: Path) -> None:
    """Run commands in a process that has imported nothing of the guide, and has its package installed."""
    code = f"from kvpress_eval.cli import main\nfor words in {lines!r}:\n    assert main(words) == 0, words"
    path = os.pathsep.join([str(site), *(entry for entry in sys.path if entry)])
    # not in the folder of the guide: its file is found in the package or not at all
    options: dict[str, Any] = {"cwd": site, "env": {**os.environ, "PYTHONPATH": path}}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("guide", [g for g in GUIDES if g.stem not in OTHERS], ids=lambda guide: guide.stem)
def test_a_guide_does_what_it_says(guide: Path, empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran, site, later = 0, None, list[list[str]]()
    for language, content in blocks(guide.read_text(encoding="utf-8")):
        name = content.split("\n")[0].removeprefix("# ")
        if language in ("python", "yaml") or name == "pyproject.toml":
            (empty_folder / name).write_text(content, encoding="utf-8")
        elif language == "sh":
            for line in content.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words == ["pip", "install", "--editable", "."]:
                    site = install(empty_folder)
                elif words:
                    assert words[0] == "kvpress", f"a guide runs kvpress and installs itself, got {line!r}"
                    if site is None:
                        assert main(words[1:]) == 0, f"{line}\n{capsys.readouterr().err}"
                    later += [words[1:]] * (site is not None)
                    ran += 1
    if site is not None:
        elsewhere(later, site)
    assert ran > 0, "a guide without a command shows nothing"
