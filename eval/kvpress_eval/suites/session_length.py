"""How many tokens a session takes, with everything that a tokenizer and its chat template put between the texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .episode import Episode, Request, Turn
from .prompt import Prompter

__all__ = ["SessionRuler", "asking", "guessing"]

_BYTES = 4  # of UTF-8 a token, where no tokenizer counts


@dataclass(frozen=True)
class SessionRuler:
    """Measures sessions of natural text the way they are fed: see :class:`~.episode.Ruler`."""

    prompter: Prompter

    def context(self, text: str) -> int:
        """Tokens of a context as it is fed, the beginning that the template puts before it included."""
        return len(self.prompter.context(_session(text, ())))

    def beside(self, turns: Sequence[Turn], most: Sequence[int]) -> int:
        """Tokens of all questions, and of the answers where each takes the ``most`` it may."""
        prompt = self.prompter.pieces(_session("a", tuple(turns)))
        answers = sum(max(limit, len(gold)) for limit, gold in zip(most, prompt.golds, strict=True))
        # either mode may ask the episode
        return answers + max(sum(map(len, prompt.questions)), sum(map(len, prompt.alone)))


def _session(context: str, turns: tuple[Turn, ...]) -> Episode:
    return Episode("", "natural", context, turns, 0, 0, 0, 0)


def asking(
    prompter: Prompter, task: str, length: int, turns: int, seed: int, session: int, depth: float | None = None
) -> Request:
    """The request for a session that this prompter will feed."""
    return Request(
        task=task,
        rendering=prompter.rendering,
        length=length,
        turns=turns,
        seed=seed,
        session=session,
        count=prompter.count,
        overhead=len(prompter.bos),
        depth=depth,
        ruler=SessionRuler(prompter) if prompter.rendering == "natural" else None,
    )


def guessing(task: str, length: int, turns: int, seed: int, session: int, depth: float | None = None) -> Request:
    """The request for a session of natural text where no tokenizer counts: four bytes are a token."""
    return Request(task, "natural", length, turns, seed, session, _tokens, depth=depth)


def _tokens(text: str) -> int:
    return -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES)
