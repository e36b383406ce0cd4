"""Scorers: the right one for each task, and beside it the one the SCBench release used.

Never mix them in one table. ``reference`` reproduces the released scorer, faults included; ``corrected``
reads the answer the way a person would; the dialect is scored by exact match. Every score is in 0..1.
An empty prediction scores 0 everywhere, an empty gold is refused (any text would contain it).

=====================  ================================  =========================================================
task                   reference (SCBench release)       corrected, and so where the two differ
=====================  ================================  =========================================================
kv                     gold is a substring               the first UUID but a key said again: listing the context
                                                         is no answer
prefix_suffix          gold is a substring               the first string as long as the gold, not part of a longer one
vt                     share of gold names found in any  exactly the gold names: naming more is as wrong as fewer;
                       case, to 2 decimals; a gold str   a gold str is one name
                       is read letter by letter
repoqa                 nearest needle of the repository  the same
                       is the gold and BLEU >= 0.8
qa_eng                 upper-cased substring of a gold   whole words, no punctuation, no articles ("No" is not in
                                                         "know", a full stop in the gold does not matter)
qa_chn                 F1 of characters; a gold str is   a gold str is one gold; all punctuation is dropped
                       read as golds of one character
choice_eng             first character if in ABCD, else  ``(X)``, ``**X**``, ``X.``, "answer is: X", "it is X", or
                       "answer is" or a bare letter      the option's text in any case; "According" is not A
many_shot              any letter of the gold occurs     the same reader of options as choice_eng
                       anywhere, in any case
mf                     first run of digits, cut to an    first number on its own, with sign, thousands separators
                       int; a gold str is a TypeError    and decimals; a gold str is read as a number
summary                rougeLsum over ``[a-z0-9]``       rougeLsum over Unicode words, over characters for scripts
                                                         without spaces; equal for ASCII text
passkey                first run of digits is the gold   first run of digits as long as the gold
needle                 first run of digits is the gold   the same (the extra task words its needles without digits)
summary_with_needles   summary; passkey for a gold of    the same split
                       digits only
repoqa_and_kv          repoqa for a gold that is a       the same split
                       mapping, else kv
ruler_*                mean (qa: any) over the golds of  the golds as whole words
                       case-insensitive substrings
longgen                answers in order of appearance    answers by their printed index
=====================  ================================  =========================================================

``qa_eng`` is one number on purpose. The golds are short entities and models answer in sentences, so F1 would
measure brevity; inclusion of whole words is what the release meant to measure. The SQuAD number is
:func:`token_f1`, for those who want it beside.

A task may be written with or without the prefix ``scbench_``. Sources: the release's ``compute_scores.py`` and
``repo_qa_utils.py`` (microsoft/MInference), RULER (arXiv 2404.06654), LongGenBench (arXiv 2410.04199) as
SCOPE scores it (arXiv 2412.13649).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ..errors import UsageError, choose
from .code import best_needle, exact_line_recall
from .corrected import CORRECTED
from .golds import Gold, check_reference, rule_name
from .modules import module_path
from .reference import REFERENCE
from .text import char_f1, key_fact_recall, rouge_lsum, token_f1

__all__ = [
    "Scorer",
    "best_needle",
    "char_f1",
    "exact",
    "exact_line_recall",
    "key_fact_recall",
    "module_path",
    "rouge_lsum",
    "score",
    "score_corrected",
    "score_reference",
    "token_f1",
]

Scorer = Literal["corrected", "reference", "exact"]


def score(task: str, prediction: str, reference: Gold, scorer: Scorer = "corrected") -> float:
    """The score in 0..1 of one answer.

    Args:
        task: a name of the table above.
        prediction: the text the model wrote.
        reference: the gold: text; a number for ``mf``; the list of names for ``vt``; ``[text, letter]`` for
            ``choice_eng``; the letter for ``many_shot``; ``{func_name, lang, needles}`` for ``repoqa``;
            ``{printed index: gold}``, or the golds of 1, 2, ... in order, for ``longgen``.
        scorer: ``"corrected"``, ``"reference"`` (the released scorer) or ``"exact"`` (equal up to white space).

    Raises:
        UsageError: for an unknown task or scorer, an empty reference or one of the wrong kind.
        TypeError: where the released scorer raises it (``mf`` with a gold that is text).
    """
    choose("scorer", scorer, ("corrected", "reference", "exact"))
    if scorer == "exact":
        return exact(prediction, reference)
    rule = score_reference if scorer == "reference" else score_corrected
    return rule(task, prediction, reference)


def score_reference(task: str, prediction: str, reference: Gold) -> float:
    """The score of the SCBench release, faults included; see :func:`score` for the arguments."""
    check_reference(reference)
    return float(REFERENCE[choose("task", rule_name(task, reference), REFERENCE)](prediction, reference))


def score_corrected(task: str, prediction: str, reference: Gold) -> float:
    """The score of the answer as a person reads it; see :func:`score` for the arguments."""
    check_reference(reference)
    rule = CORRECTED[choose("task", rule_name(task, reference), CORRECTED)]
    return float(rule(prediction, reference)) if prediction.strip() else 0.0


def exact(prediction: str, reference: Gold) -> float:
    """1 if the words are the same in the same order.

    Raises:
        UsageError: for an empty reference, or a mapping, which has no one text.
    """
    check_reference(reference)
    if isinstance(reference, (str, int, float)):
        return float(prediction.split() == str(reference).split())
    if isinstance(reference, Mapping):
        raise UsageError("a mapping has no one text to be equal to; score 'repoqa' and 'longgen' with another scorer")
    return float(prediction.split() == " ".join(reference).split())
