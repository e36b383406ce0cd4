"""A prepared cell of a task that asks nothing: every passage under the press, compared with the full cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, cast

from ..machine.environment import Peak
from ..metrics.divergence import MEASURES, means
from ..rows.row_types import Premise
from ..sources.passages import Passage, Passages
from .asking import Answers
from .forcing import Head, States, compare, force

if TYPE_CHECKING:
    from .prepare import Cell

__all__ = ["Continued", "run_passages"]


@dataclass
class Continued:
    """What came out of the passages of a cell. ``measures`` as rows have them: name, passage, one value."""

    ids: list[str] = field(default_factory=list)
    answers: list[Answers] = field(default_factory=list)
    measures: dict[str, list[list[float | None]]] = field(default_factory=dict)
    peak: tuple[int | None, str] = (None, "")
    premises: list[Premise] = field(default_factory=list)


def run_passages(
    cell: Cell, passages: Passages, probe: Callable[[], None], tick: Callable[[int], None] | None = None
) -> Continued:
    """Force every passage under the press of a cell; ``probe`` is called after each.

    The full cache of a passage is read once for all presses of a process. Peak memory is that of the press: nothing is
    compared before it is read.
    """
    found, states = Continued(), list[States]()
    head, config = Head(cell.loaded.model), cell.config
    peak = Peak(cell.loaded.device)
    peak.start()
    with cell.session() as session:
        for number, passage in enumerate(passages.found, 1):
            one, answers = force(head, session, passage, config.forced_step, config.chunk)
            states.append(one)
            found.ids.append(passage.id)
            found.answers.append(answers)
            probe()
            if tick is not None:
                tick(number)
        found.premises = [cast("Premise", one.to_dict()) for one in session.premises or ()]
    found.peak = peak.read()
    for passage, ours in zip(passages.found, states, strict=True):
        full = cell.loaded.bases.get(_key(cell, passage), partial(_full, cell, head, passage, ours))
        values = compare(head, full, ours, passage.ids)
        measured = means({name: getattr(values, name) for name in MEASURES})
        if not all(map(math.isfinite, measured.values())):
            dtype = cell.loaded.dtype
            raise ValueError(f"of {passage.id} the model predicts what is no number in {dtype}; try another dtype")
        for name, value in measured.items():
            found.measures.setdefault(name, []).append([value])
    return found


def _key(cell: Cell, passage: Passage) -> str:
    """A passage and how it is fed: rounding differs between one forward and many."""
    return f"{passage.id} {cell.config.forced_step} {cell.config.chunk}"


def _full(cell: Cell, head: Head, passage: Passage, ours: States) -> States:
    """What the full cache predicts: of a cell of the full cache, its own."""
    from kvpress import Press

    full = Press.parse("full")
    if cell.press == full:
        return ours
    with full(cell.loaded.model) as session:
        return force(head, session, passage, cell.config.forced_step, cell.config.chunk)[0]
