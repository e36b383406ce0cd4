"""Checks of a refiner alone: what it makes of a scorer's scores once the budget of each head is known."""

from __future__ import annotations

from torch import Tensor

from kvpress.conformance.case import Case, View, gap
from kvpress.conformance.trial import BrokenError, Trial

_CLOSE = 1e-3  # of the largest finite score


def _refined(case: Case, views: list[View], each: int = 7) -> list[Tensor]:
    """Refined scores of every layer, where `each` slots of a head stay and its newest two are protected."""
    refine, scorer, out = case.recipe.refine, case.recipe.scorer, []
    assert refine is not None and scorer is not None
    for block, seen in views:
        counts = block.valid.sum(-1).clamp(max=each)
        newest = seen.rank >= seen.rank.amax(-1, keepdim=True) - 1
        protected = newest & block.valid
        out.append(refine(scorer(block, seen).float(), seen.of(refine)(block.v), block.pos, counts, protected))
    return out


def _shape(case: Case) -> str:
    views = case.views(*case.batch)
    first, again = _refined(case, views), _refined(case, views)
    for (block, _), scores, other in zip(views, first, again, strict=True):
        if not isinstance(scores, Tensor) or scores.shape != block.pos.shape:
            told = str(tuple(scores.shape)) if isinstance(scores, Tensor) else type(scores).__name__
            raise BrokenError(f"it gives {told}, expected scores (B, H, n) = {tuple(block.pos.shape)}")
        if scores.float()[block.valid].isnan().any():
            raise BrokenError("scores of slots that exist are NaN")
        if gap(scores, other):
            raise BrokenError("the same scores twice give other ones")
    return "(B, H, n), one number a slot, the same twice"


def _alone(case: Case) -> str:
    ids, mask = case.batch
    together = _refined(case, case.views(ids, mask))
    for row in range(len(ids)):
        real = mask[row].bool()
        for batch, single in zip(together, _refined(case, case.views(ids[row : row + 1, real])), strict=True):
            mine, wanted = batch[row, :, real].double(), single[0].double()
            size = float(wanted[wanted.isfinite()].abs().max())
            if gap(mine, wanted) > _CLOSE * size:
                raise BrokenError(f"row {row} of a padded batch is refined otherwise than alone")
    return f"{len(ids)} rows are refined as they are alone"


TRIALS = [
    Trial(
        "refined scores", _shape, "Return one score for each slot of pos, computed from the arguments alone.", gate=True
    ),
    Trial(
        "I2 refined scores of a row alone", _alone, "Leave slots with pos < 0 out of every sum; nothing over the batch."
    ),
]
