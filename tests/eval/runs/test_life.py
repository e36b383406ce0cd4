"""The life of a cache: what a decoding step reads, a prefix on disk and back, and how many sessions a memory holds."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from kvpress_eval.cli import main
from kvpress_eval.cli.printing import print_row
from kvpress_eval.runs.config import RunConfig
from kvpress_eval.runs.life import largest_batch, live, step_bytes
from kvpress_eval.runs.loaded import Loaded, load
from kvpress_eval.runs.prepare import prepare
from kvpress_eval.runs.runner import run_cell
from rich.console import Console

from kvpress import Press

PRESSES = [
    "full",
    "snapkv(keep=0.5, window=5)",
    "kivi(bits=4)",
    "snapkv(keep=0.5, window=5) | kivi(bits=2)",
    "minicache(start=0)",
]
SLOT = 2 * 2 * 2 * 32 * 4  # bytes of a token: layers, KV heads, K and V, channels, fp32


@pytest.fixture(scope="module")
def loaded(dialect_model: str) -> Loaded:
    return load(dialect_model)


def prompt_ids(n: int) -> torch.Tensor:
    return torch.randint(5, 300, (1, n), generator=torch.Generator().manual_seed(3))


def test_a_step_reads_the_slots_that_are_there_and_no_spare_room(loaded: Loaded) -> None:
    with Press.parse("full")(loaded.model) as session:
        cache = session.prefill(prompt_ids(1), cache=session.prefill(prompt_ids(76)))
        assert step_bytes(cache) == 77 * SLOT
        assert cache.nbytes() > 77 * SLOT  # it has room to grow
    with Press.parse("streaming_llm(keep=33)")(loaded.model) as session:
        assert step_bytes(session.prefill(prompt_ids(77))) == 33 * SLOT


def test_a_step_reads_codes_and_scales_instead_of_values(loaded: Loaded) -> None:
    with Press.parse("kivi(bits=4, group=32, residual=0)")(loaded.model) as session:
        cache = session.prefill(prompt_ids(64))
    kinds = cache.ledger().by_kind()
    assert step_bytes(cache) == kinds["codes"] + kinds["scales"]
    assert kinds["codes"] == 64 * SLOT // 8


@pytest.mark.parametrize("press", PRESSES)
@pytest.mark.parametrize("mode", ["multi-turn", "multi-request"])
def test_a_prefix_comes_back_from_disk_exactly(loaded: Loaded, press: str, mode: str) -> None:
    config = RunConfig(press=press, mode=mode, length=333, sessions=1, turns=3)
    cell = prepare(config, loaded)
    with cell.session() as session:
        found = live(loaded.model, session, loaded.prompter.prompt(cell.episode(0)), config, rehearse=True)
    assert found.reload_exact is True
    assert found.press_s > 0
    assert found.save_s
    assert found.load_s
    assert found.file_bytes


def test_a_prefix_that_comes_back_changed_is_said_to_be(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    from kvpress import PressCache

    config = RunConfig(length=333, sessions=1, turns=3)
    cell = prepare(config, loaded)
    original = PressCache.load

    def damaged(path: Any, model: Any) -> PressCache:
        cache = original(path, model)
        cache.stores[0].tail.v[:, :, :9] += 0.5
        return cache

    monkeypatch.setattr(PressCache, "load", staticmethod(damaged))
    with cell.session() as session:
        found = live(loaded.model, session, loaded.prompter.prompt(cell.episode(0)), config, rehearse=False)
    assert found.reload_exact is False


@pytest.mark.parametrize("press", PRESSES)
@pytest.mark.parametrize("mode", ["multi-turn", "multi-request"])
def test_a_row_tells_the_life_of_its_cache(loaded: Loaded, press: str, mode: str) -> None:
    row = run_cell(prepare(RunConfig(press=press, mode=mode, length=333, sessions=2, turns=3, task="kv"), loaded))
    assert row.status == "ok", row.error
    assert row.fired == (press != "full")
    assert row.prefill_tps * row.prefill_s == pytest.approx(row.logical_length, rel=0.01)
    assert row.logical_length < row.decode_length < 333
    # Each layer reads what the two share, which is held once: as much as a dense one. Rows that share a prefix do less.
    if press.startswith("minicache") and mode == "multi-turn":
        assert row.step_bytes == pytest.approx(row.decode_length * SLOT, rel=0.05)
    else:
        assert 0 < row.step_bytes <= row.session_bytes
    assert row.session_bytes >= row.bytes * 0.99
    if press == "full":
        assert row.step_bytes == pytest.approx(row.decode_length * SLOT, rel=0.01)
    elif not press.startswith("minicache"):
        assert row.step_bytes < 0.8 * row.decode_length * SLOT


def test_the_press_of_every_turn_has_fired_at_every_turn(loaded: Loaded) -> None:
    press = "snapkv(keep=0.5, window=5, every_prompt=true)"
    config = RunConfig(press=press, schedule="every_turn_prompt", length=333, sessions=1, turns=3)
    assert run_cell(prepare(config, loaded)).fired == 3


@pytest.mark.parametrize("press", PRESSES)
def test_the_largest_batch_fits_and_one_row_more_does_not(loaded: Loaded, press: str) -> None:
    parsed = Press.parse(press)
    one = largest_batch(parsed, loaded.model, 123, 1 << 30)
    memory = int(3.4 * one.row_bytes)
    found = largest_batch(parsed, loaded.model, 123, memory)
    assert found.pressed == 3
    with parsed(loaded.model) as session:
        held = [session.prefill(prompt_ids(123).expand(rows, -1)).nbytes() for rows in (3, 4)]
    assert held[0] <= memory < held[1]
    if press != "full" and not press.startswith("minicache"):  # minicache finds little to share in a random model
        assert found.pressed > found.dense


def test_fit_says_how_many_sessions(dialect_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", "--model", dialect_model, "--length", "123", "--press", "kivi(bits=2)", "--memory", "1MiB"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "sessions of 123 tokens" in out
    assert "kivi(bits=2)" in out
    dense = (1 << 20) // (123 * SLOT)
    assert f"{dense:,} sessions of 123 tokens" in out
    assert main([*words[:-1], "50%"]) == 2
    assert "an amount, for example 8GiB" in capsys.readouterr().err


def test_no_room_for_a_file_costs_the_file_and_not_the_cell(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    from kvpress import PressCache

    def full(self: PressCache, path: Any, model: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PressCache, "save", full)
    row = run_cell(prepare(RunConfig(length=333, sessions=1, turns=3), loaded))
    assert row.status == "ok"
    assert row.turns == 3
    assert row.press_s is not None
    assert row.save_s is row.reload_exact is None
    assert "No space left" in row.not_measured
    out = io.StringIO()
    print_row(Console(file=out, width=200), row, Path("row.json"), "")
    assert f"not measured     {row.not_measured}" in out.getvalue()


def test_no_memory_for_it_costs_the_life_and_not_the_cell(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("kvpress_eval.runs.runner.live", short)
    row = run_cell(prepare(RunConfig(length=333, sessions=1, turns=3), loaded))
    assert row.status == "ok"
    assert row.press_s is None
    assert "out of memory" in row.not_measured
