"""What ``kvpress show`` prints: strips by layer, counts by head, the evidence, and the prompt itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from ..machine.console import Console
from ..rows.numbers import percent
from ..runs.survivors import Survivors

__all__ = ["print_survivors"]

_SHADES = " \u2591\u2592\u2593\u2588"  # none, up to a third, up to two thirds, less than all, all
_COLOURS = ("red", "yellow", "cyan", "green")
_EXCERPT = 48


def print_survivors(console: Console, found: Survivors) -> None:
    """Print them for people; colour says no more than the shades and numbers do."""
    n = len(found.tokens)
    console.print(Text(found.press, style="bold"))
    kept = f"{percent(float(found.by_token.mean()))} kept on average, {percent(found.bytes_ratio)} of the dense bytes"
    console.print(Text(f"{found.model}: {found.prompt}; {n} tokens, {kept}"))
    if not found.evicts:
        console.print(Text("this press only changes how tokens are stored: every token is kept", style="yellow"))
    if found.others:
        console.print(Text(f"{found.others} layers are not under the press and not shown", style="yellow"))
    console.print(_layers(found, console.width))
    console.print(
        Text("a column is a run of tokens; \u2591 \u2592 \u2593 \u2588: few to all of the heads hold them", style="dim")
    )
    if found.evidence is None:
        console.print(Text("where the evidence stands is not known for this prompt", style="dim"))
    elif found.evidence:
        console.print(_evidence(found))
    console.print(_prompt(found))


def shade(share: float) -> str:
    """The sign of a share of heads: blank only for none, full only for all."""
    return _SHADES[0 if share <= 0 else 4 if share >= 1 else 1 + int(3 * share)]


def _layers(found: Survivors, width: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("layer", justify="right", no_wrap=True)
    table.add_column("kept", justify="right", no_wrap=True)
    table.add_column("by head", no_wrap=True)
    before = len("layer  99.9 %  ") + max(len("evidence"), *(len(_counts(heads)) for heads in found.kept)) + 2
    room = max(12, width - before)
    bins = np.array_split(np.arange(len(found.tokens)), min(room, len(found.tokens)))
    table.add_column("where in the prompt", no_wrap=True)
    for layer, heads, shares in zip(found.layers, found.kept, found.by_layer, strict=True):
        strip = "".join(shade(float(shares[part].mean())) for part in bins)
        table.add_row(str(layer), percent(float(heads.mean())), _counts(heads), Text(strip, style="cyan"))
    if found.evidence:
        here = np.zeros(len(found.tokens), dtype=bool)
        for one in found.evidence:
            here[one.start : one.end] = True
        table.add_row(
            "", "", "evidence", Text("".join("^" if here[part].any() else " " for part in bins), style="bold")
        )
    return table


def _counts(heads: NDArray[np.bool_]) -> str:
    counts = heads.sum(1).tolist()
    text = " ".join(map(str, counts))
    return text if len(text) <= 24 else f"{min(counts)} to {max(counts)}"


def _evidence(found: Survivors) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("question", "kept", "heads with all of it"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("evidence", no_wrap=True, overflow="ellipsis")
    heads = sum(len(kept) for kept in found.kept)
    for one in found.evidence or ():
        share, whole = found.survival(one)
        words = " ".join("".join(_spaced(found.tokens[one.start : one.end])).split())
        short = words if len(words) <= _EXCERPT else f"{words[: _EXCERPT - 1]}\u2026"
        table.add_row(str(one.turn), percent(share), f"{whole} of {heads}", Text(short))
    return table


def _prompt(found: Survivors) -> Text:
    """The prompt, a token in the colour of the share of all heads that hold it; evidence underlined."""
    evidence = {i for one in found.evidence or () for i in range(one.start, one.end)}
    text = Text()
    for i, (token, share) in enumerate(zip(_spaced(found.tokens), found.by_token, strict=True)):
        style = "dim" if share <= 0 else _COLOURS[min(3, int(4 * share))]
        text.append(token, style=f"{style} underline" if i in evidence else style)
    text.append("\n")
    for name, style in (("no head", "dim"), *zip(("few", "under half", "most", "nearly all"), _COLOURS, strict=True)):
        text.append(f"{name}  ", style=style)
    return text.append("evidence", style="underline")


def _spaced(tokens: tuple[str, ...]) -> list[str]:
    """Tokens to be joined: those of a vocabulary of words have no white space of their own."""
    words = not any(any(c.isspace() for c in token) for token in tokens)
    return [f"{token} " if words else token for token in tokens]
