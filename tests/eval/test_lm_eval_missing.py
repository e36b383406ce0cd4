"""The command says what to install where lm-evaluation-harness is not there."""

from __future__ import annotations

import sys

import pytest
from kvpress_eval.cli import main


def test_the_command_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "kvpress_eval.lm_eval", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main(["lm-eval", "run", "--tasks", "any"]) == 2
    told = 'error: lm_eval is not installed; install the extra "lm-eval": pip install -e ".[lm-eval]" in the checkout'
    assert capsys.readouterr().err == f"{told}\n"
