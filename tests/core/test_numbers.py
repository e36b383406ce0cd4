"""Every number a press takes, at values nobody means: refused with a clear error, or they run and mean something."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kvpress import PRESETS, Press, full, h2o, kivi, knorm, minicache, random, snapkv, streaming_llm, think
from kvpress.errors import KVPressError, PressConflictError, PressSyntaxError
from tests.models import build, shared, tokens

ODD = (0, -1, 1, 3, 10**7, 99_999_999, 10**5000, 0.0, -0.5, 1e300, 5e-324, float("nan"), float("inf"))
SMALL: dict[str, Any] = {
    "window": 5, "kernel_size": 3, "group": 4, "residual": 4, "lag": 5, "recent": 2, "sinks": 1, "chunk": 9,
    "future": 9,
}  # fmt: skip
BLOCKS = {"gear": 8, "gear_l": 8, "fp8": 4, "minicache": 4}
PARTS = ("ada", "criticalkv", "pyramid", "zigzag", "pooled")  # of a press that evicts
SCORER = snapkv(keep=0.5, window=5, kernel_size=3)
BASES = [name for name in PRESETS if "@" not in name]


def numeric(name: str) -> list[str]:
    kinds = {argument: p.annotation for argument, p in PRESETS[name].signature.parameters.items()}
    return [argument for argument, kind in kinds.items() if "int" in kind or "float" in kind]


def made(name: str, argument: str, value: float) -> Press:
    known = PRESETS[name].signature.parameters
    given = {key: small for key, small in SMALL.items() if key in known} | (
        {"block": BLOCKS[name]} if name in BLOCKS else {}
    )
    if name == "minicache":
        given["start"] = 0.0
    press = PRESETS[name](**{**given, argument: value})
    return press | SCORER if name in PARTS else press


@pytest.mark.parametrize("name", BASES)
def test_a_number_means_something_or_is_refused(name: str) -> None:
    model, ids = shared("llama"), tokens(1, 41)
    for argument in numeric(name):
        for value in ODD:
            said = ""
            try:
                press = made(name, argument, value)
                with press(model) as session:
                    cache = session.prefill(ids)
                    after = model(tokens(1, 1), past_key_values=cache, use_cache=True).logits
            except KVPressError as error:
                said = str(error)
            if said:
                assert len(said) < 300 and argument in said, (argument, value, said)
                continue
            assert torch.isfinite(after).all(), (argument, value)
            assert all(int(layer.counts().min()) >= 1 for layer in cache.stores), (argument, value)
            assert Press.parse(press.spec()).recipe == press.recipe


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("snapkv(kernel_size=99999999)", "kernel_size=99999999 is out of range"),
        ("snapkv(kernel_size=1025)", "kernel_size=1025 odd and at most 1023"),
        ("random(sinks=99999999)", "sinks=99999999 is out of range"),
        ("criticalkv(epsilon=1e300)", r"epsilon=1e\+300 is out of range"),
        ("pyramid(beta=1e999)", "beta=inf must be a finite number"),
        ("snapkv(compression_ratio=1e999)", "compression_ratio=inf must be a finite number"),
        ("kivi(k_bits=0)", "k_bits=0 is not a code size"),
        ("kivi(group=2)", "do not fill a byte"),
        ("pyramid(beta=1)", "beta=1 gives every layer what it gets without pyramid. Use more than 1"),
        ("pyramid(beta=1.0, whole=true)", "leave pyramid out"),
        ("full | full", "full decides nothing"),
        ("full | snapkv(keep=0.5)", "leave it out"),
    ],
)
def test_what_cannot_mean_anything(text: str, words: str) -> None:
    with pytest.raises((PressSyntaxError, PressConflictError), match=words):
        Press.parse(text)


def test_what_means_nothing_on_this_model() -> None:
    """Told when the press is entered: how many layers there are is not known before."""
    model = shared("llama")  # 3 layers
    with pytest.raises(PressConflictError, match="skip=3 leaves all 3 layers"), knorm(skip=3)(model):
        raise AssertionError("not reached")
    with knorm(skip=2, keep=0.5)(model) as session:
        counts = [int(layer.counts().max()) for layer in session.prefill(tokens(1, 41)).stores]
    assert counts == [41, 41, 20]
    with pytest.raises(PressConflictError, match=r"no two neighbouring layers of the 3.*start=0"), minicache()(model):
        raise AssertionError("not reached")
    with minicache(start=0, block=4)(model) as session:  # what the message advises
        shared_bytes = session.prefill(tokens(1, 41)).nbytes()
    with full()(model) as session:
        assert shared_bytes < session.prefill(tokens(1, 41)).nbytes()
    one = build("llama", num_hidden_layers=1)
    with pytest.raises(PressConflictError, match="Leave minicache out"), minicache(start=0)(one):
        raise AssertionError("not reached")


@pytest.mark.parametrize(
    ("press", "kept"),
    [
        (random(keep=1_000_000), True),
        (snapkv(keep=0.25, window=64), True),  # the window alone is longer than the prompt
        (snapkv(keep=1), True),
        (h2o(keep=41), True),
        (h2o(keep=40), False),
        (kivi(group=4, residual=64), True),
        (kivi(group=4, residual=8), False),
        (think(recent=64), True),
        (think(recent=8, window=4), False),
        (think(keep_channels=1.0, recent=8, window=4), True),
        (think(keep_channels=0.99, recent=8, window=4), True),  # of 16 channels all
        (think(keep_channels=1.0, keep_values=0.5, recent=8, window=4), False),
        (think(keep_channels=1.0, recent=8, window=4) | kivi(group=4, residual=8), False),
        (think(keep_channels=1.0, recent=8, window=4) | h2o(keep=20), False),
        (snapkv(keep=400) | kivi(group=4, residual=8), False),  # nothing is dropped, and stored in 2 bits
        (streaming_llm(keep=16, positions="keep"), False),
        (full(), False),  # it is what it says
    ],
    ids=str,
)
def test_a_report_says_where_a_press_kept_everything(press: Press, kept: bool) -> None:
    with press(shared("llama")) as session:
        report = session.report(session.prefill(tokens(2, 41)))
    assert report.kept_all is kept and report.to_dict()["kept_all"] is kept
    assert str(report).endswith("; kept everything") is kept


def test_tables_are_no_larger_than_the_prompt() -> None:
    """A partition longer than the prompt holds what there is."""
    for text, short in (("lagkv(keep=0.5, lag={})", 41), ("cur(keep=0.5, window={})", 41)):
        found = []
        for size in (short, 10_000_000):
            with Press.parse(text.format(size))(shared("llama")) as session:
                found.append([layer.block().pos.tolist() for layer in session.prefill(tokens(1, 41)).stores])
        assert found[0] == found[1]
