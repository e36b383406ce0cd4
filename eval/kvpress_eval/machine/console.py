"""The one place that makes consoles: what is printed is text, never markup.

Names in rows, files and messages come from anywhere: ``[/]`` in one of them would end the command, ``[link=...]``
would lie, and an escape sequence would speak to the terminal. So markup and emoji codes are off everywhere (styles are
given as ``style=`` or by `Text`), and what is about to be written is made plain.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from .printable import plain

__all__ = ["Console", "console"]


class _Plain(Console):
    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control or text.isprintable() else Segment(plain(text), style)


def console(stderr: bool = False) -> Console:
    """A console for people, on stdout or stderr."""
    return _Plain(stderr=stderr, markup=False, emoji=False, highlight=False)
