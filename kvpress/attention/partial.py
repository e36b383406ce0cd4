"""Partial attention: the result over some of the slots, as (out, log-sum-exp), and its exact merge.

Attention over a union of disjoint slot sets is the average of the partial outputs weighted by
exp(lse). That is what lets packed segments, the dense tail and learned sinks stay apart in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

TILE_BYTES = 16 << 20  # explicit logits or masks in flight; with their copies they stay under 64 MiB
_aten = torch.ops.aten


class Partial(NamedTuple):
    """Attention over a set of slots.

    out: (B, H, m, D) fp32, normalized over that set; zero where the set is empty.
    lse: (B, H, m) fp32, log of the summed exponentials; -inf where the set is empty.
    """

    out: Tensor
    lse: Tensor


def merge(parts: Sequence[Partial], sink: Tensor | None = None) -> Partial:
    """Exact attention over the union of the (disjoint) slot sets of `parts`.

    sink: learned logits broadcastable to (B, H, m) that take mass and give no output (gpt_oss).
    """
    if len(parts) == 1 and sink is None:
        return parts[0]
    if len(parts) == 2 and sink is None:
        # One sigmoid instead of a stack and a log-sum-exp: this runs in every decode step.
        first, second = parts
        total = torch.logaddexp(first.lse, second.lse)
        weight = torch.exp(first.lse - total.masked_fill(total == -torch.inf, 0.0)).unsqueeze(-1)
        return Partial(torch.lerp(second.out, first.out, weight), total)
    lses = [part.lse for part in parts]
    if sink is not None:
        lses.append(sink.float().expand_as(lses[0]))
    total = torch.logsumexp(torch.stack(lses), 0)
    safe = total.masked_fill(total == -torch.inf, 0.0)
    out = parts[0].out * torch.exp(parts[0].lse - safe).unsqueeze(-1)
    for part in parts[1:]:
        out = out + part.out * torch.exp(part.lse - safe).unsqueeze(-1)
    return Partial(out, total)


def soft_cap(logits: Tensor, cap: float | None) -> Tensor:
    """cap * tanh(logits / cap), or the logits themselves without a cap (gemma2)."""
    return logits if cap is None else torch.tanh(logits / cap) * cap


def softmax_partial(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Row softmax and log-sum-exp of fp32 logits (..., m, n); rows of only -inf give 0 and -inf."""
    lse = torch.logsumexp(logits, -1)
    safe = lse.masked_fill(lse == -torch.inf, 0.0)
    return torch.exp(logits - safe.unsqueeze(-1)), lse


def attend_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None = None,
    soft_cap_at: float | None = None,
    bias: Tensor | None = None,
) -> Partial:
    """Plain attention in fp32 with explicit logits, tiled over queries to bound memory.

    q: (B, H, m, D); k, v: (B, H, n, D); mask: bool broadcastable to (B, H, m, n), True = attend. bias: (B, H, n) fp32,
    added to the logits of each slot after the soft cap.
    """
    rows = max(1, TILE_BYTES // max(1, 4 * q.shape[0] * q.shape[1] * k.shape[2]))
    outs, lses = [], []
    keys, values = k.float().mT, v.float()
    for start in range(0, q.shape[2], rows):
        logits = soft_cap((q[:, :, start : start + rows].float() * scale) @ keys, soft_cap_at)
        if bias is not None:
            logits = logits + bias.unsqueeze(2)
        if mask is not None:
            part = mask if mask.shape[-2] == 1 else mask[..., start : start + rows, :]
            logits = logits.masked_fill(~part, -torch.inf)
        probs, lse = softmax_partial(logits)
        outs.append(probs @ values)
        lses.append(lse)
    if len(outs) == 1:
        return Partial(outs[0], lses[0])
    return Partial(torch.cat(outs, 2), torch.cat(lses, 2))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    mask: Tensor | None = None,
    soft_cap_at: float | None = None,
    bias: Tensor | None = None,
) -> Partial:
    """Attention of dense slots, by a fused kernel that also returns the log-sum-exp where there is one.

    Shapes as in `attend_reference`. The number of heads of q and k must agree (fold query heads
    that share a KV head into m before).
    """
    if k.shape[2] == 0:
        empty = q.new_full(q.shape[:3], -torch.inf, dtype=torch.float32)
        return Partial(torch.zeros(*q.shape[:3], v.shape[-1], dtype=torch.float32, device=q.device), empty)
    # Under autocast keys, values and queries have types of their own: RoPE widens keys and queries.
    plain = soft_cap_at is None and bias is None and k.shape[-1] == v.shape[-1] and q.dtype == k.dtype == v.dtype
    if plain and q.device.type == "cpu":
        bias = None
        if mask is not None:
            bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill_(~mask, -torch.inf)
            bias = bias.expand(q.shape[0], -1, q.shape[2], k.shape[2])
        out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, attn_mask=bias, scale=scale)
        if mask is not None:  # the kernel reports 0 for rows that attend to nothing
            lse = lse.masked_fill(~mask.any(-1).expand(lse.shape), -torch.inf)
        return Partial(out.float(), lse.float())
    if plain and mask is None and q.device.type == "cuda" and k.shape[-1] % 8 == 0:
        if q.dtype in (torch.float16, torch.bfloat16) and k.shape[-1] <= 256:
            out, lse = _aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, scale=scale)[:2]
        else:
            out, lse = _aten._scaled_dot_product_efficient_attention(q, k, v, None, True, scale=scale)[:2]
        return Partial(out.float(), lse[..., : q.shape[2]].float())
    return attend_reference(q, k, v, scale, mask, soft_cap_at, bias)


def fold_queries(q: Tensor, kv_heads: int) -> Tensor:
    """(B, H*G, n, D) -> (B, H, G*n, D): query heads that share a KV head become rows of one matrix."""
    batch, heads, count, dim = q.shape
    return q.reshape(batch, kv_heads, heads // kv_heads * count, dim)


def unfold_partial(part: Partial, heads: int) -> Partial:
    """Undo `fold_queries`: (B, H, G*n, D) -> (B, H*G, n, D)."""
    batch, _, rows, dim = part.out.shape
    count = part.out.shape[1] * rows // heads
    return Partial(part.out.reshape(batch, heads, count, dim), part.lse.reshape(batch, heads, count))
