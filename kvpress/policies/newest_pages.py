"""The newest pages: of the slots that are stored, a decoded token reads the last few pages, and nothing is dropped.

paper     none, it shows how pages are selected; methods that select by the query are Quest (2406.10774) and others
idea      memory holds every slot, but reading them is what a decode step costs
formula   the `pages` pages whose last token is newest, of every run of equal length; pages=0 reads all
cost      4 bytes a page; a decoded token reads pages * page slots of each KV head, and the dense window
deviates  prompts read everything; slots behind the last whole page are always read
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kvpress.errors import PressSyntaxError
from kvpress.recipe.kinds import Decisions
from kvpress.recipe.press import preset


@dataclass(frozen=True)
class NewestPages:
    """The last `count` pages; 0 = all."""

    count: int
    page: int

    def index(self, k: Tensor, v: Tensor, pos: Tensor) -> Mapping[str, Tensor]:
        return {"newest": pos[..., -1]}

    def choose(self, q: Tensor, index: Mapping[str, Tensor], pages: int) -> Tensor:
        if not 0 < self.count < pages:
            return torch.arange(pages, dtype=torch.int64, device=q.device).expand(len(q), -1)
        return index["newest"].topk(self.count, dim=-1).indices


@preset("newest_pages", small="pages=0, page=4, recent=5", unsettled="it shows how pages are selected")
def newest_pages(pages: int = 8, page: int = 16, recent: int = 32) -> Decisions:
    """Every slot is kept, and a decoded token reads the newest pages of them."""
    if pages < 0 or page < 1:
        raise PressSyntaxError(f"pages={pages} is a number of pages, 0 = all, and page={page} a number of slots.")
    return {"selector": NewestPages(pages, page), "residual": recent}
