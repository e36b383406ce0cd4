"""Where the evidence of each question stands among the tokens of a prompt, and how much of it a cache still holds."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from ..errors import UsageError
from ..suites.episode import Episode, Span

if TYPE_CHECKING:
    from torch import Tensor

    from kvpress import PressCache

    from ..suites.prompt import Prompter

__all__ = ["edges", "known_tokens", "overlapping", "ranges", "share_kept"]


def edges(prompter: Prompter, text: str) -> list[Span]:
    """Where each token of a text begins and ends, in characters.

    Raises:
        UsageError: for a tokenizer that does not tell.
    """
    if prompter.rendering == "dialect":
        return [match.span() for match in re.finditer(r"\S+", text)]
    if not getattr(prompter.tokenizer, "is_fast", False):
        raise UsageError("this tokenizer does not tell where its tokens stand in the text; use a fast one")
    return list(prompter.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"])


def overlapping(found: Sequence[Span], spans: Iterable[Span]) -> list[int]:
    """Numbers of the tokens with these edges that overlap character spans, ascending."""
    lefts, rights = [left for left, _ in found], [right for _, right in found]
    hits = set[int]()
    for start, end in spans:
        hits.update(range(bisect_right(rights, start), bisect_left(lefts, end)))
    return sorted(hits)


def known_tokens(prompter: Prompter, episode: Episode, context: Sequence[int]) -> list[list[int]] | None:
    """For every turn the numbers of the prompt's tokens that overlap its evidence; None where that is not known.

    Args:
        context: ids of the prompt that the context is in, `Prompt.context`.
    """
    if not any(turn.evidence for turn in episode.turns):
        return None
    try:
        found, before, moved = _standing(prompter, episode.context, list(context))
    except UsageError:
        return None
    turns = ([(start + moved, end + moved) for start, end in turn.evidence] for turn in episode.turns)
    return [[before + at for at in overlapping(found, spans)] for spans in turns]


def _standing(prompter: Prompter, text: str, ids: list[int]) -> tuple[list[Span], int, int]:
    """Edges of tokens, how many tokens stand before the first of them, and characters before the text.

    A chat template puts words around a context: its tokens are found by reading the whole prompt again.
    """
    if not prompter.chat:
        found, before = edges(prompter, text), len(prompter.bos)
        if before + len(found) == len(ids):
            return found, before, 0
        raise UsageError("the tokens of this prompt are not those of its context")
    whole = str(prompter.tokenizer.decode(ids))
    begin = whole.find(text)
    found = edges(prompter, whole)
    again = list(prompter.tokenizer(whole, add_special_tokens=False)["input_ids"])
    if begin < 0 or again != ids:
        raise UsageError("where the context stands inside this chat template is not known")
    return found, 0, begin


def ranges(tokens: Sequence[int]) -> list[list[int]]:
    """Ascending numbers as ranges ``[start, end)``."""
    found = []
    for _, group in groupby(enumerate(tokens), lambda pair: pair[1] - pair[0]):
        run = [token for _, token in group]
        found.append([run[0], run[-1] + 1])
    return found


def share_kept(cache: PressCache, wanted: Sequence[Sequence[int]]) -> list[float | None]:
    """What is left of the slots of some tokens, mean over layers and KV heads, for each row of a cache.

    Layers that the press leaves alone (sliding windows) do not count.

    Args:
        wanted: token numbers for each row, from 0; a row without any has None.
    """
    shares: list[list[float]] = [[] for _ in wanted]
    evicts = cache.press.recipe.evicts
    for store in cache.stores if evicts else ():
        pos = torch.cat([*(item.per_row(item.segment.positions()) for item in store.held), store.tail.positions()], 2)
        for row, tokens in enumerate(wanted):
            if tokens:
                shares[row].append(_held(pos[row], tokens))
    return [
        None if not tokens else 1.0 if not evicts else sum(found) / len(found)
        for tokens, found in zip(wanted, shares, strict=True)
    ]


def _held(pos: Tensor, tokens: Sequence[int]) -> float:
    """Share of ``tokens`` that heads (H, n) of slots hold."""
    there = torch.isin(pos, torch.tensor(tokens, dtype=pos.dtype, device=pos.device))
    return int(there.sum()) / (len(tokens) * pos.shape[0])
