"""The command says what to install where lm-evaluation-harness is not there."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from kvpress_eval.cli import main
from kvpress_eval.runs.lm_eval_arguments import check, model_arguments

from kvpress.errors import KVPressError


def test_the_command_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "kvpress_eval.runs.lm_eval_model", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main(["lm-eval", "run", "--tasks", "any"]) == 2
    told = 'error: lm_eval is not installed; install the extra "lm-eval": pip install -e ".[lm-eval]" in the checkout'
    assert capsys.readouterr().err == f"{told}\n"


PRESS = "snapkv(keep=0.5, window=8) | kivi(bits=2, group=32)"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], {}),
        (["run", "--tasks", "a"], {}),
        (["run", "--model_args", f"pretrained=tiny,press={PRESS},dtype=float32"], {"press": PRESS, "dtype": "float32"}),
        (["-a", "pretrained=tiny", f'press="{PRESS}"', "--tasks", "a"], {"press": PRESS}),
        ([f"--model_args=press={PRESS}", "-a", "pretrained=tiny"], {"press": PRESS}),
        (["-a", "pretrained=tiny,press=x", "--model", "kvpress", "-L", "3"], {"press": "x"}),
        (["-a", '{"pretrained": "tiny", "press": "knorm(keep=0.5)"}'], {"press": "knorm(keep=0.5)"}),
        (["run", "--model", "hf", "-a", "pretrained=gpt2"], {}),
        (["run", "-M", "hf", "-a", "pretrained=gpt2"], {}),
        (["ls", "tasks", "-a", "pretrained=gpt2"], {}),
        (["run", "--model_args"], {}),
        (["run", "--mod", "x"], {}),
        (["run", "-a", "pretrained=tiny,and more"], {}),
    ],
)
def test_what_the_words_say_of_model_and_press(words: list[str], found: dict[str, Any]) -> None:
    told = model_arguments(words)
    assert told.pop("pretrained", "tiny") == "tiny"
    assert told == found


def test_words_are_cut_as_the_harness_cuts_them() -> None:
    theirs = pytest.importorskip("lm_eval._cli.utils", reason="lm-eval is not installed")
    for text in (f"pretrained=tiny,press={PRESS}", "press='a,b',x=[1,2],y={3}", "press=a)b,c=1", "a=1,,b=2,", 'a="x'):
        assert model_arguments(["-a", text]) == theirs.key_val_to_dict(text), text


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("pretrained=no-such.gguf", "cannot load model 'no-such.gguf': no such file"),
        ("pretrained=tiny-outlier", "is made in memory"),
        ("press=snapkv(keep=0.5", "Cannot read"),
        (f"press={PRESS},pretrained=/no/such", "cannot load model '/no/such'"),
    ],
)
def test_mistakes_are_known_without_the_harness(argument: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(KVPressError) as error:
        check(["run", "--tasks", "any", "--model_args", argument])
    assert told in str(error.value)
