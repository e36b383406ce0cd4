"""The language of the bundled model: same everywhere, right evidence, right length."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys

import pytest
from kvpress_eval.models.bundled.dialect import KINDS, TOKEN_ID, VOCAB, decode, document, encode

DIGEST = """
import hashlib, random
from kvpress_eval.tiny.dialect import KINDS, document
docs = [document(random.Random(i), 300, [kind], filler=0.3) for i in range(5) for kind in KINDS]
docs.append(document(random.Random(7), 500, KINDS, max_questions=9))
print(hashlib.sha256(repr(docs).encode()).hexdigest())
"""


def test_vocabulary_is_fixed() -> None:
    assert len(VOCAB) == len(set(VOCAB)) == 366
    assert [TOKEN_ID[word] for word in VOCAB] == list(range(366))
    # the order is part of the weights
    assert hashlib.sha256(" ".join(VOCAB).encode()).hexdigest().startswith("358dce0cf16fb7d3")


def test_same_documents_in_every_process() -> None:
    digests = set()
    for hash_seed in ("0", "1", "4242"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run([sys.executable, "-c", DIGEST], env=env, capture_output=True, text=True, check=True)
        digests.add(run.stdout)
    assert len(digests) == 1


def test_import_needs_no_torch() -> None:
    code = "import sys, kvpress_eval.tiny.dialect; print('torch' in sys.modules, 'transformers' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("kinds", [*[(kind,) for kind in KINDS], KINDS, ("kv", "trace")])
@pytest.mark.parametrize("filler", [0.0, 0.4])
@pytest.mark.parametrize("length", [61, 511, 2048])
def test_length_and_ends(kinds: tuple[str, ...], filler: float, length: int) -> None:
    for seed in range(5):
        doc = document(random.Random(seed), length, kinds, filler)
        assert length - 12 * len(kinds) - 4 <= len(doc.tokens) <= length
        assert doc.tokens[0] == "<bos>" and "?" not in doc.tokens and "<unk>" not in doc.tokens
        assert {q.task for q in doc.questions} <= set(kinds)
        assert all(q.answer[-1] == ";" and q.prompt[0] == "?" for q in doc.questions)
        assert set(doc.tokens) <= set(VOCAB)


@pytest.mark.parametrize("easy", [False, True])
@pytest.mark.parametrize("kinds", [*[(kind,) for kind in KINDS], KINDS])
def test_evidence_holds_the_answer(kinds: tuple[str, ...], easy: bool) -> None:
    for seed in range(20):
        doc = document(random.Random(seed), 400, kinds, filler=0.2, easy=easy)
        assert doc.questions
        for q in doc.questions:
            records = [doc.tokens[start:end] for start, end in q.evidence]
            assert all(record[-1] == ";" and record.count(";") == 1 for record in records)
            _CHECKS[q.task](q.prompt, q.answer, records)


def _check_lookup(prompt: tuple[str, ...], answer: tuple[str, ...], records: list[tuple[str, ...]]) -> None:
    assert [prompt[1:] + answer] == records


def _check_prefix(prompt: tuple[str, ...], answer: tuple[str, ...], records: list[tuple[str, ...]]) -> None:
    assert [("str", *prompt[2:4], *answer)] == records


def _check_trace(prompt: tuple[str, ...], answer: tuple[str, ...], records: list[tuple[str, ...]]) -> None:
    name, said = prompt[2:-1], []
    for record in reversed(records):  # follow the chain from the question to the number
        middle = record.index("=")
        assert record[0] == "let" and record[1:middle] == name
        name = record[middle + 1 : -1]
        said += [*name, "="]
    assert (*said[:-1], ";") == answer


def _check_label(prompt: tuple[str, ...], answer: tuple[str, ...], records: list[tuple[str, ...]]) -> None:
    consonant = prompt[2].rstrip("aeiou")
    assert len(records) >= 1
    assert all(r[1].rstrip("aeiou") == consonant and r[2:] == ("->", *answer) for r in records)


_CHECKS = {
    "kv": _check_lookup,
    "fact": _check_lookup,
    "prefix": _check_prefix,
    "trace": _check_trace,
    "label": _check_label,
}


def test_label_evidence_is_every_demonstration() -> None:
    doc = document(random.Random(3), 300, ["label"])
    for q in doc.questions:
        consonant = q.prompt[2].rstrip("aeiou")
        shown = [
            i for i, word in enumerate(doc.tokens) if word == "->" and doc.tokens[i - 1].rstrip("aeiou") == consonant
        ]
        assert [start + 2 for start, _ in q.evidence] == shown


def test_answers_are_unique() -> None:
    """The same question never has two answers in one document."""
    for seed in range(20):
        doc = document(random.Random(seed), 1024, KINDS)
        answers: dict[tuple[str, ...], tuple[str, ...]] = {}
        for q in doc.questions:
            assert answers.setdefault(q.prompt, q.answer) == q.answer


def test_max_questions_and_bad_arguments() -> None:
    assert len(document(random.Random(0), 300, KINDS, max_questions=3).questions) == 3
    for bad in ({"length": 8}, {"kinds": ()}, {"kinds": ("suffix",)}, {"filler": 1.0}):
        arguments = {"length": 100, "kinds": ("kv",), "filler": 0.0, **bad}
        with pytest.raises(ValueError, match=r"kinds|length"):
            document(random.Random(0), **arguments)  # type: ignore[arg-type]


def test_encode_decode() -> None:
    doc = document(random.Random(0), 200, KINDS)
    ids = encode(doc.tokens)
    assert decode(ids).split() == list(doc.tokens)
    assert encode(["ba", "nonsense"]) == [TOKEN_ID["ba"], TOKEN_ID["<unk>"]]
    assert decode([380]) == "<unk>"
