"""What a scorer may look at besides the slots: recent queries, attention received so far, query moments, token order.

Attention probabilities are recomputed from queries and keys, a tile of queries at a time: memory is linear
in the number of slots, and no n x n matrix exists, whatever attention implementation the model runs on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kvpress.attention.partial import fold_queries, soft_cap, softmax_partial
from kvpress.errors import KVPressError
from kvpress.evidence.moments import read_moments
from kvpress.storage.block import Block
from kvpress.storage.columns import BIAS

_TILE_BYTES = 16 << 20


@dataclass(frozen=True)
class Repeat:
    """A prompt is read a second time, see kvpress.session.second_reading.

    chunk: tokens of a part. overlap: tokens before it that lead into it. skip: first tokens of a row that are not
    repeated, and that every part attends to. whole: they are repeated too, and later parts attend to them.
    """

    chunk: int
    overlap: int
    skip: int
    whole: bool = False


@dataclass(frozen=True)
class Needs:
    """What a scorer has to see.

    window: the last so many queries. mass: attention of every query. moments: mean and covariance of all queries
    as before RoPE, without the first `skip` tokens of a row. repeat: the attention that slots get while the prompt is
    repeated. What a method needs of the model and not of a prompt, it binds (see kvpress.evidence.bind).
    """

    window: int = 0
    mass: bool = False
    moments: bool = False
    skip: int = 0
    repeat: Repeat | None = None

    def __or__(self, other: Needs) -> Needs:
        """What both have to see."""
        return Needs(
            max(self.window, other.window),
            self.mass or other.mass,
            self.moments or other.moments,
            max(self.skip, other.skip),
            self.repeat or other.repeat,
        )


@dataclass(frozen=True)
class Rule:
    """How this model turns q and k into attention: scale, soft cap of the logits, learned sink logit (Hq,).

    group: query heads of a KV head.
    """

    scale: float
    cap: float | None = None
    sink: Tensor | None = None
    group: int = 1


@dataclass(frozen=True)
class Evidence:
    """Seen by one layer. Slots are those of the block given to the scorer, in the same order.

    layer: index of the layer in the model. queries: (B, Hq, w, D) last queries, post-RoPE, or None.
    query_pos: (B, w) int32 logical index of those queries, -1 = padding. received: (B, H, n) fp32 attention
    mass summed over queries and over the query heads of a KV head, or None. rank: (B, H, n) int32 number of
    the slot's token among the real tokens of its row (equal to its position id), -1 = no slot. moments: see
    kvpress.evidence.moments, or None. repeated: (B, H, n) fp32 largest attention a slot got while the prompt was
    repeated, or None. given: what decisions were bound to in this layer.
    """

    layer: int
    rule: Rule
    rank: Tensor
    queries: Tensor | None = None
    query_pos: Tensor | None = None
    received: Tensor | None = None
    moments: Tensor | None = None
    repeated: Tensor | None = None
    given: Mapping[Any, Any] = field(default_factory=dict)

    def of(self, decision: Any) -> Any:
        """What the `bind` of a decision returned for this layer."""
        if decision not in self.given:
            raise KVPressError(
                f"{type(decision).__name__} was not bound to a model. Enter its press on one: with press(model)."
            )
        return self.given[decision]

    def mass(self) -> Tensor:
        """(B, H, n) fp32: attention every slot received from all queries so far."""
        if self.received is None:
            raise KVPressError("This scorer reads attention mass but does not declare Needs(mass=True).")
        return self.received

    def strongest(self) -> Tensor:
        """(B, H, n) fp32: largest attention every slot received while the prompt was repeated."""
        if self.repeated is None:
            raise KVPressError("This scorer reads what a repetition attends to but does not declare Needs(repeat=...).")
        return self.repeated

    def query_moments(self) -> tuple[Tensor, Tensor]:
        """Mean (B, Hq, D) and covariance (B, Hq, D, D) fp32 of the queries so far, as before RoPE, padding left out."""
        if self.moments is None:
            raise KVPressError("This scorer reads query moments but does not declare Needs(moments=True).")
        return read_moments(self.moments)

    def window(self, block: Block, count: int) -> Tensor:
        """(B, H, G, w, n) fp32: attention probabilities of the last `count` queries over all slots.

        Softmax over every slot a query may see (causal), the learned sink included; rows of padding are 0.
        """
        if self.queries is None or self.query_pos is None:
            raise KVPressError("This scorer reads window queries but does not declare Needs(window=...).")
        q, at = self.queries[:, :, -count:], self.query_pos[:, -count:]
        heads, w = block.k.shape[1], q.shape[2]
        group = q.shape[1] // heads
        shape = (q.shape[0], heads, group, w, block.k.shape[2])
        out = torch.empty(shape, dtype=torch.float32, device=q.device)
        see = (block.pos[:, :, None] >= 0) & (block.pos[:, :, None] <= at[:, None, :, None])
        for head in range(heads):  # one KV head at a time bounds the temporaries
            mine = q[:, head * group : (head + 1) * group].float() * self.rule.scale
            logits = soft_cap(mine @ block.k[:, head, None].float().mT, self.rule.cap)
            if BIAS in block.columns:
                logits = logits + block.columns[BIAS][:, head, None, None]
            logits = logits.masked_fill(~see[:, head, None], -torch.inf)
            if self.rule.sink is not None:
                sink = self.rule.sink[head * group : (head + 1) * group].float().view(1, group, 1, 1)
                logits = torch.cat([logits, sink.expand(*logits.shape[:3], 1)], -1)
            out[:, head] = softmax_partial(logits)[0][..., : block.k.shape[2]]
        return out * (at >= 0)[:, None, None, :, None]


def received_mass(q: Tensor, k: Tensor, rule: Rule, start: int, valid: Tensor | None) -> Tensor:
    """Column sums of causal attention: (B, H, n) fp32 mass that keys k (B, H, n, D) get from q (B, Hq, m, D).

    The queries are the tokens start .. start+m-1 of the keys' order, all keys up to them being visible.
    valid: (B, n) bool, padding takes and gives nothing. Sum over the query heads of each KV head.
    One tile of queries is in memory at a time: O(tile * n), never O(m * n). Exact in fp32.
    """
    batch, heads, total, _ = k.shape
    group, count = q.shape[1] // heads, q.shape[2]
    tile = max(1, _TILE_BYTES // (4 * total * group))
    out = torch.zeros(batch, heads, total, dtype=torch.float32, device=q.device)
    slot = torch.arange(total, dtype=torch.int64, device=q.device)
    for row in range(batch):
        for head in range(heads):
            keys = k[row, head].float().mT
            for first in range(0, count, tile):
                last = min(first + tile, count)
                seen = start + last
                mine = q[row, head * group : (head + 1) * group, first:last].float() * rule.scale
                logits = soft_cap(mine @ keys[:, :seen], rule.cap)
                query = torch.arange(start + first, seen, dtype=torch.int64, device=q.device)
                hide = slot[:seen] > query[:, None]
                if valid is not None:
                    hide = hide | ~valid[row, :seen]
                logits.masked_fill_(hide, -torch.inf)
                lse = torch.logsumexp(logits, -1, keepdim=True)
                if rule.sink is not None:
                    lse = torch.logaddexp(lse, rule.sink[head * group : (head + 1) * group].float().view(-1, 1, 1))
                probs = logits.sub_(lse.masked_fill(lse == -torch.inf, 0.0)).exp_()
                if valid is not None:
                    probs *= valid[row, start + first : seen].to(probs.dtype).view(1, -1, 1)
                out[row, head, :seen] += probs.sum((0, 1))
    return out


def dense_mass(
    q: Tensor, k: Tensor, lse: Tensor, rule: Rule, there: Tensor | None, bias: Tensor | None = None
) -> Tensor:
    """(B, H, n) fp32 mass from q (B, Hq, m, D), the tokens of the last m keys, of known log-sum-exp lse (B, H, G*m).

    there: (B, 1 or H, 1, n) bool, the keys that exist, None = all. bias: (B, H, n) added to their logits. A
    tile of queries is in memory at a time.
    """
    batch, heads, total, _ = k.shape
    group, count = q.shape[1] // heads, q.shape[2]
    if count == 1:  # every decode step: nothing to tile and nothing to hide
        logits = soft_cap((fold_queries(q, heads).float() * rule.scale) @ k.float().mT, rule.cap)
        logits = logits if bias is None else logits + bias.unsqueeze(2)
        mass = logits.sub_(lse.unsqueeze(-1)).exp_().sum(2)
        return mass if there is None else mass.masked_fill_(~there[:, :, 0], 0.0)
    out = torch.zeros(batch, heads, total, dtype=torch.float32, device=q.device)
    keys, each = k.float().mT, lse.unflatten(-1, (group, count))
    slot = torch.arange(total, dtype=torch.int64, device=q.device)
    tile = max(1, _TILE_BYTES // (4 * batch * q.shape[1] * total))
    for first in range(0, count, tile):
        last = min(first + tile, count)
        mine = fold_queries(q[:, :, first:last], heads).float() * rule.scale
        logits = soft_cap(mine @ keys, rule.cap)
        logits = (logits if bias is None else logits + bias.unsqueeze(2)).unflatten(2, (group, -1))
        probs = logits.sub_(each[:, :, :, first:last, None]).exp_()
        probs.masked_fill_(slot > slot[total - count + first : total - count + last, None], 0.0)
        out += probs.sum((2, 3))
    return out if there is None else out.masked_fill_(~there[:, :, 0], 0.0)
