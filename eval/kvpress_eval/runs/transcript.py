"""What was asked and answered in the sessions of a row, as records for the file of its answers (see ``answers``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..rows.row import Row
from ..suites.episode import Episode, Turn
from ..suites.prompt import Prompt, Prompter
from .asking import Answers
from .config import RunConfig
from .evidence_places import ranges

__all__ = ["Asked", "asked", "records"]

_TOKENS = 256  # of the end of a prompt that are turned to text
_CHARACTERS = 600  # of that text that are kept


@dataclass(frozen=True)
class Asked:
    """One session beside its answers: its episode, and for each question the end of what was read and what was said.

    ``evidence`` are the numbers of the prompt's tokens that hold each answer, None where they are not known;
    ``context`` is how many tokens the context has.
    """

    episode: Episode
    context: int
    evidence: Sequence[Sequence[int]] | None
    tails: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def asked(
    prompter: Prompter,
    config: RunConfig,
    episode: Episode,
    prompt: Prompt,
    evidence: Sequence[Sequence[int]] | None,
    got: Answers,
) -> Asked:
    """A session that was answered."""
    said = [prompter.text(ids) for ids in got.ids]
    tails = [_tail(prompter, before, question) for before, question in _read(config, prompt, got)]
    return Asked(episode, len(prompt.context), evidence, tails, said)


def _read(config: RunConfig, prompt: Prompt, got: Answers) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """What stood before each question, and the question."""
    if config.mode != "multi-turn":
        yield from ((prompt.context, question) for question in prompt.alone)
        return
    history = prompt.golds if config.history == "gold" else got.ids
    before: Sequence[int] = prompt.context
    for question, answer in zip(prompt.questions, history, strict=True):
        yield before, question
        before = [*question, *answer]


def _tail(prompter: Prompter, before: Sequence[int], question: Sequence[int]) -> str:
    ids = [*before[-_TOKENS:], *question][-_TOKENS:]
    text = str(prompter.tokenizer.decode(ids))
    return text[-_CHARACTERS:].lstrip("\ufffd")  # a character cut in two


def records(row: Row, sessions: Sequence[Asked], answers: Sequence[Answers]) -> list[dict[str, Any]]:
    """One record a question, in the order they were asked; the row has its scores already."""
    found = []
    for number, (session, got) in enumerate(zip(sessions, answers, strict=True)):
        for t, turn in enumerate(session.episode.turns):
            gold = got.golds[t]
            found.append(
                {
                    "session": session.episode.id,
                    "turn": t + 1,
                    **({"task": turn.task} if turn.task else {}),
                    "prompt": session.tails[t],
                    "gold": turn.answer,
                    **_expected(turn),
                    "answer": session.said[t],
                    "finish": "stop" if got.stopped[t] else "length",
                    "score": row.session_scores[number][t],
                    "reference": row.reference_scores[number][t] if row.reference_scores else None,
                    "gold_logprob": gold and round(gold.logprob, 6),
                    "gold_argmax": gold and gold.argmax,
                    **_evidence(session, t, got.kept[t]),
                }
            )
    return found


def _expected(turn: Turn) -> dict[str, Any]:
    """What the scorers compare with, where it is not the text of the answer. What RepoQA's needs besides (the
    functions it might be mistaken for) is as long as the context and left out.
    """
    if turn.gold is None or turn.gold == turn.answer or isinstance(turn.gold, Mapping):
        return {}
    gold = turn.gold if isinstance(turn.gold, str | int | float) else list(turn.gold)
    return {"expected": gold}


def _evidence(session: Asked, t: int, kept: float | None) -> dict[str, Any]:
    tokens = session.evidence[t] if session.evidence else ()
    if not tokens:
        return {"evidence": None, "depth": None, "kept": None}
    middle = (sum(tokens) / len(tokens) + 0.5) / session.context
    return {
        "evidence": ranges(tokens),
        "depth": round(100 * middle, 1),
        "kept": None if kept is None else round(kept, 4),
    }
