"""What the released scorers give: the values were obtained by running them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kvpress_eval.errors import UsageError
from kvpress_eval.metrics import best_needle, score, score_corrected, score_reference

DATA = json.loads((Path(__file__).parent / "released_scores.json").read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = DATA["cases"]
# where an answer is read as a person would, and the release does not
MENDED = {
    *("one of three, to two decimals", "gold str: four of five letters occur", "the A of According"),
    *("the B of Both", "parentheses", "bold", "option's text in lower case", "No inside know", "Chinese"),
    *("full stop in the gold", "gold str: best single character", "gold str: one right character"),
    *("gold in parentheses: any parenthesis", "sign not read", "thousands separator", "gold that is text"),
    "first digits are another number",
}
UUID = "2d9ab7c8-394a-4062-9928-310e39201a2f"


def name(case: dict[str, Any]) -> str:
    return f"{case['task']}: {case['note']}"


def gold(case: dict[str, Any]) -> Any:
    reference = case["reference"]
    return {**reference, "needles": DATA["needles"][reference["needles"]]} if isinstance(reference, dict) else reference


@pytest.mark.parametrize("prefix", ["", "scbench_"])
@pytest.mark.parametrize("case", CASES, ids=name)
def test_released_scores(case: dict[str, Any], prefix: str) -> None:
    task = prefix + case["task"]
    if case["released"] == "error:TypeError":
        with pytest.raises(TypeError, match="takes an int or a float"):
            score_reference(task, case["prediction"], gold(case))
    else:
        assert score_reference(task, case["prediction"], gold(case)) == pytest.approx(case["released"], abs=1e-6)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_corrected_scores_differ_only_where_the_release_is_at_fault(case: dict[str, Any]) -> None:
    found = score_corrected(case["task"], case["prediction"], gold(case))
    assert found == pytest.approx(case["corrected"], abs=1e-6)
    assert (found != pytest.approx(case["released"], abs=1e-6)) == (case["note"] in MENDED)


@pytest.mark.parametrize("case", [c for c in CASES if "bleu" in c], ids=name)
def test_nearest_needle_and_its_bleu(case: dict[str, Any]) -> None:
    nearest, bleu = best_needle(case["prediction"], gold(case)["needles"], "python")
    assert nearest == case["nearest"]
    assert bleu == pytest.approx(case["bleu"], abs=5e-5)


@pytest.mark.parametrize(
    ("task", "prediction", "reference", "expected"),
    [
        # the runner of the release wraps the gold of qa_eng, and of no other task
        ("qa_eng", "peyton!", "Peyton", 1),
        ("qa_eng", "p", "Peyton", 0),
        ("qa_eng", "either Mary or John", ["Ann", "john"], 1),
        ("qa_chn", "《王小明", ["王小明"], 2 * 3 / 7),  # the mark that opens a title is not deleted,
        ("qa_chn", "王小明》 ，!", ["王小明"], 1),  # the one that closes it is
        ("choice_eng", "B", ["Light", "B"], 1),
        ("choice_eng", "Light", ["Light", "C"], 1),
        ("choice_eng", "I think the option is C", ["Light", "C"], 1),
        ("choice_eng", "I say so. The answer is", ["Light", "C"], 0),
        ("choice_eng", "I would say it is ABC, or C", ["Light", "C"], 0),
        ("choice_eng", "it must be D!", ["Light", "D"], 1),
        ("choice_eng", "The answer is **C**", ["Light", "C"], 0),
        ("many_shot", "according to me", ["A"], 1),
        ("mf", "417.9", 417, 1),
        ("mf", "2nd largest is 417", 417, 0),
        ("mf", "the value 0.5", 0.5, 1),
        ("mf", "no number", 417, 0),
        ("mf", "9" * 400, 417, 0),
        ("mf", "0", 0, 1),
        ("mf", "417", [417], 1),
        ("passkey", "71432 is 9", "71432", 1),
        ("passkey", "071432", "71432", 0),
        ("passkey", "71432", 71432, 0),
        ("summary", "It covers tasks", "It covers twelve tasks.", 6 / 7),
        ("summary_with_needles", "It covers 12 tasks", "It covers 12 tasks", 1),
        ("repoqa_and_kv", f"is {UUID}.", UUID, 1),
    ],
)
def test_more_released_rules(task: str, prediction: str, reference: Any, expected: float) -> None:
    assert score(task, prediction, reference, "reference") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("reference", ["", "  ", [], ["a", ""], {}, ()])
@pytest.mark.parametrize("rule", [score_reference, score_corrected])
def test_an_empty_gold_is_refused(rule: Any, reference: Any) -> None:
    with pytest.raises(UsageError, match="must not be empty"):
        rule("kv", "a", reference)


def test_a_gold_of_another_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="got bytes"):
        score("kv", "a", b"a")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="got a mapping"):
        score("qa_eng", "a", {"a": "b"})
    with pytest.raises(UsageError, match="got a mapping"):
        score("mf", "4", {"a": 4})
    with pytest.raises(UsageError, match="is a number, got 'many'"):
        score("mf", "4", "many")
    with pytest.raises(UsageError, match="names in capital letters"):
        score("vt", "abc", ["abc"])
    with pytest.raises(UsageError, match="a mapping has no one text"):
        score("repoqa", "a", {"func_name": "f"}, "exact")
    with pytest.raises(UsageError, match="unknown scorer"):
        score("kv", "a", "a", "correct")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="did you mean 'choice_eng'"):
        score_reference("scbench_choice_en", "a", "a")
