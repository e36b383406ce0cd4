"""What the words of ``kvpress lm-eval`` say of model and press, looked at before the harness and torch are imported."""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Sequence
from typing import Any, NoReturn

__all__ = ["OTHERS", "check", "model_arguments"]

OTHERS = ("ls", "validate")
"""The harness's commands that run no model."""


def check(words: Sequence[str]) -> None:
    """Say of the words after ``lm-eval`` what is wrong with the model or the press that they name, as far as that can
    be seen without torch. Words that cannot be read are left to the harness.

    Raises:
        KVPressError: for a model that is neither here nor to be had, or a press that cannot be right.
    """
    from kvpress.recipe import glance

    from ..models import locate

    given = model_arguments(words)
    if "press" in given:
        glance.check(str(given["press"]))
    if isinstance(name := given.get("pretrained"), str):
        locate(name, str(given.get("dtype", "auto")).removeprefix("torch."))


def model_arguments(words: Sequence[str]) -> dict[str, Any]:
    """The arguments that ``kvpress`` among the harness's models is given; none where another one is asked for."""
    if words[:1] and words[0] in OTHERS:
        return {}
    parser = _Parser(add_help=False)
    parser.add_argument("--model", "-M", default="kvpress")
    parser.add_argument("--model_args", "-a", nargs="+", action="append", default=[])
    try:
        options, _ = parser.parse_known_args(list(words))
    except ValueError:
        return {}
    found: dict[str, Any] = {}
    for values in options.model_args if options.model == "kvpress" else ():
        found |= _mapping(values[0]) or {name: _value(text) for name, text in map(_pair, _pieces(values)) if name}
    return found


class _Parser(argparse.ArgumentParser):
    """Says what it cannot read to whoever asks it, and not to the user."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _mapping(text: str) -> dict[str, Any]:
    """What an object of JSON holds; nothing where a text is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _pieces(values: Sequence[str]) -> list[str]:
    """Texts cut at their commas, but those inside brackets and quotes belong to a press."""
    found = []
    for text in values:
        depth, quote, start = 0, "", 0
        for at, sign in enumerate(text):
            if quote:
                quote = "" if sign == quote else quote
            elif sign in "\"'":
                quote = sign
            elif sign in "[({":
                depth += 1
            elif sign in "])}":
                depth = max(depth - 1, 0)
            elif sign == "," and not depth:
                found.append(text[start:at])
                start = at + 1
        found.append(text[start:])
    return found


def _pair(piece: str) -> tuple[str, str]:
    """(name, value) of ``name=value``; ("", "") for any other text."""
    name, equals, value = piece.partition("=")
    return (name, value) if equals else ("", "")


def _value(text: str) -> Any:
    """A text without the quotes around it, or what else Python reads in it, as the harness does."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
