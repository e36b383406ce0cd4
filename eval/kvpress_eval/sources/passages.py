"""Passages of real text: the prefix that is read and compressed, and the tokens after it that are forced."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from ..models.rendering import Rendering
from ..suites.episode import Episode, Turn

__all__ = ["Passage", "Passages"]


@dataclass(frozen=True)
class Passage:
    """One passage. ``prefix`` has the begin token, where there is one; ``ids`` are forced. Its texts are those of both.

    ``name`` says which document it is of.
    """

    task: str
    rendering: Rendering
    name: str
    prefix: tuple[int, ...]
    ids: tuple[int, ...]
    text: str
    forced: str
    seed: int
    session: int

    @cached_property
    def id(self) -> str:
        """``task/length+forced/seed/number#hash``: equal ids mean equal tokens and text."""
        held = json.dumps([self.prefix, self.ids, self.text, self.forced])
        digest = hashlib.sha256(held.encode()).hexdigest()[:8]
        return f"{self.task}/{len(self.prefix)}+{len(self.ids)}/{self.seed}/{self.session}#{digest}"


@dataclass(frozen=True)
class Passages:
    """The passages of a cell, a source of sessions like the others. ``told`` says where the text is from."""

    found: tuple[Passage, ...]
    told: str
    turns: int = 1
    made: bool = False

    @cached_property
    def digest(self) -> str:
        """A hash of all their tokens and texts."""
        return hashlib.sha256(" ".join(one.id for one in self.found).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.found)

    def passage(self, session: int) -> Passage:
        """The passage of a session."""
        return self.found[session]

    def episode(self, session: int) -> Episode:
        """The same as an episode without a question, for what shows texts."""
        one = self.found[session]
        turn = Turn("", one.forced, ())
        length = len(one.prefix)
        return Episode(one.task, one.rendering, one.text, (turn,), len(one.ids), length, one.seed, session)
