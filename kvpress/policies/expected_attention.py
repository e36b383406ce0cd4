"""Expected attention (2510.00636): how much queries that are still to come will attend to a slot.

paper     Devoto et al. 2025, Expected Attention: ... Estimating Attention from Future Queries Distribution
idea      queries before RoPE are nearly Gaussian; rotated to the next positions, E[exp(q k)] has a closed form
formula   score = (mean over query heads of softmax_j(scale m k_j + scale^2 k_j^T S k_j / 2) + epsilon) |v_j|_2
cost      moments O(n D^2) while reading, O(D^2) memory a query head; score O(n D^2), once after the prompt
deviates  |v| and not |W_o v|, as in the authors' code; a soft cap of the logits is left out of the expectation
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvpress.attention.partial import softmax_partial
from kvpress.errors import PressSyntaxError
from kvpress.evidence.bind import View
from kvpress.evidence.evidence import Evidence, Needs
from kvpress.evidence.rope import Rotate
from kvpress.recipe.kinds import AfterPrefill, Decisions
from kvpress.recipe.press import preset, variant
from kvpress.storage.block import Block

_STEP = 64


@dataclass(frozen=True)
class ExpectedAttention:
    """Closed-form expected attention, weighted by the norm of the value.

    future: positions after the last token that the queries' rotation is averaged over. sinks: first tokens left
    out of the statistics and of the softmax. epsilon: added to the attention before it is weighted. covariance:
    use the second moment too. values: weight by the norm of the value.
    """

    future: int = 512
    sinks: int = 4
    epsilon: float = 0.0
    covariance: bool = True
    values: bool = True
    comparable = True
    waits = "expected_attention scores by the statistics of all queries of the prompt"

    @property
    def attention(self) -> bool:
        return not self.values

    @property
    def needs(self) -> Needs:
        return Needs(moments=True, skip=self.sinks)

    def bind(self, view: View, layer: int) -> Rotate:
        return view.rotation(layer)

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        mean, covariance = seen.query_moments()
        group = mean.shape[1] // block.k.shape[1]
        ahead = self._ahead(seen, mean.shape[-1]).unsqueeze(1)
        mean = mean.unsqueeze(2) @ ahead  # (B, Hq, 1, D)
        covariance = ahead.mT @ covariance @ ahead if self.covariance else covariance
        scale = seen.rule.scale
        expected = torch.empty(block.pos.shape, dtype=torch.float32, device=block.k.device)
        for head in range(block.k.shape[1]):  # one query head at a time bounds the temporaries
            k, seeable = block.k[:, head].float(), seen.rank[:, head] >= self.sinks
            total = torch.zeros_like(expected[:, head])
            for query in range(head * group, (head + 1) * group):
                logits = scale * (k * mean[:, query]).sum(-1)
                if self.covariance:
                    logits = logits + scale**2 / 2 * ((k @ covariance[:, query]) * k).sum(-1)
                total += softmax_partial(logits.masked_fill(~seeable, -torch.inf))[0]
            expected[:, head] = total / group
        return (expected + self.epsilon) * block.v.float().norm(dim=-1) if self.values else expected

    def _ahead(self, seen: Evidence, dim: int) -> Tensor:
        """(B, D, D): the average over the next positions of x -> x rotated there, for rows x on the left."""
        device, rotate = seen.rank.device, seen.of(self)
        total = torch.zeros(dim, dim, dtype=torch.float32, device=device)
        for start in range(0, self.future, _STEP):
            steps = torch.arange(start, min(start + _STEP, self.future), dtype=torch.int64, device=device)
            basis = torch.eye(dim, dtype=torch.float32, device=device).expand(len(steps), 1, -1, -1)
            total += rotate(basis, steps).sum((0, 1))
        length = seen.rank.amax((1, 2)) + 1
        average = (total / self.future).expand(len(length), 1, -1, -1)
        return rotate(average, length)[:, 0]


_AHEAD = 1 << 16  # positions


@preset("expected_attention", small="keep=0.4, sinks=2, future=9, epsilon=0.01")
def expected_attention(
    keep: float | int = 0.25,
    sinks: int = 4,
    recent: int = 0,
    future: int = 512,
    epsilon: float = 0.0,
    covariance: bool = True,
    values: bool = True,
) -> Decisions:
    """Slots that queries still to come are expected to attend to, by their statistics (2510.00636)."""
    if not 1 <= future <= _AHEAD or epsilon < 0:
        raise PressSyntaxError(f"future={future} lies in [1, {_AHEAD}], and epsilon={epsilon} cannot be negative.")
    scorer = ExpectedAttention(future, sinks, epsilon, covariance, values)
    return {"keep": keep, "scorer": scorer, "sinks": sinks, "recent": recent, "schedule": AfterPrefill()}


variant(
    expected_attention,
    "paper",
    "Expected attention with the defaults of the authors' code: half, epsilon 0, norms of values and not of outputs.",
    keep=0.5,
)
variant(
    expected_attention,
    "leaderboard",
    "Expected attention with the epsilon of NVIDIA's leaderboard, 0.01 (there with adaptive head budgets).",
    epsilon=0.01,
)
