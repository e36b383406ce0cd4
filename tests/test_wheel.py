"""The wheel holds all that runs: doctor and a small sweep from it, outside the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SWEEP = """
models: [tiny]
tasks: [kv]
presses: ["snapkv(keep=0.25) | kivi(bits=4)"]
lengths: [256]
sessions: 2
turns: 2
"""


def run(folder: Path, *words: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # setuptools writes build folders beside what it builds
    for name in ("kvpress", "eval"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    run(folder, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source))
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def test_doctor_and_a_sweep(unpacked: Path, tmp_path: Path) -> None:
    def kvpress(*words: str) -> str:
        return run(tmp_path, "-m", "kvpress_eval", *words, PYTHONPATH=str(unpacked))

    where = run(
        tmp_path,
        "-c",
        "import kvpress, kvpress_eval as e; print(kvpress.__file__, e.__file__)",
        PYTHONPATH=str(unpacked),
    )
    assert all(Path(file).is_relative_to(unpacked) for file in where.split())
    assert "fail" not in kvpress("doctor")
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    assert "4 run, 0 already there, 0 failed" in kvpress("sweep", "sweep.yaml")
    rows = [json.loads(path.read_text()) for path in tmp_path.rglob("*.json")]
    assert {row["press"] for row in rows} == {"full", "snapkv(keep=0.25) | kivi(bits=4)"}
    assert "4 rows" in kvpress("report")
    assert list(tmp_path.rglob("index.html"))
