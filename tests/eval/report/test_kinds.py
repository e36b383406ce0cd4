"""Kinds of presses by what they decide, and charts whose values are filled in."""

from __future__ import annotations

import numpy as np
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
        ("absorb | snapkv(keep=0.25)", "drop"),
        ("every(tokens=8) | h2o", "drop"),
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
    strange = {"decides": ["something else"], "control": False}
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


# What a reader without one kind of cone sees, on linear RGB (Machado et al. 2009).
_READERS = {
    "all": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "no red": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "no green": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "no blue": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.mark.parametrize("ground", ["light", "dark"])
@pytest.mark.parametrize("reader", _READERS)
def test_colours_differ_for_every_reader(ground: str, reader: str) -> None:
    """By distance in CIELAB, of which 2 is just seen; that of the full cache is a ring with a name."""
    told = [one for name, one in KINDS.items() if name != "full"]
    places = [_lab(np.array(_READERS[reader]) @ _linear(getattr(one, ground))) for one in told]
    near = min(float(np.linalg.norm(a - b)) for i, a in enumerate(places) for b in places[:i])
    assert near > 15


def _linear(colour: str) -> np.ndarray:
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def _luminance(colour: str) -> float:
    return float(np.array([0.2126, 0.7152, 0.0722]) @ _linear(colour))


def _lab(linear: np.ndarray) -> np.ndarray:
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear.clip(0, 1)
    xyz = xyz / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_what_is_filled_in_is_not_looked_into_again() -> None:
    told = filled({"a": "$x", "b": ["$y"], "c": "$none", "d": "plain"}, {"x": [{"press": "$y"}], "y": 1})
    assert told == {"a": [{"press": "$y"}], "b": [1], "d": "plain"}


def test_texts_of_rows_are_no_part_of_an_expression() -> None:
    """Only fields are named in the charts, and the tests in them compare with constants."""
    for chart in (SCATTER, LINES):
        assert "$press" not in str(chart) and "$names" in str(chart)
