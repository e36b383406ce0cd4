"""What a layer remembers of the queries it has seen, for a press that scores slots with them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kvpress.evidence.evidence import Needs
from kvpress.evidence.moments import add_queries
from kvpress.evidence.rope import Rotate


class Witness:
    """The last queries, and the moments of all of them, as far as `needs` asks for them.

    queries: (B, Hq, w, D) post-RoPE and query_pos: (B, w) int32 their logical index, -1 = padding, or None.
    moments: see kvpress.evidence.moments, or None. Tensors are replaced and never written to, so copies may share them.
    """

    NAMES = ("queries", "query_pos", "moments")

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self.queries: Tensor | None = None
        self.query_pos: Tensor | None = None
        self.moments: Tensor | None = None

    @property
    def empty(self) -> bool:
        """Nothing is remembered."""
        return self.queries is None and self.moments is None

    def see(self, q: Tensor, at: Tensor, rank: Tensor, rotate: Rotate | None) -> None:
        """Remember queries q (B, Hq, n, D) of the tokens `at` (B, n) int32, -1 = padding.

        rank: (B or 1, n) int32 their number among the real tokens of the row, -1 = padding.
        """
        if self.needs.moments:
            assert rotate is not None
            counted = torch.where(rank >= self.needs.skip, rank, -1).expand(q.shape[0], -1)
            self.moments = add_queries(self.moments, q, counted, rotate)
        if self.needs.window:
            q, at = self._last(q, at)
            if self.queries is not None:
                assert self.query_pos is not None
                q, at = self._last(torch.cat([self.queries, q], 2), torch.cat([self.query_pos, at], 1))
            self.queries, self.query_pos = q.clone(memory_format=torch.contiguous_format), at.contiguous().clone()

    def _last(self, q: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """The last `window` queries of every row that are no padding, as if the row were alone."""
        count = self.needs.window
        if bool((at[:, -count:] >= 0).all()):
            return q[:, :, -count:], at[:, -count:]
        order = (at >= 0).to(torch.int8).argsort(dim=1, stable=True)[:, -count:]
        return q.gather(2, order[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3])), at.gather(1, order)

    def forget(self) -> None:
        """The press will not ask again."""
        self.queries = self.query_pos = self.moments = None

    def take_rows(self, rows: Tensor) -> None:
        """Batch row i becomes what row rows[i] (int64) was."""
        for name, value in self.tensors():
            setattr(self, name, value.index_select(0, rows))

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of everything remembered."""
        for name in self.NAMES:
            value = getattr(self, name)
            if value is not None:
                yield name, value
