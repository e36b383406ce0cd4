"""How far predictions under a press are from those of the full cache, token by token.

- ``nll``: -log p(token), in nats, of the tokens that were forced.
- ``kl``: KL(full || press) = sum over the vocabulary of p_full (log p_full - log p_press), in nats.
- ``agree``: whether both have the same most likely token.

All in double precision where the device has it: a divergence of 1e-5 is a sum of terms that nearly cancel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["MEASURES", "Divergence", "bins", "divergence", "means"]

MEASURES = ("nll", "kl", "agree")
_GROWTH = 4  # a bin ends at four times the distance of the one before


@dataclass(frozen=True)
class Divergence:
    """One value for every forced token, in their order; ``agree`` is 1.0 or 0.0."""

    nll: tuple[float, ...]
    kl: tuple[float, ...]
    agree: tuple[float, ...]


def divergence(full: Tensor, press: Tensor, tokens: Tensor) -> Divergence:
    """Compare two sets of predictions.

    Args:
        full, press: (n, V) logits of any dtype, on one device.
        tokens: (n,) int64 ids of the tokens that come.
    """
    exact = torch.float32 if full.device.type == "mps" else torch.float64
    ours, theirs = (torch.log_softmax(logits.to(exact), -1) for logits in (press, full))
    nll = -ours.gather(1, tokens[:, None])[:, 0]
    # where the full cache rules a token out there is nothing to lose: 0 * inf is no number
    terms = torch.where(theirs > -torch.inf, theirs.exp() * (theirs - ours), 0.0)
    agree = press.argmax(-1) == full.argmax(-1)
    # rounding may give a negative sum for predictions that are nearly the same
    kl = terms.sum(-1).clamp(min=0)
    return Divergence(tuple(nll.tolist()), tuple(kl.tolist()), tuple(agree.to(exact).tolist()))


def bins(n: int) -> Iterator[tuple[str, slice]]:
    """Names and places of the tokens by their distance from the cut: ``1``, ``2-16``, ``17-64``, ``65-256``, ...

    The first token is predicted by the prefix itself, before a press that fires at its end has taken anything away.
    """
    start, end = 0, 1
    while start < n:
        last = min(end, n)
        yield (f"{start + 1}-{last}" if last > start + 1 else str(last)), slice(start, last)
        start, end = end, 16 if end == 1 else end * _GROWTH


def means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The mean of each measure over all tokens (``kl``) and over those of each bin (``kl@2-16``).

    Raises:
        ValueError: where there is no token, or the measures have different numbers of them.
    """
    sizes = {len(one) for one in values.values()}
    if len(sizes) != 1 or not (n := sizes.pop()):
        raise ValueError(f"the measures have {sorted(len(one) for one in values.values())} tokens")
    found = {name: sum(one) / n for name, one in values.items()}
    for label, part in bins(n):
        for name, one in values.items():
            found[f"{name}@{label}"] = sum(one[part]) / len(one[part])
    return found
