"""Text from files as it may be shown: no control character, nothing that reverses or hides what stands beside it.

Imports the standard library only.
"""

from __future__ import annotations

from unicodedata import category

__all__ = ["cut", "plain"]

_SPOILS = ("Cc", "Cf", "Cs")
"""Control and bidi characters would spoof a name or command a terminal; lone surrogates cannot be written as UTF-8."""


def plain(text: str) -> str:
    """The text with a replacement character for each that is not shown as itself; tabs and line ends stay."""
    if text.isprintable():  # no control character, no surrogate: nearly every text
        return text
    return "".join("\ufffd" if category(c) in _SPOILS and c not in "\n\t" else c for c in text)


def cut(text: str, most: int) -> str:
    """The text, or its beginning with an ellipsis where it is longer than ``most`` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}\u2026"
