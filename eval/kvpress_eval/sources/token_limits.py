"""How many tokens answers and contexts of real data may have, and the cut in the middle that makes a context fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import EpisodeError, UsageError
from ..suites.episode import Count, Episode, Span, Turn
from ..suites.prompt import Prompter

__all__ = ["MAX_NEW", "cut", "limit", "room"]

MAX_NEW: dict[str, int | dict[str, int]] = {
    "kv": 150,
    "prefix_suffix": 150,
    "vt": 30,
    "repoqa": 1024,
    "qa_eng": 40,
    "qa_chn": 40,
    "choice_eng": 40,
    "mf": 5,
    "many_shot": 10,
    "summary": 200,
    "passkey": 15,
    "summary_with_needles": {"summary": 800, "passkey": 15},
    "repoqa_and_kv": {"repoqa": 1024, "kv": 80},
}
"""The release's ``max_new_tokens``."""
_WHOLE = ("mf", "many_shot", "summary")  # all of the context is evidence
_APART = 1000  # tokens of the budget that the release leaves to the questions in multi-request mode
_SLACK = 4  # tokens by which the two halves of a context may grow where they meet


def limit(task: str, turns: Sequence[Turn], reference: bool, count: Count) -> tuple[Turn, ...]:
    """The turns with their ``max_new_tokens``: the release's, and unless ``reference`` at least 8 more than 1.5 times
    the longest gold answer of the kind takes with this tokenizer.
    """
    table = MAX_NEW.get(task, 0)
    most: dict[str, int] = {}
    for turn in turns:
        given = table[turn.task] if isinstance(table, dict) else table
        needed = 0 if reference else math.ceil(1.5 * count(" " + turn.answer)) + 8
        most[turn.task] = max(most.get(turn.task, 0), given, needed)
    return tuple(replace(turn, max_new_tokens=most[turn.task]) for turn in turns)


def room(episode: Episode, prompter: Prompter, reference: bool, alone: bool, turns: int) -> tuple[int, int, int]:
    """How many tokens of the context may stay at its beginning and at its end, and how many more where it is whole.

    Corrected: so that context, questions, answers and what the chat template adds fit ``length``. As released: half of
    ``length`` less all ``max_new_tokens`` of ``turns`` turns from each end of the first prompt, in which multi-turn
    mode has the first question (``alone``: multi-request mode).

    Raises:
        EpisodeError: where nothing is left.
    """
    prompt = prompter.prompt(replace(episode, context="x"))
    if reference:
        table = MAX_NEW[episode.task]
        taken = sum(table.values()) * turns // 2 if isinstance(table, dict) else table * turns
        half = (episode.length - taken - (_APART if alone else 0)) // 2
        head, tail = half - len(prompt.context) + 1, half - (0 if alone else len(prompt.questions[0]))
        more = 0
    else:
        answers = zip(episode.turns, prompt.golds, strict=True)
        more = _SLACK + 1  # a whole context is joined to nothing, and takes the place of the one counted here
        taken = len(prompt.context) + sum(map(len, prompt.questions)) + _SLACK
        taken += sum(max(turn.max_new_tokens or episode.max_new_tokens, len(gold)) for turn, gold in answers)
        head = (episode.length - taken) // 2
        tail = episode.length - taken - head
    if min(head, tail) < 1:
        raise EpisodeError(
            f"length {episode.length} leaves no room for a context of task {episode.task!r}: {len(episode.turns)} "
            f"questions and answers take about {episode.length - head - tail} tokens; use a greater --length or fewer "
            "--turns"
        )
    return head, tail, more


@dataclass(frozen=True)
class _Kept:
    """``context[:end]`` and ``context[start:]`` stay."""

    end: int
    start: int

    def move(self, span: Span) -> Span | None:
        """Where a span is afterwards; None where any of it is gone."""
        if span[1] <= self.end:
            return span
        gone = self.start - self.end
        return (span[0] - gone, span[1] - gone) if span[0] >= self.start else None


def cut(episode: Episode, prompter: Prompter, head: int, tail: int, more: int = 0) -> Episode:
    """The episode with at most ``head`` + ``tail`` tokens of its context, the middle left out; whole where it has no
    more than ``more`` tokens above that.

    A turn is marked as cut where evidence is gone: any of its spans or, where it has none, a gold text that the whole
    context holds and the rest does not. For summaries, many shots and Math.Find all of the context is evidence.
    Characters are never split: up to one token at each end of the gap goes too.

    Raises:
        UsageError: for a tokenizer that does not say where its tokens stand.
    """
    context = episode.context
    if len(context.encode("utf-8", "surrogatepass")) < head + tail:  # no tokenizer makes more tokens than bytes
        return episode
    if not getattr(prompter.tokenizer, "is_fast", False):
        raise UsageError(
            "this tokenizer does not tell where its tokens stand (it is not a fast one), so that no context can be "
            "cut to a length; use a --length that the data fits, or another model"
        )
    offsets = prompter.tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    if len(offsets) <= head + tail + more:
        return episode
    kept = _Kept(offsets[head][0], offsets[len(offsets) - tail - 1][1])
    rest = context[: kept.end] + context[kept.start :]
    turns = tuple(_marked(episode.task, turn, context, rest, kept) for turn in episode.turns)
    return replace(episode, context=rest, turns=turns, cut=True)


def _marked(task: str, turn: Turn, context: str, rest: str, kept: _Kept) -> Turn:
    moved = [kept.move(span) for span in turn.evidence]
    gone = None in moved
    if not turn.evidence:
        kind = turn.task or task
        gone = kind in _WHOLE or any(text in context and text not in rest for text in _texts(kind, turn))
    return replace(turn, evidence=tuple(span for span in moved if span is not None), cut=gone)


def _texts(task: str, turn: Turn) -> tuple[str, ...]:
    """Texts that an answer needs, as far as the gold says them."""
    gold = turn.reference
    return tuple(map(str, gold)) if isinstance(gold, tuple) and task != "choice_eng" else (turn.answer,)
