"""Reading a prompt a second time: how strongly every slot is attended to while the model repeats what it has read.

The tokens of the prompt are fed again, part by part, to the complete dense cache, after an instruction to repeat
them where the session has one. What a part adds to the cache is taken out again before the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kvpress.attention.partial import soft_cap
from kvpress.errors import SessionError, UnsupportedError, short
from kvpress.evidence.evidence import Repeat, Rule
from kvpress.evidence.rope import length_dependent
from kvpress.storage.modes import undisturbed

if TYPE_CHECKING:
    from kvpress.cache.cache import PressCache
    from kvpress.session.session import Session

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


@torch.no_grad()
def read_again(session: Session, cache: PressCache) -> None:
    """Give every layer of `cache`, dense and read by `session`, the attention its slots get while it is repeated."""
    plan = session.press.recipe.needs.repeat
    first = cache.stores[0]
    assert plan is not None and first.prompt is not None and first.prompt.shape[1] == first.logical
    length, home = first.logical, session.model.device  # the first layer may be on another device than the input
    prompt, mask = first.prompt.to(home), None if first.seen_mask is None else first.seen_mask.to(home)
    found = list(parts(prompt, mask, plan, session.instructions))
    longest = length + max((part.ids.shape[1] for part in found), default=0)
    limit = session.positions
    if limit is not None and longest > limit:
        raise UnsupportedError(
            f"{short(session.press)} repeats a prompt of {length} tokens at positions up to {longest}, and this model "
            f"has learned {limit}. Give it a smaller chunk, or use a press that reads the prompt once."
        )
    with undisturbed():
        for layer in cache.stores:
            layer.repeated = torch.zeros(*layer.tail.k.shape[:2], length, dtype=torch.float32, device=layer.device)
    before = torch.ones_like(prompt) if mask is None else mask.long()
    try:
        for part in found:
            with cache.borrowed(part):
                session.forward(part.ids, torch.cat([before, torch.ones_like(part.ids)], 1), cache)
    except BaseException:
        for layer in cache.stores:
            layer.repeated = None
        raise


def check_model(session: Session) -> None:
    """Raise UnsupportedError for a model that would not be the same after positions beyond the prompt."""
    if kind := length_dependent(session.model):
        raise UnsupportedError(
            f"{type(session.model).__name__} uses {kind} RoPE, whose angles depend on the longest position seen, and "
            f"{short(session.press)} makes the model repeat its prompt beyond its end. Use a press that reads the "
            "prompt once (snapkv, h2o)."
        )


def checked_instructions(value: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Three sequences of token ids, the last of which may be missing; or SessionError."""
    try:
        first, later, *more = [[int(token) for token in tokens] for tokens in value]
        (end,) = more or ([],)
    except (TypeError, ValueError):
        raise SessionError(
            f"instructions={short(repr(value))} must be lists of token ids: what comes before the first part of a "
            "prompt that is repeated, what comes before each later one, and, if anything, what follows either."
        ) from None
    return tuple(first), tuple(later), tuple(end)


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
