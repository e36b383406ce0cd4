"""CurDKV (2509.15038): the slots whose key and value are large among their neighbours.

paper     Sengupta et al. 2025, Value-Guided KV Compression for LLMs via Approximated CUR Decomposition
idea      attention output is a product of keys and values, so rows are picked as in a CUR decomposition of both
formula   l(x) = |x G|^2 / sum of the same over the slot's window of tokens; score = l(k) l(v), or one of them
cost      O(n D) a layer, O(n D sketch) with a projection; once after the prompt; nothing observed
deviates  windows are counted from a row's first token, as in NVIDIA's kvpress (authors: from the last); keys after RoPE
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kvpress.errors import PressSyntaxError
from kvpress.evidence.evidence import Evidence, Needs
from kvpress.policies.partitions import Partitions
from kvpress.policies.rounding import rounded
from kvpress.recipe.kinds import AfterPrefill, Decisions
from kvpress.recipe.press import preset, variant
from kvpress.storage.block import Block


@dataclass(frozen=True)
class ValueGuided:
    """Squared norms as approximate leverage scores, normalized over windows; scores of a head sum to 1.

    combine: "product", "mean", "key" or "value". window: tokens a norm is divided by the sum of, 0 = all.
    sketch: width of the Gaussian projection that keys and values go through first, 0 = none. An incomplete last
    window is normalized like a full one, so its tokens score high.
    """

    combine: Literal["product", "mean", "key", "value"] = "product"
    window: int = 16
    sketch: int = 0
    seed: int = 0
    needs = Needs()
    comparable = True
    attention = False
    waits = "cur scores a token by its share of its neighbours, which grows when neighbours are dropped"

    def _share(self, x: Tensor, seen: Evidence) -> Tensor:
        if self.sketch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + seen.layer)
            shape = (x.shape[-1], self.sketch)
            sketch = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
            x = x.float() @ sketch.to(x.device)
        energy = x.float().square().sum(-1).masked_fill(seen.rank < 0, 0.0)
        if not self.window:
            return _part(energy)
        windows = Partitions(seen.rank, 0, self.window)
        return windows.slots(_part(windows.table(energy, 0.0)), 0.0)

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        # Equal seeds: where keys and values are equally wide they go through the same projection.
        k, v = (self._share(x, seen) for x in (block.k, block.v))
        return rounded(_part({"product": k * v, "mean": (k + v) / 2, "key": k, "value": v}[self.combine]))


def _part(energy: Tensor) -> Tensor:
    """Each number by the sum of its row; a row of zeros stays zero."""
    total = energy.sum(-1, keepdim=True)
    return torch.where(total > 0, energy / total, 0.0)


_WIDEST = 4096  # channels, more than any head has


@preset(
    "cur",
    small="keep=0.4, sinks=1, window=5",
    unsettled="whether the paper's tables take exact or random scores is not known here; @random has the latter",
)
def cur(
    keep: float | int = 0.25,
    sinks: int = 4,
    recent: int = 0,
    combine: str = "product",
    window: int = 16,
    sketch: int = 0,
    seed: int = 0,
) -> Decisions:
    """Slots whose keys and values are large among their neighbours: CurDKV (2509.15038)."""
    if combine not in ("product", "mean", "key", "value"):
        raise PressSyntaxError(f'combine={combine!r}: use "product", "mean", "key" or "value".')
    if window < 0 or not 0 <= sketch <= _WIDEST:
        raise PressSyntaxError(
            f"window={window} cannot be negative, and sketch={sketch} is a width up to {_WIDEST}; 0 does without."
        )
    scorer = ValueGuided(combine, window, sketch, seed)  # type: ignore[arg-type]
    return {"keep": keep, "scorer": scorer, "sinks": sinks, "recent": recent, "schedule": AfterPrefill()}


variant(cur, "random", "CurDKV with random leverage scores: a Gaussian projection to 20 channels first.", sketch=20)
