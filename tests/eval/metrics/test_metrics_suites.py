from __future__ import annotations

from typing import Any

import pytest
from kvpress_eval.metrics import score_corrected, score_reference


@pytest.mark.parametrize(
    ("task", "prediction", "reference", "released", "corrected"),
    [
        ("ruler_niah_multivalue", "1234567, 7654321.", ["1234567", "7654321"], 1, 1),
        ("ruler_niah_multivalue", "1234567,7654321", ["1234567", "7654321"], 1, 1),
        ("ruler_niah_multiquery", "1234567", ["1234567", "7654321", "1111111"], 1 / 3, 1 / 3),
        ("ruler_niah_single_1", "12345678", ["1234567"], 1, 0),
        ("ruler_niah_single_2", "1234567", "1234567", 1, 1),
        ("ruler_vt", "xkqpt AAZZB", ["XKQPT", "AAZZB"], 1, 1),
        ("ruler_cwe", "1. apples 2. pear", ["apple", "pear"], 1, 0.5),
        ("ruler_fwe", "abcdef\x00ghijkl", ["abcdef", "ghijkl"], 1, 1),
        ("ruler_qa_1", "I do not know", ["No"], 1, 0),
        ("ruler_qa_1", "No, never", ["No", "Never again"], 1, 1),
        ("ruler_qa_2", "in the Blue  House", ["the blue house."], 0, 1),
        ("ruler_qa_2", "green", ["red", "blue"], 0, 0),
    ],
)
def test_ruler(task: str, prediction: str, reference: Any, released: float, corrected: float) -> None:
    assert score_reference(task, prediction, reference) == pytest.approx(released)
    assert score_corrected(task, prediction, reference) == pytest.approx(corrected)


NUMBERS = {"9": "12", "10": "1,024", "11": "7"}


@pytest.mark.parametrize(
    ("prediction", "reference", "released", "corrected"),
    [
        ("Answer_9: The answer is 12.\nAnswer_10: The answer is 1024.\nAnswer_11: The answer is 7.", NUMBERS, 2 / 3, 1),
        # one that is missing shifts the others, where they are not looked up by index
        ("Answer_9: The answer is 12.\nAnswer_11: The answer is 7.", NUMBERS, 1 / 3, 2 / 3),
        ("Answer_10: The answer is $1,024.\nAnswer_11: 3 + 4, so the answer is 7.", NUMBERS, 0, 2 / 3),
        ("Answer_9: 12\nanswer 10) 1024", NUMBERS, 0, 2 / 3),
        ("Answer_09: The answer is 12. Answer_9: The answer is 5.", NUMBERS, 1 / 3, 1 / 3),
        ("Answer_1: the answer is (B).\nAnswer_2: the answer is A.", ["B", "(A)", "C"], 2 / 3, 2 / 3),
        ("Answer_2: the answer is (A).", ["B", "A"], 0, 0.5),
        ("Answer_1: The answer is -5", ["-5"], 0, 1),
        ("Answer_" + "1" * 5000 + ": The answer is 12", ["12"], 1, 0),
        ("12 1024 7", NUMBERS, 0, 0),
    ],
)
def test_longgenbench(prediction: str, reference: Any, released: float, corrected: float) -> None:
    for task in ("longgen", "longgen_gsm8k"):
        assert score_reference(task, prediction, reference) == pytest.approx(released)
        assert score_corrected(task, prediction, reference) == pytest.approx(corrected)
