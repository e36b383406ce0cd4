"""What a method takes for granted of a model, measured once per session: a figure, and the bound it has to reach.

A method is built on something its authors saw in their models: neighbouring layers agree, a few channels stand out.
Where a model lacks it, the method runs all the same and loses quality without a word. So a decision may declare a
`premise`. When the press first fires on a prompt that is long enough, each layer gives a small sample of what it holds,
before anything is dropped or packed; the figure is computed from the samples of all layers, once.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from kvpress.errors import PremiseWarning
from kvpress.evidence.evidence import Evidence
from kvpress.storage.block import Block

SLOTS = 64
"""Slots of a sample, and the fewest real tokens of a row that a premise is measured on."""


class Premise(Protocol):
    """One thing a method needs a model to have.

    method: the press that builds on it. says: the premise, as a clause. measures: what the figure is. bound: the
    least figure with which the premise is taken to hold.
    """

    @property
    def method(self) -> str: ...

    @property
    def says(self) -> str: ...

    @property
    def measures(self) -> str: ...

    @property
    def bound(self) -> float: ...

    def sample(self, block: Block, seen: Evidence) -> Tensor:
        """What one layer shows, from its dense slots: a small tensor. May look at what the method's needs name."""
        ...

    def figure(self, samples: Sequence[Tensor]) -> float:
        """The figure, from the samples of all pressed layers in order."""
        ...


@dataclass(frozen=True)
class Finding:
    """A premise and what was measured. `holds` is whether the figure reaches the bound."""

    method: str
    says: str
    measures: str
    figure: float
    bound: float

    @property
    def holds(self) -> bool:
        return self.figure >= self.bound

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**asdict(self), "holds": self.holds}

    def __str__(self) -> str:
        told = "holds" if self.holds else "does not hold on this model"
        return f"{self.method}: {self.says} {told} ({self.measures} {self.figure:.2f}, at least {self.bound:.2f})"


@dataclass
class Survey:
    """Samples of one cache's layers, taken as they fire.

    layers: how many there are. samples: for each premise, layer number -> sample.
    """

    premises: tuple[Premise, ...]
    layers: int
    samples: list[dict[int, Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        self.samples = [{} for _ in self.premises]

    def see(self, number: int, block: Block, seen: Evidence) -> None:
        """Sample layer `number`; nothing where a row has fewer than SLOTS real tokens."""
        if int(block.valid[0, 0].sum()) < SLOTS:
            return
        for premise, found in zip(self.premises, self.samples, strict=True):
            found[number] = premise.sample(block, seen).detach().cpu()

    def findings(self) -> tuple[Finding, ...] | None:
        """What was measured; None until every layer was sampled."""
        if any(len(found) < self.layers for found in self.samples):
            return None
        out = []
        for premise, found in zip(self.premises, self.samples, strict=True):
            figure = premise.figure([found[number] for number in range(self.layers)])
            out.append(Finding(premise.method, premise.says, premise.measures, figure, premise.bound))
        return tuple(out)


def warn(findings: Sequence[Finding]) -> None:
    """A PremiseWarning for each premise that does not hold."""
    for finding in findings:
        if not finding.holds:
            warnings.warn(f"{finding}. Expect a loss; try another press.", PremiseWarning, stacklevel=2)


def spread(block: Block, count: int = SLOTS) -> Tensor:
    """(count,) int64 columns of the block, evenly over the real tokens of its first row, in order of position."""
    pos = block.pos[0, 0]
    order = torch.where(pos >= 0, pos, torch.iinfo(torch.int32).max).argsort(stable=True)
    steps = torch.linspace(0, int((pos >= 0).sum()) - 1, count, device=pos.device, dtype=torch.float64)
    return order[steps.round().long()]


def run_of(block: Block, count: int) -> Tensor:
    """(count,) int64 columns of `count` tokens in a row, in the middle of the block's first row."""
    pos = block.pos[0, 0]
    order = torch.where(pos >= 0, pos, torch.iinfo(torch.int32).max).argsort(stable=True)
    first = (int((pos >= 0).sum()) - count) // 2
    return order[first : first + count]
