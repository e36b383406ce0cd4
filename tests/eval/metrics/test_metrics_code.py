from __future__ import annotations

import random
import sys
import time
import warnings

import pytest
from kvpress_eval.errors import UsageError
from kvpress_eval.metrics import best_needle, score_corrected, score_reference
from kvpress_eval.metrics.bleu import bleu_scores, sentence_bleu
from kvpress_eval.metrics.code import LANGUAGES, extract_function

SOURCES = {
    "python": ("@cached\nasync def add(a, b):\n    return a + b\n\ndef sub(): pass", "async def add"),
    "java": (
        "class T {\n  T() { }\n  public int add(int a, int b) { return a + b; }\n  int sub() { return 0; }\n}",
        "public",
    ),
    "typescript": ("const k = (x: number) => x;\nexport function add(a: number): number { return a; }", "function add"),
    "rust": ("struct S;\nimpl S { pub fn add(a: i32) -> i32 { a } }\nfn sub() {}", "pub fn add"),
    # neither a method nor a function that returns a pointer
    "cpp": ("struct S { int get() { return 1; } };\nint* p() { return 0; }\nint add(int a) { return a; }", "int add"),
    "go": ("package m\nfunc (s S) Get() int { return 1 }\nfunc add(a int) int { return a }", "func add"),
}


@pytest.mark.parametrize("seed", range(8))
def test_bleu_is_that_of_nltk(seed: int) -> None:
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    smooth = bleu.SmoothingFunction().method4
    rng = random.Random(seed)
    for _ in range(60):
        alphabet = "abcdefgh"[: rng.randint(1, 8)]
        reference, hypothesis = (rng.choices(alphabet + x, k=rng.randint(1, 23)) for x in "xy")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = bleu.sentence_bleu([reference], hypothesis, smoothing_function=smooth)
        assert sentence_bleu(reference, hypothesis) == pytest.approx(expected, abs=1e-12)


def test_bleu_of_short_answers() -> None:
    assert sentence_bleu(["a"], []) == 0
    assert sentence_bleu(["a"], ["b"]) == 0
    assert sentence_bleu(["a"], ["a"]) == 1
    assert bleu_scores([], ["a"]) == []


def test_many_needles_are_quick() -> None:
    rng = random.Random(5)
    words = [f"w{i}" for i in range(97)]
    needles = [{"name": f"f{i}", "needle": " ".join(rng.choices(words, k=301))} for i in range(50)]
    start = time.process_time()
    assert best_needle(needles[37]["needle"] + " more" * 723, needles, "python")[0] == "f37"
    # 20 ms on one core; the bound leaves room for a slow one
    assert time.process_time() - start < 1


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_first_function_of_a_fence(lang: str) -> None:
    if lang != "python":
        pytest.importorskip(f"tree_sitter_{lang}")
    source, start = SOURCES[lang]
    found = extract_function(f"Here:\n```{lang}\n{source}\n```\nDone.", lang)
    assert found.startswith(start)
    assert found in source
    assert "sub" not in found and "get" not in found.lower()
    answer = {"func_name": "add", "lang": lang, "needles": [{"name": "add", "needle": found}]}
    assert score_reference("repoqa", f"```{lang}\n{source}\n```", answer) == 1


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("def f(): pass", "def f(): pass"),
        ("  text \n", "text"),
        ("```\nx = 1\n```\n```python\ndef f(): pass\n```", "def f(): pass"),  # the first fence that holds one
        ("```\nx = 1\n```\n```\ny = 2\n```", "x = 1\n"),
        ("```python\ndef f(:\n```", "def f(:\n"),  # no Python: the fence as it is
        ("```python\ndef f(): pass", "```python\ndef f(): pass"),  # not closed
        ("```python\n    def f():\n        return 1\n```", "def f():\n    return 1"),
        ("```python\ndef g():\n    def f(): pass\n```", "def g():\n    def f(): pass"),
        ("```python\nx = '\0'\n```", "x = '\0'\n"),
        ("```python\ndef f(): return '\\d'\n```", "def f(): return '\\d'"),
        (f"```python\n{'(' * 5000}\n```", "(" * 5000 + "\n"),
    ],
)
def test_what_is_taken_for_the_function(prediction: str, expected: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert extract_function(prediction, "python") == expected


def test_the_first_of_equal_needles() -> None:
    twins = [{"name": name, "needle": "def f(x): return x"} for name in "fg"]
    assert best_needle("def f(x): return x", twins, "python") == ("f", 1.0)
    assert best_needle("other words", twins, "python") == (None, 0.0)
    assert best_needle("def f(x): return x", [], "python") == (None, 0.0)


def test_a_function_of_three_tokens_cannot_be_repeated_well_enough() -> None:
    # it has no 4-gram, and smoothing counts that as a miss
    assert best_needle("def f(): pass", [{"name": "f", "needle": "def f(): pass"}], "python")[1] < 0.6


def test_what_cannot_be_scored_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    needles = [{"name": "f", "needle": "def f(): pass"}]
    gold = {"func_name": "f", "lang": "python", "needles": needles}
    for rule in (score_reference, score_corrected):
        with pytest.raises(UsageError, match="a mapping with func_name, lang and needles"):
            rule("repoqa", "x", "def f(): pass")
        with pytest.raises(UsageError, match="'g' is not among the needles"):
            rule("repoqa", "x", {**gold, "func_name": "g"})
        with pytest.raises(UsageError, match="a needle must not be empty"):
            rule("repoqa", "x", {**gold, "needles": [{"name": "f", "needle": " "}]})
        with pytest.raises(UsageError, match="unknown language 'pyton'; did you mean 'python'"):
            rule("repoqa", "x", {**gold, "lang": "pyton"})
        monkeypatch.setitem(sys.modules, "tree_sitter_java", None)
        # whatever the answer, so that a run does not stop in its middle
        with pytest.raises(UsageError, match=r'pip install -e "\.\[code\]" in the checkout'):
            rule("repoqa", "no fence", {**gold, "lang": "java"})
