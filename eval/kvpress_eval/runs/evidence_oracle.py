"""Evidence oracle: the upper bound of eviction, which is told what a question will need.

paper     none; SCBench (arXiv 2412.10319) asks which slots a later question needs, this answers it
idea      keep the tokens that hold the answer to one turn's question, then the newest
formula   score = 1 if the token is evidence of the turn, else (token number) / (tokens + 1)
cost      O(n), nothing observed
deviates  -

It cheats: generated sessions say where their evidence stands, and no real method knows. As a control it separates what
a task needs from what a method finds, and shows what a selection for one question costs the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from kvpress.errors import PressSyntaxError
from kvpress.evidence.evidence import Evidence, Needs
from kvpress.recipe.kinds import AfterPrefill, Decisions
from kvpress.recipe.press import preset
from kvpress.storage.block import Block

from ..errors import UsageError
from ..suites.episode import Episode
from ..suites.prompt import Prompter
from .evidence_places import edges, overlapping

__all__ = ["EvidenceOracle", "about", "evidence", "evidence_tokens"]

_known: ContextVar[Sequence[Sequence[int]]] = ContextVar("evidence of the session at work", default=())


@dataclass(frozen=True)
class EvidenceOracle:
    """Scores by what `about` says of the session at work; without it the newest tokens stay.

    turn: whose evidence, from 0; -1 takes that of all turns.
    """

    turn: int = 0
    needs = Needs()
    comparable = True
    attention = False
    waits = ""

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        known = _known.get()
        turns = known if self.turn < 0 else known[self.turn : self.turn + 1]
        wanted = torch.tensor(sorted({at for turn in turns for at in turn}), device=block.pos.device, dtype=torch.int64)
        there = torch.isin(block.pos.long(), wanted) if len(wanted) else torch.zeros_like(block.pos, dtype=torch.bool)
        return torch.where(there, 1.0, block.pos.float() / (block.pos.max() + 2))


@preset("evidence")
def evidence(turn: int = 0, keep: float | int = 0.25, recent: int = 8, sinks: int = 1) -> Decisions:
    """What the question of one turn (-1: every turn) will need: a control, which no method can know."""
    if turn < -1:
        raise PressSyntaxError(f"evidence: turn must be at least -1 (which means every turn), got {turn}")
    return {
        "keep": keep,
        "scorer": EvidenceOracle(turn),
        "recent": recent,
        "sinks": sinks,
        "schedule": AfterPrefill(),
    }


@contextmanager
def about(tokens: Sequence[Sequence[int]]) -> Iterator[None]:
    """Within, the oracle knows that turn t needs the tokens ``tokens[t]`` (numbers in the prompt, from 0)."""
    token = _known.set(tokens)
    try:
        yield
    finally:
        _known.reset(token)


def evidence_tokens(prompter: Prompter, episode: Episode, turn: int = -1) -> list[list[int]]:
    """For every turn the numbers of the prompt's tokens that overlap its evidence.

    Args:
        turn: the one whose evidence is needed, -1 for all.

    Raises:
        UsageError: where that turn is not there or its evidence is not known, or for a tokenizer that does not tell
            where its tokens stand.
    """
    if turn >= len(episode.turns):
        raise UsageError(
            f"{episode.task} has no turn {turn}: its {len(episode.turns)} turns count from 0; choose a smaller one"
        )
    if not any(one.evidence for one in (episode.turns if turn < 0 else [episode.turns[turn]])):
        raise UsageError(
            f"{episode.task} does not say where the evidence of {'any turn' if turn < 0 else f'turn {turn}'} stands; "
            "the press evidence needs sessions that do, as most generated ones"
        )
    if prompter.chat:
        raise UsageError("where evidence stands inside a chat template is not known; use --chat off for this press")
    found, before = edges(prompter, episode.context), len(prompter.bos)
    return [[before + at for at in overlapping(found, one.evidence)] for one in episode.turns]
