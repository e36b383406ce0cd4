"""The prompts of the twelve tasks: as SCBench's release assembles them, and the same wording without its faults.

Source: scbench/eval_utils.py of microsoft/MInference. The wording defines the benchmark. What ``corrected`` mends:

- Multi-request mode has the blank line between context and question that multi-turn mode has.
- Math.Find: the head does not tell the first question, and every question names its own number (the release's chat
  follow-ups all name that of the last turn).
- Multiple choice: "The the", and the other ending of the follow-ups without a chat template.
- Summaries: no answer of a follow-up is made to begin with "This paper".
- Gold history: a space before an answer, no full stop after one, and names instead of a Python list of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import UsageError
from ..suites.episode import Joints
from ..suites.texts.release_prompts import HEADS, asked
from .scbench_records import Question, Record

__all__ = ["Words", "head", "joints", "words"]


@dataclass(frozen=True)
class Words:
    """A question in the places it may have, and what its answer is made to begin with (as in Turn)."""

    question: str
    later: str = ""
    alone: str = ""
    opening: str = ""


def head(record: Record, reference: bool, alone: bool) -> str:
    """What stands before the context, with the blank line after it. ``alone``: in multi-request mode."""
    text = HEADS.get(record.task, "")
    if record.task == "mf" and reference:
        first = record.questions[0]
        text = first.text if alone else _what(record, first)
    return f"{text}\n\n" if text else ""


def joints(record: Record, reference: bool, eos: str | None = None) -> Joints:
    """What stands between the parts. ``eos`` ends the model's own answers in the released own history."""
    if not reference:
        return Joints()
    later = ".\n\n" if record.task == "passkey" else "\n\n"
    return Joints(alone="", answer="", later=later if eos is None else eos)


def words(record: Record, turn: int, reference: bool, plain: bool) -> Words:
    """The wording of a question.

    Args:
        reference: as released, else corrected.
        plain: without a chat template and with gold answers in the history, where the release has follow-ups of its
            own.
    """
    question = record.questions[turn]
    text, task = question.text, record.task
    if task in ("qa_eng", "qa_chn"):
        return Words(asked(task, text))
    if task == "choice_eng":
        listed = asked(task, text, question.options)
        if not reference:
            return Words(f"{listed}The correct answer is")
        return Words(
            f"{listed}The the correct answer is",
            later=f"{listed}The letter of the correct answer is" if plain else "",
        )
    if task == "mf":
        own = f"{_what(record, question)}\n\n{text}"
        if not reference:
            return Words(own)
        last = f"{_what(record, record.questions[-1])}\n\n{text}"
        return Words(text, later=own if plain else last, alone=own)
    opens = reference and task == "summary" and turn > 0
    return Words(text, opening="This paper" if opens else "")


def _what(record: Record, question: Question) -> str:
    found = re.search(r"The .+ is", question.text)
    if found is None:
        raise UsageError(
            f"{record.where} asks {question.text!r}; a question of task 'mf' must hold 'The ... is', which the prompt "
            "repeats"
        )
    return f"What is {found[0].lower()[:-3]}?"
