"""Checks of budgets over heads and over layers alone, and of the slots a whole press keeps."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from kvpress.conformance.case import Case, View, decode, kept, tokens
from kvpress.conformance.trial import BrokenError, DoubtfulError, InapplicableError, Trial

_TOTALS = (11, 7, 3)
_SINKS = 2


def _marked() -> tuple[Tensor, Tensor]:
    """Slots per head on average (B,), and scores (B, H, n) with protected slots at +inf and missing ones at -inf."""
    scores = (
        torch.rand(3, 2, 23, generator=torch.Generator().manual_seed(2), dtype=torch.float32, device="cpu")
        * torch.tensor([1.0, 3.0], dtype=torch.float32, device="cpu")[:, None]
    )
    scores[..., -_SINKS:] = torch.inf
    for row, missing in enumerate((0, 9, 14)):
        scores[row, :, :missing] = -torch.inf
    return torch.tensor(_TOTALS, dtype=torch.int64, device="cpu"), scores


def _heads_sums(case: Case) -> str:
    total, scores = _marked()
    counts = case.recipe.heads(total.clone(), scores.clone())
    if not isinstance(counts, Tensor) or counts.shape != scores.shape[:2] or counts.dtype != torch.int64:
        told = f"{counts.dtype} {tuple(counts.shape)}" if isinstance(counts, Tensor) else type(counts).__name__
        raise BrokenError(f"it gives {told}, expected int64 (B, H) = {tuple(scores.shape[:2])}")
    there = (scores > -torch.inf).sum(-1)
    if (counts < 0).any() or (counts > there).any():
        raise BrokenError(f"{counts.tolist()} slots of heads that have {there.tolist()}")
    wanted = total * scores.shape[1]
    if not torch.equal(counts.sum(1), wanted):
        raise BrokenError(f"the slots of the heads add up to {counts.sum(1).tolist()}, expected {wanted.tolist()}")
    if (counts < _SINKS).any():
        raise BrokenError(f"{counts.tolist()} slots, where {_SINKS} of each head are protected (score +inf)")
    return f"sums are exact, and the {_SINKS} protected slots of each head fit"


def _heads_rows(case: Case) -> str:
    total, scores = _marked()
    together = case.recipe.heads(total, scores)
    for row in range(len(total)):
        there = scores[row, 0] > -torch.inf
        alone = case.recipe.heads(total[row : row + 1], scores[row : row + 1, :, there])
        if not torch.equal(alone[0], together[row]):
            raise BrokenError(f"row {row} gets {together[row].tolist()} in a batch and {alone[0].tolist()} alone")
    order = torch.randperm(
        scores.shape[-1], generator=torch.Generator().manual_seed(3), dtype=torch.int64, device="cpu"
    )
    if not torch.equal(case.recipe.heads(total, scores[..., order]), together):
        raise BrokenError("the same scores in another order in memory get other slots")
    return "a row gets in a batch what it gets alone, in any order of slots"


HEADS = [
    Trial(
        "heads: exact sums",
        _heads_sums,
        "End with kvpress.policies.apportion.apportion: exact sums within bounds.",
        gate=True,
    ),
    Trial("I2 heads: rows alone", _heads_rows, "Take nothing over the batch, and leave scores of -inf out of it."),
]


def _measured(case: Case, views: list[View]) -> list[Tensor]:
    """What a layer budget measures in every layer, given the scores that head budgets get."""
    budget, scorer = case.recipe.layers, case.recipe.scorer
    assert budget is not None and scorer is not None

    def scores(view: View) -> Tensor:
        return scorer(*view).float().masked_fill(~view[0].valid, -torch.inf)

    return [budget.measure(*view, partial(scores, view)) for view in views]


def _layers_shares(case: Case) -> str:
    budget, rows = case.recipe.layers, len(case.rows)
    assert budget is not None
    measured = _measured(case, case.views(*case.batch))
    for number in measured:
        if not isinstance(number, Tensor) or number.shape[:1] != (rows,):
            told = f"{tuple(number.shape)}" if isinstance(number, Tensor) else type(number).__name__
            raise BrokenError(f"measure gives {told}, expected a tensor (B, ...), here ({rows}, ...)")
    weights = budget.weights(measured, *_totals(case))
    if not isinstance(weights, Tensor) or weights.shape != (len(measured), rows):
        told = str(tuple(weights.shape)) if isinstance(weights, Tensor) else type(weights).__name__
        raise BrokenError(f"weights gives {told}, expected (L, B) = {(len(measured), rows)}")
    if not torch.isfinite(weights).all() or (weights < 0).any():
        raise BrokenError("a share of a layer is negative or not finite")
    return "a share for every layer and row, finite and not negative"


def _totals(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Slots per head on average, protected ones and real tokens of each row (B,)."""
    return (
        torch.tensor(_TOTALS, dtype=torch.int64, device="cpu"),
        torch.tensor([2, 2, 2], dtype=torch.int64, device="cpu"),
        torch.tensor([len(row) for row in case.rows], dtype=torch.int64, device="cpu"),
    )


def _layers_rows(case: Case) -> str:
    budget = case.recipe.layers
    assert budget is not None
    ids, mask = case.batch
    weights = budget.weights(_measured(case, case.views(ids, mask)), *_totals(case))
    for row in range(len(ids)):
        alone = _measured(case, case.views(ids[row : row + 1, mask[row].bool()]))
        own = budget.weights(alone, *(total[row : row + 1] for total in _totals(case)))
        if not torch.allclose(own[:, 0].double(), weights[:, row].double(), rtol=1e-3):
            raise BrokenError(
                f"row {row} gets {weights[:, row].tolist()} in a padded batch and {own[:, 0].tolist()} alone"
            )
    return "a row gives in a padded batch what it gives alone"


LAYERED = [
    Trial(
        "layers: shares",
        _layers_shares,
        "measure gives (B, ...), weights a share >= 0 for each layer and row, (L, B).",
        gate=True,
    ),
    Trial(
        "I2 layers: rows alone", _layers_rows, "Leave slots with block.pos < 0 out, and take nothing over the batch."
    ),
]


def _asked(case: Case, length: int) -> int:
    """Slots per head on average that a row of `length` tokens may keep, which may be more than it has."""
    recipe = case.recipe
    if not recipe.evicts:
        return length
    total = recipe.keep if isinstance(recipe.keep, int) else int(length * recipe.keep + 1e-9)
    least = recipe.sinks + max(1, recipe.recent if isinstance(recipe.recent, int) else 1)
    return max(total, least)


def _wanted(case: Case, length: int) -> int:
    """Slots per head on average that a row of `length` tokens keeps."""
    return min(_asked(case, length), length)


def exact(case: Case) -> str:
    """Slots kept are those asked for, protected ones among them, after a prompt and while decoding."""
    recipe, (ids, mask) = case.recipe, case.batch
    with case.press(case.model) as session:
        cache = session.prefill(ids, mask)
        held = kept(cache)
        for row, real in enumerate(case.rows):
            wanted = _wanted(case, len(real))
            counts = [[len(head) for head in layer[row]] for layer in held]
            each = recipe.layers is None and not recipe.heads.compares
            flat = [count for heads in counts for count in heads]
            whole = recipe.layers is None or recipe.layers.exact
            if (whole and sum(flat) != wanted * len(flat)) or (each and {*flat} != {wanted}):
                raise BrokenError(f"asked for {wanted} slots a head of row {row}, kept {counts} (layers of heads)")
            _protected(case, [layer[row] for layer in held], len(real), ids.shape[1], cache, row)
        start = _counts(held, recipe.heads.compares)
        decode(case.model, cache, tokens(len(ids), case.steps, 3), mask)
        now = _counts(kept(cache), recipe.heads.compares)
    grown = sorted({after - before for before, after in zip(start, now, strict=True)})
    room = max(0, *(_asked(case, len(row)) - len(row) for row in case.rows))
    between = recipe.schedule.interval - 1 if not recipe.schedule.decoded else case.steps
    if not (recipe.evicts and recipe.schedule.interval):
        if grown != [case.steps]:
            raise BrokenError(f"{case.steps} decoded tokens made heads grow by {grown}")
    elif grown[-1] > room + between + (0 if recipe.in_place else recipe.residual + recipe.block + 1):
        raise BrokenError(f"it evicts while decoding, and {case.steps} decoded tokens made heads grow by {grown}")
    fewer = f"{_wanted(case, case.length)} of {case.length} slots" if recipe.evicts else f"all {case.length} slots"
    return f"{fewer}, as asked, and after {case.steps} decoded tokens"


def _counts(held: list[list[list[list[int]]]], pooled: bool) -> list[float]:
    """Slots of every head, or of a layer's heads on average where they share them."""
    counts = [[len(head) for head in heads] for layer in held for heads in layer]
    return [sum(heads) / len(heads) for heads in counts] if pooled else [n for heads in counts for n in heads]


def _protected(case: Case, held: list[list[list[int]]], length: int, width: int, cache: object, row: int) -> None:
    recipe = case.recipe
    for layer, heads in zip(cache.stores, held, strict=True):  # type: ignore[attr-defined]
        recent = recipe.recent
        if isinstance(recent, float):
            recent = 0 if layer.total is None else int(float(layer.total[row]) * recent)
        for head in heads:
            recent = min(recent, max(1, len(head) - recipe.sinks))  # they give way to sinks, but for the newest
            sinks = min(recipe.sinks, len(head) - recent, length)
            first, last = range(max(0, sinks)), range(max(0, length - recent), length)
            ranks = {position - (width - length) for position in head}
            if lost := sorted({*first, *last} - ranks):
                raise BrokenError(f"row {row} lost the protected tokens {lost} of {length}")


def _does_something(case: Case) -> str:
    with case.press(case.model) as session:
        report = session.report(session.prefill(case.rows[0][None]))
    if case.press.recipe.keep == 1.0 and case.recipe.block == 0 and case.recipe.channels is None:
        raise InapplicableError("this press keeps everything as it is")
    recipe = case.recipe
    if recipe.selector is not None and recipe.keep == 1.0 and recipe.stored.block == 0 and recipe.channels is None:
        raise InapplicableError("every slot is kept as it is, and some are not read")
    if case.recipe.evicts and _wanted(case, case.length) == case.length:
        raise DoubtfulError(f"{case.press} keeps all of {case.length} tokens, the longest prompt of these checks")
    if report.fired != 1 or report.bytes - report.by_kind.get("evidence", 0) >= report.dense_bytes:
        raise BrokenError(f"nothing is smaller after a prompt of {case.length} tokens: {report}")
    return f"{case.length} tokens in {report.bytes:,} bytes, {100 * report.ratio:.0f} % of dense"


SLOTS = [
    Trial(
        "exact budgets", exact, "Totals and protected slots are the pipeline's: give scores and shares, drop nothing."
    ),
    Trial(
        "I5 smaller than dense",
        _does_something,
        "Give arguments that act on a prompt this short: fewer recent tokens, smaller blocks.",
    ),
]
