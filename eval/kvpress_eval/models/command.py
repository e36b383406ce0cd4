"""``kvpress models``: what can be named with ``--model``, and fetching what is not here."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from ..errors import UsageError
from .cached import DTYPES, cache_folder, here
from .getting import Progress, fetch
from .loading import BUNDLED
from .pretrained import PRETRAINED, Pretrained

__all__ = ["models"]


def models(options: argparse.Namespace) -> int:
    """List, or get a model; returns the exit code."""
    if options.action == "list":
        _list(Console())
        return 0
    entry = PRETRAINED.get(options.model)
    already = entry is not None and here(entry, options.dtype) is not None
    try:
        with _shown(Console(stderr=True), options.model) as progress:
            folder = fetch(options.model, options.dtype, options.accept_terms, progress)
    except KeyboardInterrupt:
        raise UsageError(
            f"interrupted; nothing of {options.model} is kept. Run `kvpress models get {options.model}` to try again"
        ) from None
    told = "is already here" if already else "is here now"
    print(f"{options.model} {told}: {folder}")
    return 0


@contextmanager
def _shown(console: Console, name: str) -> Iterator[Progress]:
    """Progress on a terminal as a bar, elsewhere one line for each step."""
    from ..launch.worker import be_quiet

    last = ""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=None)

        def told(what: str, done: int, total: int) -> None:
            nonlocal last
            if what != last:
                if what == "converting":
                    be_quiet()
                if not console.is_terminal:
                    console.print(f"{name}: {what}", markup=False, highlight=False)
                bar.reset(task)
                last = what
            share = f" {done / 1e6:.0f} of {total / 1e6:.0f} MB" if total else ""
            bar.update(task, completed=done, total=total or None, description=f"{name}: {what}{share}")

        yield told


def _list(console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("context", justify="right", no_wrap=True)
    for heading in ("licence", "from", "here"):
        table.add_column(heading)
    for name in BUNDLED:
        table.add_row(name, "10 MB", "unlimited", "Apache-2.0", "this package", Text("yes", style="green"))
    for entry in PRETRAINED.values():
        size, state = f"{entry.wheel_bytes / 1e6:.0f} MB", _state(entry)
        table.add_row(entry.name, size, f"{entry.context:,}", entry.licence, _origin(entry), state)
    table.add_row("FILE.gguf", "", "", "", "any GGUF file of yours", "")
    table.add_row("FOLDER", "", "", "", "any that save_pretrained wrote", "")
    table.add_row("ORG/NAME", "", "", "", "any causal LM of the hub", "")
    console.print(table)
    console.print()
    for name, about in {**BUNDLED, **{entry.label: entry.about for entry in PRETRAINED.values()}}.items():
        console.print(f"{name}: {about}", markup=False, highlight=False)
    console.print(f"kept in {cache_folder()} (KVPRESS_HOME names another place)", markup=False, highlight=False)


def _origin(entry: Pretrained) -> str:
    first = entry.parts[0]
    more = f" and {len(entry.wheels) - 1} more wheels" if len(entry.wheels) > 1 else ""
    return f"index: {first.project} {first.version}{more}"


def _state(entry: Pretrained) -> Text:
    held = [dtype for dtype in DTYPES if here(entry, dtype)]
    if held:
        return Text("yes" if "float32" in held else f"in {held[0]}", style="green")
    return Text("no", style="yellow")
