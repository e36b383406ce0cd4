"""What holds for every task and both scorers."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import uuid
from typing import Any

import pytest
from kvpress_eval.metrics import rouge_lsum, score
from kvpress_eval.metrics.corrected import CORRECTED
from kvpress_eval.metrics.reference import REFERENCE

SCORERS: Any = ("reference", "corrected")
MIXED = ("summary_with_needles", "repoqa_and_kv")
TASKS = [*sorted({*REFERENCE, *MIXED} - {"ruler_match_all", "ruler_match_part"}), "ruler_vt", "ruler_qa_1"]


def word(rng: random.Random, n: int, alphabet: str = "EFGHIJKLMNOPQRSTUVWXYZ") -> str:
    return "".join(rng.choices(alphabet, k=n))


def sentence(rng: random.Random) -> str:
    return " ".join(word(rng, rng.randint(4, 9)).lower() for _ in range(rng.randint(3, 8))) + "."


def example(task: str, rng: random.Random) -> tuple[Any, str]:
    """A gold and the text that answers it."""
    if task == "summary_with_needles":
        task = rng.choice(["summary", "passkey"])
    if task == "repoqa_and_kv":
        task = rng.choice(["repoqa", "kv"])
    if task == "repoqa":
        names = [word(rng, 7).lower() for _ in range(3)]
        code = [f"def {name}(x):\n    y = x * {rng.randint(2, 99)}\n    return y - {name!r}" for name in names]
        needles = [{"name": name, "needle": source} for name, source in zip(names, code, strict=True)]
        return {"func_name": names[1], "lang": "python", "needles": needles}, f"```python\n{code[1]}\n```"
    if task == "choice_eng":
        text, letter = sentence(rng).capitalize(), rng.choice("ABCD")
        return [text, letter], rng.choice([letter, f"{letter}. {text}"])
    if task == "longgen":
        golds = {str(i): str(rng.randint(0, 999)) for i in range(9, 14)}
        return golds, "\n".join(f"Answer_{i}: so the answer is {gold}." for i, gold in golds.items())
    if task in ("vt", "ruler_vt"):
        names = [word(rng, 5) for _ in range(3)]
        return names, " ".join(names[::-1])
    if task == "mf":
        number = rng.randint(0, 9999)
        return number, str(number)
    text = {
        "kv": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        "prefix_suffix": word(rng, 25, "abcdefXYZ"),
        "passkey": word(rng, 7, "0123456789"),
        "needle": word(rng, 10, "0123456789"),
        "many_shot": rng.choice("ABCDEFG"),
        "qa_chn": word(rng, 3, "王小明李雷梅"),
        "summary": "\n".join(sentence(rng) for _ in range(3)),
    }.get(task) or word(rng, 9).capitalize()
    return ([text] if task == "qa_chn" else text), text


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("task", TASKS)
def test_the_right_answer_scores_one_and_none_scores_zero(task: str, scorer: Any) -> None:
    rng = random.Random(f"{task} 7")
    for _ in range(23):
        gold, answer = example(task, rng)
        assert score(task, answer, gold, scorer) == pytest.approx(1, abs=1e-9)
        for nothing in ("", "  \n\t", "..."):
            assert score(task, nothing, gold, scorer) == 0


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("task", TASKS)
def test_any_text_scores_between_zero_and_one(task: str, scorer: Any) -> None:
    rng = random.Random(f"{task} 11")
    odd = [
        "A",
        "(B)",
        "answer is",
        "**",
        "```python\n",
        "\n```",
        "def f(",
        "-",
        "1,024",
        "é",
        "王",
        "\0",
        "\ud800",
        "٣",
        "²",
    ]
    for _ in range(47):
        gold, answer = example(task, rng)
        _, other = example(task, rng)
        parts = rng.choices([*odd, other, answer[: rng.randint(0, len(answer))], sentence(rng)], k=rng.randint(1, 6))
        found = score(task, rng.choice(["", " ", "\n"]).join(parts), gold, scorer)
        assert isinstance(found, float)
        assert 0 <= found <= 1


@pytest.mark.parametrize(
    "task", sorted({"kv", "prefix_suffix", "vt", "passkey", "mf", "qa_eng", "many_shot", "repoqa"})
)
def test_another_answer_scores_zero_when_it_is_read_well(task: str) -> None:
    rng = random.Random(f"{task} 13")
    pairs = [example(task, rng) for _ in range(23)]
    for (gold, answer), (_, other) in itertools.pairwise(pairs):
        assert score(task, other, gold) == float(other == answer)


def test_ascii_summaries_score_the_same_under_both_scorers() -> None:
    rng = random.Random(17)
    letters = [chr(c) for c in range(32, 127)] + ["\n", " ", " "] * 9
    for _ in range(61):
        left, right = (word(rng, rng.randint(1, 120), letters) for _ in range(2))  # type: ignore[arg-type]
        right += left[:40]
        assert rouge_lsum(left, right) == rouge_lsum(left, right, ascii_only=True)


def test_both_scorers_know_the_same_tasks() -> None:
    assert set(REFERENCE) == set(CORRECTED)


def test_importing_the_scorers_imports_no_optional_package() -> None:
    code = (
        "import sys, kvpress_eval.metrics as m\n"
        "assert m.score_corrected('kv', 'a', 'b') == 0\n"
        "print(sorted({'evaluate', 'datasets', 'rouge_score', 'nltk', 'tree_sitter', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True, check=True
    )
    # the package itself imports torch
    assert set(eval(done.stdout)) <= {"torch"}
