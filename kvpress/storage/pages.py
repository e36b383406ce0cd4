"""Pages of a slab: a fixed number of neighbouring slots, what is known of each, and attention to some of them.

A selector says which pages a decoded token reads; nothing is dropped. What is known of a page is worked out when its
slots are stored and never changes, so that joining slabs is putting their pages one after the other. Slots behind the
last whole page are always read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kvpress.storage.pair import Pair


class Selects(Protocol):
    """What a slab asks of a selector, see kvpress.recipe.kinds.Selector."""

    @property
    def page(self) -> int: ...

    def index(self, k: Tensor, v: Tensor, pos: Tensor) -> Mapping[str, Tensor]: ...

    def choose(self, q: Tensor, index: Mapping[str, Tensor], pages: int) -> Tensor: ...


@dataclass(frozen=True)
class Pages:
    """The whole pages of R runs. index: (R, P, ...) by name, what the selector knows of each page."""

    selector: Selects
    index: Mapping[str, Tensor]

    @staticmethod
    def of(selector: Selects, pair: Pair, positions: Callable[[], Tensor]) -> Pages:
        """Of slots that are stored now."""
        page, count = selector.page, pair.slots // selector.page
        k, v = (x[:, : count * page].unflatten(1, (count, page)) for x in pair.decode(positions))
        pos = positions()[:, : count * page].unflatten(1, (count, page))
        return Pages(selector, {name: x.contiguous() for name, x in selector.index(k, v, pos).items()})

    def take_runs(self, run: Tensor) -> Pages:
        """Of the runs `run` (r,)."""
        return Pages(self.selector, {name: x[run] for name, x in self.index.items()})

    def join(self, later: Pages) -> Pages:
        """Of slots in whole pages, and then of others."""
        return Pages(self.selector, {name: torch.cat([x, later.index[name]], 1) for name, x in self.index.items()})

    def read(self, pair: Pair, q: Tensor) -> tuple[Pair, Tensor | None]:
        """The slots that q (R, m, Dk) reads, and which they are, (R, c) int64; None = all of them."""
        page, count = self.selector.page, pair.slots // self.selector.page
        if count == 0:
            return pair, None
        chosen = self.selector.choose(q, self.index, count)
        if chosen.shape[1] >= count:
            return pair, None
        chosen = chosen.sort(-1).values
        steps = torch.arange(page, dtype=torch.int64, device=chosen.device)
        slots = (chosen.unsqueeze(-1) * page + steps).flatten(1)
        rest = torch.arange(count * page, pair.slots, dtype=torch.int64, device=chosen.device)
        slots = torch.cat([slots, rest.expand(len(slots), -1)], 1)
        return pair.take(torch.arange(pair.runs, dtype=torch.int64, device=chosen.device), slots), slots

    def tensors(self) -> Iterator[tuple[str, str, str, Tensor]]:
        """(name, '-', ledger kind, tensor) of everything held."""
        for name, tensor in self.index.items():
            yield f"pages.{name}", "-", "indices", tensor
