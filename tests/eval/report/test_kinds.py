"""Kinds of presses by what they decide, and charts whose values are filled in."""

from __future__ import annotations

import pytest
from kvpress_eval.report import kinds
from kvpress_eval.report.charts import LINES, SCATTER, filled
from kvpress_eval.report.kinds import KINDS, kind


@pytest.mark.parametrize(
    ("press", "told"),
    [
        ("full", "full"),
        ("snapkv(keep=0.25)", "drop"),
        ("criticalkv | snapkv", "drop"),
        ("ada | snapkv(keep=0.25)", "spread"),
        ("kvzip(keep=0.25)", "spread"),
        ("kivi(bits=4)", "bits"),
        ("kivi@paper", "bits"),
        ("gear_l(bits=2)", "rank"),
        ("think(ratio=0.4)", "rank"),
        ("minicache", "share"),
        ("minicache | kivi(bits=4)", "several"),
        ("kvzip | kivi(bits=4, residual=0)", "several"),
        ("random(keep=0.25)", "control"),
        ("random | kivi(bits=4)", "several"),
        ("KnormPress(compression_ratio=0.5)", "other"),
        ("snapkv | of_a_plug_in", "other"),
        ("", "other"),
        ("| |", "other"),
    ],
)
def test_what_a_press_decides_is_its_kind(press: str, told: str) -> None:
    assert kind(press) == told and told in KINDS


def test_a_new_method_has_a_kind_without_an_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    new = {"decides": ["key", "value"], "control": False}
    strange = {"decides": ["selector"], "control": False}
    monkeypatch.setattr(kinds, "methods", lambda: {"new": new, "strange": strange})
    assert kind("new(bits=3)") == "bits"
    assert kind("strange") == "several", "a decision that has no colour yet"


def test_kinds_differ_in_colour_and_in_shape() -> None:
    told = [one for name, one in KINDS.items() if name != "full"]
    for field in ("name", "light", "dark", "shape"):
        assert len({getattr(one, field) for one in told}) == len(told), field


@pytest.mark.parametrize("ground", ["light", "dark"])
def test_colours_are_legible_as_text(ground: str) -> None:
    """Contrast of names on the page, by WCAG: 4.5 and more."""
    paper = {"light": "#ffffff", "dark": "#191b1e"}[ground]
    for one in KINDS.values():
        a, b = sorted((_luminance(getattr(one, ground)), _luminance(paper)), reverse=True)
        assert (a + 0.05) / (b + 0.05) >= 4.5, one.name


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_what_is_filled_in_is_not_looked_into_again() -> None:
    told = filled({"a": "$x", "b": ["$y"], "c": "$none", "d": "plain"}, {"x": [{"press": "$y"}], "y": 1})
    assert told == {"a": [{"press": "$y"}], "b": [1], "d": "plain"}


def test_texts_of_rows_are_no_part_of_an_expression() -> None:
    """Only fields are named in the charts, and the tests in them compare with constants."""
    for chart in (SCATTER, LINES):
        assert "$press" not in str(chart) and "$names" in str(chart)
