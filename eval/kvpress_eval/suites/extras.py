"""What is measured of an answer beside its score, where the score hardly sees what is wrong.

- ``key_fact_recall``: facts of a report that its summary holds. ROUGE rewards the wordings that all reports share.
- ``exact_line_recall``: lines with a constant of this context that the repeated function holds. BLEU hardly sees one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..metrics import exact_line_recall, key_fact_recall
from .episode import Episode, Turn
from .texts.reports import key_facts

__all__ = ["extras"]


def extras(episodes: Sequence[Episode], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """The mean of each measure over the turns that have it; ``answers`` are those of each episode's turns."""
    found: dict[str, list[float]] = {}
    for episode, texts in zip(episodes, answers, strict=True):
        for turn, text in zip(episode.turns, texts, strict=True):
            for name, value in _measured(turn.task or episode.task, turn, text):
                found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in sorted(found.items())}


def _measured(task: str, turn: Turn, text: str) -> Iterator[tuple[str, float]]:
    facts = key_facts(turn.answer) if task == "summary" else {}
    if facts:
        yield "key_fact_recall", key_fact_recall(text, list(facts.values()))
    lines = turn.gold.get("lines") if isinstance(turn.gold, Mapping) else None
    if lines:
        yield "exact_line_recall", exact_line_recall(text, lines)
