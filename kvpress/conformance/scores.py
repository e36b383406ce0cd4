"""Checks of a scorer alone: what it is given is copied from real prompts, what it gives is compared with itself."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kvpress.conformance.case import Case, View, digest, fresh, gap, tokens
from kvpress.conformance.trial import BrokenError, Trial
from kvpress.evidence.evidence import Evidence
from kvpress.storage.block import Block

_CLOSE = 1e-3  # of the range of the scores: sums in another order round differently
_FAR = 1e4


def scored(case: Case, views: Sequence[View]) -> list[Tensor]:
    """Scores of every layer, in order; each call gets a copy of its slots."""
    scorer = case.recipe.scorer
    assert scorer is not None
    with torch.no_grad():
        return [scorer(*fresh(view)) for view in views]


def _shape(case: Case) -> str:
    views = case.views(*case.batch) + case.views(case.rows[1][None]) + case.views(case.rows[1][None], None, torch.half)
    for view, scores in zip(views, scored(case, views), strict=True):
        wanted = tuple(view[0].pos.shape)
        if not isinstance(scores, Tensor):
            raise BrokenError(f"a {type(scores).__name__} was returned, expected a tensor (B, H, n) = {wanted}")
        if tuple(scores.shape) != wanted:
            raise BrokenError(f"scores have shape {tuple(scores.shape)}, expected (B, H, n) = {wanted}")
        if scores.is_complex() or scores.dtype is torch.bool:
            raise BrokenError(f"scores are {scores.dtype}, expected fp32 or what casts to it")
    return "(B, H, n), one number a slot, in fp32 and for a model in half precision"


def _finite(case: Case) -> str:
    length = case.length
    prompts = {
        "a padded batch": case.batch,
        "a prompt of one repeated token": (torch.full((1, length), 7, dtype=torch.int64, device="cpu"), None),
        "a prompt of two tokens": (tokens(1, 2), None),
        "a prompt of three tokens": (tokens(1, 3), None),
    }
    count = 0
    for dtype in (torch.float32, torch.bfloat16):
        for name, (ids, mask) in prompts.items():
            views = case.views(ids, mask, dtype)
            for view, scores in zip(views, scored(case, views), strict=True):
                real = scores.float()[view[0].valid]
                for what, bad in (("NaN", real.isnan()), ("+inf", real == torch.inf)):
                    if bad.any():
                        raise BrokenError(
                            f"{int(bad.sum())} of {real.numel()} scores of {name} are {what} "
                            f"({str(dtype).removeprefix('torch.')}, layer {view[1].layer})"
                        )
                count += real.numel()
    return f"{count:,} scores, of prompts of one repeated token and of two tokens too"


def _tensors(view: View) -> dict[str, Tensor]:
    return {n: t for part in view for n, t in vars(part).items() if isinstance(t, Tensor)}


def _unchanged(case: Case) -> str:
    for view in case.views(*case.batch):
        before = {name: digest(tensor) for name, tensor in _tensors(view).items()}
        assert case.recipe.scorer is not None
        case.recipe.scorer(*view)
        changed = [name for name, tensor in _tensors(view).items() if digest(tensor) != before[name]]
        if changed:
            raise BrokenError(f"the scorer writes into what it is given: {', '.join(changed)}")
    return "slots and evidence are as they were"


def _random_state() -> tuple[Any, ...]:
    drawn: Any = np.random.get_state()  # noqa: NPY002 the state a method may use by mistake
    return digest(torch.get_rng_state()), random.getstate(), drawn[1].tobytes(), drawn[2:]


def _reseed() -> None:
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002


class _Restored:
    """The process' random numbers go on after the block as if it had not been."""

    def __enter__(self) -> None:
        self.state = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002

    def __exit__(self, *error: object) -> None:
        torch.set_rng_state(self.state[0])
        random.setstate(self.state[1])
        np.random.set_state(self.state[2])  # noqa: NPY002


def _stateless(case: Case) -> str:
    ours, other = case.views(*case.batch), case.views(tokens(2, case.length - 8, 9))
    runs = []
    with _Restored():
        for views in (ours, ours, other, ours):
            _reseed()  # a scorer that draws from the global generators is another check's finding
            runs.append(scored(case, views))
        if (new := _unused(case.recipe.scorer)) is not None:
            _reseed()
            runs.append([new(*fresh(view)) for view in other])
    first, again, elsewhere, after, *pristine = runs
    for name, run in (("asked again", again), ("asked again after another prompt", after)):
        if any(gap(a, b) for a, b in zip(first, run, strict=True)):
            raise BrokenError(
                f"{name}, the same slots get other scores: something is kept from call to call "
                "(or drawn from a source of its own)"
            )
    if pristine and any(gap(a, b) for a, b in zip(elsewhere, pristine[0], strict=True)):
        raise BrokenError("an equal scorer that has seen no prompt gives other scores: something is kept in the object")
    return "the same scores before and after another prompt"


def _unused(scorer: Any) -> Any:
    """An equal scorer that has seen no prompt, None where one cannot be made."""
    try:
        return replace(scorer)
    except (TypeError, ValueError):  # no dataclass, or one that is made of more than its fields
        return None


def _deterministic(case: Case) -> str:
    views = case.views(*case.batch)
    with _Restored():
        before = _random_state()
        first, again = scored(case, views), scored(case, views)
        moved = _random_state() != before
    if moved or any(gap(a, b) for a, b in zip(first, again, strict=True)):
        raise BrokenError("it draws from the global random numbers of torch, numpy or Python")
    return "the same scores twice, and no random number of the process is used"


def _range(scores: Tensor) -> float:
    real = scores[scores.isfinite()]
    return float(real.max() - real.min()) if real.numel() else 0.0


def _compare(mine: Tensor, wanted: Tensor, what: str) -> None:
    away = gap(mine, wanted)
    allowed = _CLOSE * _range(wanted.float()) + 1e-6
    if away > allowed:
        raise BrokenError(f"{what}: scores differ by {away:.2g}, of a range of {_range(wanted.float()):.2g}")


def _padding(case: Case) -> str:
    views = case.views(*case.batch)
    for far in (_FAR, -_FAR):
        for view, wanted in zip(views, scored(case, views), strict=True):
            block, seen = view
            hidden = ~block.valid.unsqueeze(-1)
            moved = Block(block.k.masked_fill(hidden, far), block.v.masked_fill(hidden, -far), block.pos)
            (mine,) = scored(case, [(moved, seen)])
            _compare(mine[block.valid], wanted[block.valid], "what stands in padding changes the scores of real slots")
    return "what stands in padding changes no score"


def _alone(case: Case) -> str:
    ids, mask = case.batch
    together = case.views(ids, mask)
    for row in range(len(ids)):
        real = mask[row].bool()
        alone = case.views(ids[row : row + 1, real])
        for batch, single in zip(scored(case, together), scored(case, alone), strict=True):
            _compare(batch[row, :, real], single[0], f"row {row} of a padded batch against the row alone")
    return f"{len(ids)} rows score as they do alone"


def _order(case: Case) -> str:
    views = case.views(*case.batch)
    order = torch.randperm(
        views[0][0].pos.shape[-1], generator=torch.Generator().manual_seed(9), dtype=torch.int64, device="cpu"
    )
    for view, wanted in zip(views, scored(case, views), strict=True):
        (mine,) = scored(case, [_moved(view, order)])
        there = view[0].valid[..., order]
        _compare(mine[there], wanted[..., order][there], "the same slots in another order in memory")
    return "the order of slots in memory changes no score"


def _moved(view: View, order: Tensor) -> View:
    block, seen = view
    by_slot = {name: getattr(seen, name) for name in ("rank", "received", "repeated")}
    moved: Evidence = replace(seen, **{name: x[..., order] for name, x in by_slot.items() if x is not None})
    return Block(block.k[:, :, order], block.v[:, :, order], block.pos[..., order]), moved


TRIALS = [
    Trial(
        "scores",
        _shape,
        "Return one score for each slot of block.pos: (B, H, n), where n counts slots and not tokens; higher = keep.",
        gate=True,
    ),
    Trial(
        "I9 slots are not written to",
        _unchanged,
        "The block is the cache itself. Work on copies: no in-place operation on block.k, block.v or the evidence.",
        gate=True,
    ),
    Trial(
        "I7 no state between prompts",
        _stateless,
        "Compute scores from the block and the evidence alone; keep nothing in the object, its class or its module.",
        gate=True,
    ),
    Trial(
        "I7 deterministic",
        _deterministic,
        "Use a hash of the token's number (kvpress/policies/random.py), or a torch.Generator with a seed of its own.",
        gate=True,
    ),
    Trial(
        "finite scores",
        _finite,
        "Give every slot that exists a number: clamp what is divided by or logged. -inf is allowed and goes first.",
    ),
    Trial(
        "I2 padding is not seen",
        _padding,
        "Leave slots with block.pos < 0 out of every mean, maximum and norm: use block.valid.",
    ),
    Trial(
        "I2 scores of a row alone",
        _alone,
        "Use the token's number seen.rank, not its column; take nothing over the batch; leave padding out of counts.",
    ),
    Trial(
        "order in memory",
        _order,
        "Slots come in any order once some were evicted: use block.pos or seen.rank for neighbours, not the index.",
    ),
]
