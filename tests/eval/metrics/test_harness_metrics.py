"""Expected values of the reference scorers were obtained by running the released SCBench functions."""

from __future__ import annotations

import pytest
from kvpress_eval.errors import UsageError
from kvpress_eval.metrics import Scorer, exact, score
from kvpress_eval.metrics.golds import Gold

UUID = "2d9ab7c8-394a-4062-9928-310e39201a2f"
NAMES = ["XKQPT", "AAZZB", "QQWER"]


@pytest.mark.parametrize(
    ("task", "prediction", "reference", "released", "corrected"),
    [
        ("kv", UUID, UUID, 1, 1),
        ("kv", f' "{UUID}"\n', UUID, 1, 1),
        ("kv", UUID.upper(), UUID, 0, 0),
        ("kv", UUID.replace("-", " "), UUID, 0, 0),
        ("kv", "", UUID, 0, 0),
        # listing values is free with the released scorer
        ("kv", f"{UUID.replace('2', '3')} {UUID}", UUID, 1, 0),
        # the key may be said again
        ("kv", f"The value for key {UUID.replace('2', '3')} is {UUID}.", UUID, 1, 1),
        ("kv", f'The value associated with the key "{UUID.replace("2", "3")}" is "{UUID}".', UUID, 1, 1),
        ("kv", f'{{"{UUID.replace("2", "3")}": "{UUID}"}}', UUID, 1, 1),
        ("kv", f"{UUID} is the value of {UUID.replace('2', '3')}", UUID, 1, 1),
        ("kv", f"The value for key {UUID} is {UUID.replace('2', '3')}.", UUID, 1, 0),
        ("prefix_suffix", "qfwhTkXbLpRz", "qfwhTkXbLpRz", 1, 1),
        ("prefix_suffix", "qfwhtkxblprz", "qfwhTkXbLpRz", 0, 0),
        ("prefix_suffix", "It is qfwhTkXbLpRz.", "qfwhTkXbLpRz", 1, 1),
        ("prefix_suffix", "xqfwhTkXbLpRz", "qfwhTkXbLpRz", 1, 0),
        ("vt", "XKQPT AAZZB QQWER", NAMES, 1, 1),
        ("vt", "['QQWER', 'XKQPT', 'AAZZB']", NAMES, 1, 1),
        ("vt", "XKQPT", NAMES, 0.33, 0),
        ("vt", "xkqpt and aazzb", NAMES, 0.67, 0),
        ("vt", "XKQPT AAZZB QQWER ZZZZZ", NAMES, 1, 0),
        ("vt", "", NAMES, 0, 0),
        ("many_shot", "A", "A", 1, 1),
        ("many_shot", "(B) 06/12/2019", "A", 0, 0),
        ("many_shot", "(B) Saturday", "A", 1, 0),
        ("many_shot", " (A) Saturday", "A", 1, 1),
        ("many_shot", "According to the examples", "A", 1, 0),
        ("many_shot", "zzz (", "(A)", 1, 0),
        ("needle", "The code is 0123456789.", "0123456789", 1, 1),
        ("needle", "number 2: 0123456789", "0123456789", 0, 0),
        ("needle", "123456789", "0123456789", 0, 0),
    ],
)
def test_scores(task: str, prediction: str, reference: Gold, released: float, corrected: float) -> None:
    assert score(task, prediction, reference, "reference") == pytest.approx(released, abs=1e-6)
    assert score(task, prediction, reference, "corrected") == corrected


def test_a_string_where_a_list_belongs_is_scored_by_letters_as_the_release_does() -> None:
    assert score("vt", "the quick text", "XKQPT", "reference") == pytest.approx(0.8)
    assert score("vt", "the quick text", "XKQPT") == 0


def test_exact_match_ignores_only_white_space() -> None:
    assert exact("12  75 ;", "12 75 ;") == 1
    assert exact("12 75", "12 75 ;") == 0
    assert exact("12 75 ; 12", "12 75 ;") == 0


@pytest.mark.parametrize("reference", ["", [], ["XKQPT", ""]])
@pytest.mark.parametrize("scorer", ["corrected", "reference", "exact"])
def test_an_empty_reference_is_refused(reference: Gold, scorer: Scorer) -> None:
    with pytest.raises(UsageError, match="must not be empty"):
        score("vt", "XKQPT", reference, scorer)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'kv'"):
        score("kvv", "a", "a")
