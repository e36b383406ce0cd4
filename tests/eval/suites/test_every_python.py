"""The same seed gives the same text in every Python there is here; the generators need the standard library alone."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
OF_THIS_PYTHON = {"repoqa", "repoqa_and_kv"}  # their code is the interpreter's own standard library
SCRIPT = """
import hashlib, sys, types
root = sys.argv[1]
package = types.ModuleType("kvpress")  # without what its __init__ imports: other interpreters have no torch
package.__path__ = [root + "/kvpress"]
sys.modules["kvpress"] = package
sys.path.insert(0, root + "/eval")
from kvpress_eval.suites.episode import Request
from kvpress_eval.errors import EpisodeError
from kvpress_eval.suites import TASKS, build
count = {"dialect": lambda s: len(s.split()), "natural": lambda s: -(-len(s) // 3)}
for name, task in sorted(TASKS.items()):
    for rendering, length in (("dialect", 1024), ("natural", 9001)):
        if rendering in task.build:
            for turns in (5, 1):
                try:
                    episode = build(Request(name, rendering, length, turns, 0, 4, count[rendering]))
                except EpisodeError as error:
                    print(name, rendering, error)
                else:
                    print(name, rendering, hashlib.sha256(repr(episode).encode()).hexdigest())
"""


def interpreters() -> list[str]:
    """One program per Python version from 3.10 on: on the path, and beside the installation of this one."""
    names = [f"python3.{minor}" for minor in range(10, 20)]
    beside = [str(path) for name in names for path in Path(sys.base_prefix).parent.glob(f"*/bin/{name}")]
    found = {}
    for program in [*beside, *names]:
        asked = ["-c", "import sys; print(sys.version_info[:2])"]
        try:
            done = subprocess.run([program, *asked], capture_output=True, text=True, timeout=30)
        except OSError:
            continue
        if done.returncode == 0:
            found.setdefault(done.stdout, program)
    return [program for version, program in found.items() if version.strip() != str(sys.version_info[:2])]


@lru_cache
def texts(program: str, seed: str) -> tuple[str, ...]:
    """A line per task and rendering, from a process of its own."""
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run([program, "-c", SCRIPT, str(ROOT)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(done.stdout.splitlines())


def test_two_processes_write_the_same_text() -> None:
    mine = texts(sys.executable, "1")
    assert mine == texts(sys.executable, "2")
    assert len(mine) > 20


def test_another_python_writes_the_same_text() -> None:
    others = interpreters()
    if not others:
        pytest.skip("no second Python version on this machine")
    mine = [line for line in texts(sys.executable, "1") if line.split()[0] not in OF_THIS_PYTHON]
    for other in (others[0], others[-1]):
        theirs = [line for line in texts(other, "3") if line.split()[0] not in OF_THIS_PYTHON]
        assert theirs == mine, other
