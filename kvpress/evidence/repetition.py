"""The parts of a prompt that a model repeats, and the attention that slots get meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvpress.attention.partial import soft_cap
from kvpress.evidence.evidence import Repeat, Rule

_TILE_BYTES = 16 << 20


@dataclass(frozen=True)
class Repetition:
    """One part of every row.

    ids: (B, m) int64 what is fed. real: (B, m) bool, False = filled up, for rows that are shorter. columns: one int64
    tensor a row, the slots of the part; before: the same for the first tokens, which every part may attend to.
    """

    ids: Tensor
    real: Tensor
    columns: list[Tensor]
    before: list[Tensor]


def parts(
    prompt: Tensor, mask: Tensor | None, plan: Repeat, instructions: Sequence[Sequence[int]]
) -> Iterator[Repetition]:
    """The prompt (B, n) int64 cut as if each row were alone; mask (B, n) bool, False = padding, None = none is.

    instructions: what comes before the first part, before a later one with the tokens that lead into it, and what
    comes between those and the part itself.
    """
    there = torch.ones_like(prompt) if mask is None else mask
    rows = [row.nonzero().flatten() for row in there]
    longest = max(len(row) for row in rows)
    begin = 0 if plan.whole else plan.skip
    for start in range(begin, longest, plan.chunk):
        fed = []
        for number, row in enumerate(rows):
            here = row[start : start + plan.chunk]
            again = row[max(0, start - plan.overlap) : start] if start > begin else row[:0]
            told, then = (instructions[0 if start == begin else 1], instructions[2]) if len(here) else ((), ())
            fed.append([*told, *prompt[number, again].tolist(), *then, *prompt[number, here].tolist()])
        width = max(len(ids) for ids in fed)
        flags = [[True] * len(ids) + [False] * (width - len(ids)) for ids in fed]
        real = torch.tensor(flags, dtype=torch.bool, device=prompt.device)
        filled = [ids + [0] * (width - len(ids)) for ids in fed]
        ids = torch.tensor(filled, dtype=torch.int64, device=prompt.device)
        columns = [row[start : start + plan.chunk] for row in rows]
        yield Repetition(ids, real, columns, [row[: min(plan.skip, start)] for row in rows])


def strongest(q: Tensor, k: Tensor, rule: Rule, part: Repetition, out: Tensor) -> None:
    """Raise out (B, H, n) to the largest attention its slots get from q (B, Hq, m, D), queries of the part's tokens.

    k: (B, H, n + m, D), the last m of them the part's own. Softmax over the first tokens, the slots of the part and
    the part's own tokens up to the query; the largest over queries and over the query heads of a KV head.
    """
    heads, count = k.shape[1], q.shape[2]
    group = q.shape[1] // heads
    causal = torch.ones(count, count, dtype=torch.bool, device=q.device).tril()
    for row, (columns, before) in enumerate(zip(part.columns, part.before, strict=True)):
        if not len(columns):
            continue
        columns, before = columns.to(q.device), before.to(q.device)
        real = part.real[row].nonzero().flatten().to(q.device)
        own = torch.arange(out.shape[2], k.shape[2], dtype=torch.int64, device=q.device)
        index = torch.cat([before, columns, own])
        tile = max(1, _TILE_BYTES // (4 * len(index) * group))
        for head in range(heads):
            keys = k[row, head, index].float().mT
            mine = q[row, head * group : (head + 1) * group]
            best = torch.full((len(columns),), -torch.inf, dtype=torch.float32, device=q.device)
            for some in real.split(tile):
                logits = soft_cap(mine[:, some].float() * rule.scale @ keys, rule.cap)
                logits[..., len(before) + len(columns) :].masked_fill_(~causal[some], -torch.inf)
                lse = logits.logsumexp(-1, keepdim=True)
                if rule.sink is not None:
                    lse = torch.logaddexp(lse, rule.sink[head * group : (head + 1) * group].float().view(-1, 1, 1))
                slots = logits[..., len(before) : len(before) + len(columns)].sub_(lse)
                best = torch.maximum(best, slots.amax((0, 1)))
            out[row, head, columns] = torch.maximum(out[row, head, columns], best.exp())
