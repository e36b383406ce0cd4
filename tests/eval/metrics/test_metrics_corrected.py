"""The corrected scorers read an answer as a person would."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from kvpress_eval.errors import UsageError
from kvpress_eval.metrics import char_f1, exact_line_recall, key_fact_recall, rouge_lsum, score_corrected, token_f1
from kvpress_eval.metrics.answer_reading import first_number, option

UUID = "2d9ab7c8-394a-4062-9928-310e39201a2f"
TEXT, LETTER = "Walking Georgie", "B"


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("B", 1),
        (" b ", 1),
        ("B.", 1),
        ("(B)", 1),
        ("(b) Light", 1),
        ("**B**", 1),
        ("**B.** Light", 1),
        ("B: Light", 1),
        ("B because of the letter", 1),
        ("Option B", 1),
        ("The answer is: B", 1),
        ("The correct answer is (B).", 1),
        ("Answer: **B**", 1),
        ("The letter of the correct answer is B", 1),
        ("I would go with B", 1),
        ("According to chapter 3, it is B", 1),
        ("Definitely **B**, I think", 1),
        ("$\\boxed{B}$", 1),
        ("walking georgie.", 1),
        ("B Walking Georgie", 1),
        ("The answer is Walking Georgie, as told", 1),
        ("(A) is what some think; the answer is (B)", 0),  # the answer begins with an option
        ("Some think (A), but the answer is (B)", 1),
        ("Both seem right", 0),
        ("But it is A", 0),
        ("B-flat was played", 0),
        ("B1", 0),
        ("A man walks", 0),
        ("Not Walking Georgie", 0),
        ("Walking Georgiana", 0),
        ("E", 0),
        ("Because", 0),
    ],
)
def test_options(prediction: str, expected: float) -> None:
    assert score_corrected("choice_eng", prediction, [TEXT, LETTER]) == expected


def test_an_option_given_only_as_letter_or_only_as_text() -> None:
    assert score_corrected("choice_eng", "it is B", "B") == 1
    assert score_corrected("choice_eng", "walking georgie", TEXT) == 1
    assert score_corrected("choice_eng", "A Christmas Carol", ["A Christmas Carol", "C"]) == 1
    assert score_corrected("choice_eng", "A Christmas Carol", [TEXT, "A"]) == 0


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("G Saturday", "G"),
        ("(G) Saturday\n\nQ: next\n(A) Sunday", "G"),
        ("A 06/12/2019", "A"),
        ("A is right", "A"),
        ("A man walks to (C)", "C"),
        ("I think it is (C)", "C"),
        ("I'd say D", "D"),
        ("I am not sure", None),
        ("Saturday", None),
        ("the answer\nis unclear", None),
        ("7", None),
        ("ß", None),
    ],
)
def test_options_of_any_letter(text: str, letter: str | None) -> None:
    assert option(text) == letter


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("417", "417"),
        ("-417", "-417"),
        ("−417 m", "-417"),
        ("- 417", "417"),
        ("is:-417", "-417"),
        ("value-417", "417"),
        ("1,024", "1024"),
        ("1,024,000.5 in all", "1024000.5"),
        ("1,2,3", "1"),
        ("12,34", "12"),
        ("The 2nd largest is 417.", "417"),
        ("x2 = 9", "9"),
        ("417.9", "417.9"),
        (".5", "0.5"),
        ("it is ...417", "417"),
        ("答案是417。", "417"),
        ("**417**", "417"),
        ("$1,024", "1024"),
        ("417, 418", "417"),
        ("version 3.14.15", None),
        ("none", None),
    ],
)
def test_first_number(text: str, value: str | None) -> None:
    assert first_number(text) == (None if value is None else Decimal(value))


@pytest.mark.parametrize(
    ("task", "prediction", "reference", "expected"),
    [
        ("mf", "417.9", 417, 0),
        ("mf", "417.0", 417, 1),
        ("mf", "-0.1", -0.1, 1),
        ("mf", "1024", "1,024", 1),
        ("mf", "0", 0, 1),
        ("passkey", "Document 3: 71432", "71432", 1),
        ("passkey", "00123", "00123", 1),
        ("passkey", "0123", "00123", 0),
        ("passkey", "99999, then 71432", "71432", 0),
        ("passkey", "714321", "71432", 0),
        ("kv", "the key x9K-2, then y9K-3", "x9K-2", 1),  # a value that is no UUID
        ("prefix_suffix", "the string is a[bC]_x.", "a[bC]_x", 1),
        ("vt", "VAR XKQPT = AAZZB", ["XKQPT", "AAZZB"], 1),
        ("qa_eng", "Peyton's house", "Peyton", 1),
        ("qa_eng", "house, blue", "blue house", 0),
        ("qa_eng", "It cost 1,024 pounds", "1024", 1),
        ("qa_eng", "NO!", "No.", 1),
        ("qa_eng", "Zoë Müller", "zoë müller", 1),
        ("qa_eng", "???", "???", 1),
        ("qa_chn", "《红楼梦》", "红楼梦", 1),
        ("qa_chn", "书是红楼梦", ["西游记", "红楼梦"], 0.75),
        ("many_shot", "the answer is (C)", "(C)", 1),
        ("summary", "Das Maß der Größe", "das maß der größe", 1),
        ("summary", "このベンチマーク", "ベンチマーク", 2 * 6 / 14),
        ("summary_with_needles", "key 3 is 71432", "71432", 1),
        ("repoqa_and_kv", f"{UUID} and more", UUID, 1),
    ],
)
def test_more_corrected_rules(task: str, prediction: str, reference: Any, expected: float) -> None:
    assert score_corrected(task, prediction, reference) == pytest.approx(expected, abs=1e-6)


def test_measures_beside_the_scores() -> None:
    assert token_f1("It was the blue house", ["blue house", "no"]) == pytest.approx(2 * 2 / 6)
    assert token_f1("", "blue house") == 0
    assert char_f1("王", "王小明") == 0.5
    assert rouge_lsum("这是一个基准测试", "这是一个基准测试", ascii_only=True) == 0
    summary = "Nolvane reaches 81.5 on Tarbeq, not 1,024."
    assert key_fact_recall(summary, ["nolvane", "81.5", "1024", "Tarb"]) == 0.75
    code = "```python\ndef f(x):\n    y = x * 7\n    return y\n```\n"
    assert exact_line_recall(code, ["y = x * 7", "return y"]) == 1
    assert exact_line_recall(code, ["y = x * 8", "return y"]) == 0.5
    with pytest.raises(UsageError, match="key facts must not be empty"):
        key_fact_recall(summary, [])
    with pytest.raises(UsageError, match="lines to recall must not be empty"):
        exact_line_recall(code, [" "])
