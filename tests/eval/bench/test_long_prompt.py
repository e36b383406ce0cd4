"""A prompt read in chunks by the benchmark: bounds worked out before, and what was held."""

from __future__ import annotations

import pytest
from kvpress_eval.bench.long_prompt import long_prompts, read_one
from kvpress_eval.errors import UsageError


@pytest.mark.parametrize(("press", "between"), [("full", False), ("knorm(keep=0.25) | kivi(bits=4)", True)])
def test_what_is_held_stays_under_what_was_declared(press: str, between: bool) -> None:
    row = read_one(press, between, 2000, 250, layers=2)
    assert 0 < row.measured <= row.held < row.declared
    assert (row.measured < 0.5 * row.dense) == between
    assert row.tokens == 2000 and row.dense == 2 * 2 * 2000 * 2 * 64 * 4


def test_a_press_that_fails_is_named() -> None:
    with pytest.raises(UsageError, match=r"snapkv\(keep=0.25\) could not read 64 tokens in chunks of 16: .* between"):
        list(long_prompts(64, 16, 1, [("snapkv(keep=0.25)", True)]))
