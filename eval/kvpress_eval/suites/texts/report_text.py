"""Contexts made of reports: one in every part of the text, lines between them, elaboration up to the length."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ..episode import Request, Span
from ..fitting import Filling
from ..task import Filler, depth
from .english import draw
from .reports import FACTS, SEPARATOR, Report, elaborations, percentage, report
from .world import Names

__all__ = ["Item", "Reports", "reports"]


@dataclass(frozen=True)
class Item:
    """A report, or a line between reports, at ``depth``; ``owner`` is its turn."""

    depth: float
    what: Report | str
    owner: int | None = None


@dataclass(frozen=True)
class Reports:
    """A :class:`~.task.Context` of reports. Its filler pieces are elaboration: dealt out to the reports in turn, and
    where these hold ``most`` pieces, to ``further`` ones, which stand anywhere.
    """

    items: Sequence[Item]
    elaboration: Filler[str]
    further: Filler[Item]
    most: int = 400
    instruction: str = ""
    uneven: bool = True

    def text(self, filling: Filling) -> str:
        """The context alone."""
        return self.build(filling)[0]

    def piece(self, i: int) -> str:
        """A sentence of elaboration, with what joins it to the others."""
        return " " + self.elaboration.take(Filling(0, (i,)))[0]

    def build(self, filling: Filling) -> tuple[str, dict[int, tuple[Span, ...]]]:
        """The context with a filling of elaboration, and the spans of each turn's title and key sentences."""
        pieces = self.elaboration.take(filling)
        n = len(pieces)
        own = sum(isinstance(item.what, Report) for item in self.items)
        full = min(n, self.most * own)
        shares = [pieces[i:full:own] for i in range(own)]
        shares += [pieces[at : at + self.most] for at in range(full, n, self.most)]
        dealt = iter(shares)
        blocks = []
        for item in [*self.items, *self.further.first(len(shares) - own)]:
            text = item.what if isinstance(item.what, str) else _written(item.what, next(dealt))
            blocks.append((item, text))
        blocks.sort(key=lambda block: block[0].depth)
        spans: dict[int, tuple[Span, ...]] = {}
        at = 0
        for item, text in blocks:
            if item.owner is not None:
                spans[item.owner] = tuple((at + start, at + end) for start, end in _evidence(item.what, text))
            at += len(text) + len(SEPARATOR)
        return SEPARATOR.join(text for _, text in blocks), spans


def reports(request: Request, owners: Sequence[int | None], lines: Sequence[Item] = ()) -> Reports:
    """One report in every part of the context, and ``lines`` between them.

    ``owners[t]`` is the turn that asks about the report in the part of turn t (None: nobody does).
    """
    rng, placing = request.rng("facts"), request.rng("placement")
    names, numbers = Names(draw, rng), Names(percentage, rng)
    items = []
    for t, owner in enumerate(owners):
        items.append(Item(depth(request, t, placing), report(rng, names, numbers), owner))
    more, telling = request.rng("filler reports"), request.rng("filler")
    other_names, other_numbers = (Names(make, more, own.taken) for make, own in ((draw, names), (percentage, numbers)))
    further = Filler(Item(more.random(), report(more, other_names, other_numbers)) for _ in itertools.count())
    elaboration = Filler(elaborations(telling, Names(draw, telling, names.taken)))
    return Reports((*items, *lines), elaboration, further)


def _written(written: Report, extra: Sequence[str]) -> str:
    """The report with its elaboration before, between and after its key sentences."""
    body: list[str] = []
    gaps = len(FACTS) + 1
    for i in range(gaps):
        # 3 and 7 have no common divisor: every gap is as long as the others, give or take a sentence
        body += extra[3 * i % gaps :: gaps]
        if i < len(FACTS):
            body.append(written.sentences[written.order[i]])
    return f"{written.heading}\n{' '.join(body)}"


def _evidence(what: Report | str, text: str) -> list[Span]:
    parts = [what] if isinstance(what, str) else [what.heading, *what.sentences]
    return sorted((text.index(part), text.index(part) + len(part)) for part in parts)
