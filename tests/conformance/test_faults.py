"""What `kvpress check` finds: every planted fault by the check that is about it, and nothing in methods without one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from kvpress_eval.cli import main

from kvpress import PRESETS, conformance
from kvpress.checks import Check
from tests.conformance import methods

HERE = "tests.conformance.methods"


@pytest.fixture(autouse=True)
def own_presses() -> Iterator[None]:
    methods._SEEN.clear()
    for press in methods.OWN:
        PRESETS.register(press.name)(press)
    yield
    for press in methods.OWN:
        PRESETS.forget(press.name)


def failed(target: object) -> dict[str, Check]:
    return {check.name: check for check in conformance.run(target) if check.status == "fail"}


@pytest.mark.parametrize(
    ("name", "check", "words"),
    [
        ("Remembers", "I7 no state between prompts", "something is kept from call to call"),
        ("CalibratesOnce", "I7 no state between prompts", "something is kept in the object"),
        ("OnePerRow", "scores", r"shape \(3, 41\), expected \(B, H, n\) = \(3, 2, 41\)"),
        ("Listed", "scores", "a list was returned"),
        ("Draws", "I7 deterministic", "global random numbers"),
        ("DrawsInPython", "I7 deterministic", "global random numbers"),
        ("ByDefault", "I11 another default type", "float16"),
        ("Writes", "I9 slots are not written to", "writes into what it is given: k"),
        ("Raises", "scores", r"IndexError: .* \(methods.py:\d+, in __call__\)"),
        ("Undeclared", "scores", r"Needs\(mass=True\). \(methods.py:\d+, in __call__\)"),
        ("NotANumber", "finite scores", "of a prompt of one repeated token are NaN"),
        ("MixesRows", "I2 scores of a row alone", "row 1 of a padded batch against the row alone"),
    ],
)
def test_scorers(name: str, check: str, words: str) -> None:
    found = failed(f"{HERE}:{name}")
    assert list(found) == [check]
    assert re.search(words, found[check].detail), found[check].detail
    assert found[check].advice


def test_a_scorer_that_looks_at_padding() -> None:
    found = failed(f"{HERE}:SeesPadding")
    assert list(found) == ["I2 padding is not seen", "I2 scores of a row alone"]
    assert "block.valid" in found["I2 padding is not seen"].advice


def test_a_scorer_that_counts_columns() -> None:
    assert list(failed(f"{HERE}:CountsColumns")) == ["I2 scores of a row alone", "order in memory"]


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("GenerousHeads", "heads: exact sums"),
        ("BatchedLayers", "I2 layers: rows alone"),
        ("BatchedRefiner", "I2 refined scores of a row alone"),
    ],
)
def test_budgets(name: str, check: str) -> None:
    assert list(failed(f"{HERE}:{name}")) == [check]


@pytest.mark.parametrize(
    ("fault", "checks"),
    [
        ("shares ranges", ["I2 runs alone"]),
        ("draws", ["I7 the same bytes twice"]),
        ("does not shrink", ["I5 bytes shrink"]),
        ("loads otherwise", ["I10 tensors and load"]),
        ("other logits", ["I3 logits and mix"]),
        ("other mix", ["I3 logits and mix"]),
        ("encodes again", ["I9 take"]),
        ("joins backwards", ["I9 cat"]),
        ("hides bytes", ["I5 tensors are whole and named"]),
        ("keeps a view", ["I5 tensors are whole and named"]),
    ],
)
def test_codecs(fault: str, checks: list[str]) -> None:
    assert set(checks) <= set(failed(f"{HERE}:Bytes(fault={fault!r})")), fault


def test_a_codec_that_writes_into_its_bytes() -> None:
    assert "I9 packed slots are frozen" in failed(methods.Bytes("writes"))


@pytest.mark.parametrize(
    "target",
    [
        f"{HERE}:Norm",
        f"{HERE}:NeedsArgument(scale=2.0)",
        f"{HERE}:norm",
        f"{HERE}:norm(keep=13)",
        f"{HERE}:a_press",
        "tests_norm(keep=0.4) | kivi(bits=4, group=4, residual=5)",
        f"{HERE}:norm(keep=0.3) | {HERE}:Bytes",
        f"{HERE}:Bytes",
        methods.Norm,
        methods.Norm(),
        methods.norm,
        methods.a_press,
        methods.Bytes(),
    ],
    ids=lambda target: re.sub(r" at 0x[0-9a-f]+", "", str(target))[:80],  # the same in every process
)
def test_methods_without_a_fault(target: object) -> None:
    before = list(PRESETS)
    checks = conformance.run(target)
    assert not [check for check in checks if check.status in ("fail", "warn")]
    assert {check.name.split()[0] for check in checks if check.status == "ok"} >= {"I2", "I3", "I4", "I5", "I6", "I10"}
    assert list(PRESETS) == before  # what was made for the check is gone


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nowhere:Scorer", "there is no module 'nowhere' here"),
        (f"{HERE}:Nrom", "has no 'Nrom'. Did you mean Norm"),
        ("nosuchpress(keep=0.5)", "Unknown press 'nosuchpress'"),
        ("Norm", "A method that is not installed is written module:Name"),
        ("snapkv(keep=2.5)", "out of range"),
        (f"{HERE}:NoNeeds", "NoNeeds has no `needs`"),
        (f"{HERE}:plain_scorer", "plain_scorer has no `needs`"),
        (f"{HERE}:Mutable", "dataclass(frozen=True)"),
        (f"{HERE}:NotCallable", "is not callable"),
        (f"{HERE}:OneArgument", "cannot be called with (block, seen)"),
        (f"{HERE}:NeedsArgument", "missing a required argument: 'scale'"),
        (f"{HERE}:NeedsArgument(scale=open)", "cannot read the arguments"),
        (f"{HERE}:misspelt", "decides scorrer; a press decides: channels"),
        (f"{HERE}:of_a_class", "is a class, expected an object: write Norm()"),
        (f"{HERE}:undecorated", '@preset("undecorated")'),
        (f"{HERE}:HERE", "has no 'HERE'"),
        (3, "int is no kind of method"),
    ],
)
def test_what_cannot_be_checked_is_told_in_one_line(target: object, words: str) -> None:
    (check,) = conformance.run(target)
    assert (check.name, check.status) == ("protocol", "fail")
    assert words in check.detail, check.detail


def test_a_module_that_fails_to_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fails_on_import.py").write_text("import torch\n\nVALUE = {}['missing']\n")
    (tmp_path / "wants_more.py").write_text("import surely_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    (check,) = conformance.run("fails_on_import:Scorer")
    assert "KeyError: 'missing' (fails_on_import.py:3, in <module>)" in check.detail
    (check,) = conformance.run("wants_more:Scorer")
    assert "importing wants_more failed: ModuleNotFoundError: No module named 'surely_not_installed'" in check.detail


def test_a_composition_that_is_refused_does_not_apply() -> None:
    checks = {check.name: check for check in conformance.run("streaming_llm(keep=0.4)")}
    assert checks["composed with kivi"].status == "skip"
    assert 'positions="slots"' in checks["composed with kivi"].detail


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{HERE}:Norm"]) == 0
    out = capsys.readouterr().out
    assert "ok    I1 keep=1 is no press: " in out and out.splitlines()[-1].endswith("skipped")
    assert main(["check", f"{HERE}:SeesPadding"]) == 1
    out = capsys.readouterr().out
    assert "fail  I2 padding is not seen: what stands in padding" in out and "2 failed" in out
    assert "\n      Leave slots with block.pos < 0 out" in out
