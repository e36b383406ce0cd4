"""From what was asked to be checked to a press: a text, ``module:Name``, an object of a method, a preset, a press."""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from kvpress.conformance.protocol import KINDS, Kind, follow, kind_of
from kvpress.conformance.trial import BrokenError, told
from kvpress.errors import KVPressError
from kvpress.recipe.kinds import AfterPrefill, Decisions, EveryStep
from kvpress.recipe.press import PRESETS, Part, Preset, Press, preset
from kvpress.recipe.recipe import Recipe

_REFERENCE = re.compile(r"^\s*([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)\s*(?:\((.*)\))?\s*$", re.DOTALL)
MADE = "checked_"  # how presets made for a check begin
_KEEP = 0.4
_EVICTING = f"snapkv(keep={_KEEP}, window=5, kernel_size=3)"  # behind a budget, which evicts nothing itself
_FIELDS = {field.name for field in fields(Recipe)}


@contextlib.contextmanager
def resolved(target: object) -> Iterator[Press]:
    """The press to check; presets made for the check are forgotten after the block.

    Raises BrokenError where the target cannot be read, imported or made, saying why and what to write instead.
    """
    with contextlib.ExitStack() as made:
        press = _from_text(target, made) if isinstance(target, str) else _from_object(target, {}, made)
        for part in press.parts:
            _check_decisions(part)
        if press.recipe.unfinished:
            press = press | Press.parse(_EVICTING)
        press.ready()
        yield press


def _from_text(text: str, made: contextlib.ExitStack) -> Press:
    pieces = text.split("|") if ":" in text else [text]
    found: Press | None = None
    for piece in pieces:
        match = _REFERENCE.match(piece)
        press = _parsed(piece) if match is None else _imported(match, made)
        found = press if found is None else found | press
    assert found is not None
    return found


def _parsed(text: str) -> Press:
    try:
        return Press.parse(text)
    except KVPressError as error:
        hint = "" if "(" in text else " A method that is not installed is written module:Name."
        raise BrokenError(f"{error}{hint}") from error
    except Exception as error:  # its decisions do not follow their protocol
        raise BrokenError(told(error)) from error


def _imported(reference: re.Match[str], made: contextlib.ExitStack) -> Press:
    module, name, inside = reference.groups()
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not module.startswith(error.name or "-"):
            raise BrokenError(f"importing {module} failed: {told(error)}") from error
        raise BrokenError(
            f"there is no module {module!r} here. Run this where it lies, install it (pip install -e .), or put its "
            "folder on PYTHONPATH."
        ) from None
    except (Exception, SystemExit) as error:
        raise BrokenError(f"importing {module} failed: {told(error)}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            close = difflib.get_close_matches(part, [n for n in dir(found) if not n.startswith("_")], cutoff=0.5)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            raise BrokenError(f"{module} has no {part!r}.{hint}")
        found = getattr(found, part)
    return _from_object(found, {} if inside is None else _arguments(f"{module}:{name}", inside), made)


def _arguments(reference: str, inside: str) -> dict[str, Any]:
    try:
        call = ast.parse(f"f({inside})", mode="eval").body
        assert isinstance(call, ast.Call) and not call.args
        return {keyword.arg or "**": ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, AssertionError):
        raise BrokenError(
            f"cannot read the arguments of {reference}({inside}): write {reference}(name=value, ...) with numbers, "
            "quoted strings, True or False."
        ) from None


def _from_object(found: Any, arguments: dict[str, Any], made: contextlib.ExitStack) -> Press:
    if isinstance(found, Press):
        return found
    if isinstance(found, Preset):
        given = dict(arguments)
        if "keep" in found.signature.parameters and not {"keep", "compression_ratio"} & set(given):
            given["keep"] = _KEEP
        _check_decisions(Part(found.name, tuple(given.items())))  # before a Press relies on them
        return found(**given)
    if isinstance(found, type):
        found = _made(found, arguments)
    elif arguments:
        raise BrokenError(f"{_name(found)} is an object already and takes no arguments: leave them out.")
    kind = kind_of(found)
    if kind is None:
        hint = ""
        if inspect.isfunction(found):
            hint = f' A function that makes decisions is a press once it is decorated: @preset("{found.__name__}").'
        raise BrokenError(
            f"{_name(found)} is no kind of method: a scorer has `needs` and is called with (block, seen), a head "
            f"budget has `compares`, a layer budget `measure` and `weights`, a codec `encode` and `load`.{hint}"
        )
    follow(kind, found)
    return _wrapped(kind, found, made)


def _made(cls: type, arguments: dict[str, Any]) -> Any:
    try:
        inspect.signature(cls).bind(**arguments)
    except TypeError as error:
        raise BrokenError(
            f"{cls.__name__} cannot be made with {arguments or 'no arguments'}: {error}. Give them as in "
            f"{cls.__module__}:{cls.__name__}(name=value)."
        ) from None
    except ValueError:  # a class whose signature cannot be read takes its chance
        pass
    try:
        return cls(**arguments)
    except Exception as error:
        raise BrokenError(f"making {cls.__name__} failed: {told(error)}") from error


def _wrapped(kind: Kind, thing: Any, made: contextlib.ExitStack) -> Press:
    """A press that does nothing but use one decision; its preset is forgotten when `made` is left."""

    def scorer(keep: float | int = _KEEP, sinks: int = 2, recent: int = 4, every_step: bool = False) -> Decisions:
        """Made for a check."""
        schedule = EveryStep() if every_step else AfterPrefill()
        return {"keep": keep, "scorer": thing, "sinks": sinks, "recent": recent, "schedule": schedule}

    def part() -> Decisions:
        """Made for a check."""
        return {"key": thing, "value": thing, "residual": 5} if kind == "key" else {kind: thing}

    name = MADE + re.sub(r"\W", "", _name(thing)).lower()
    while name in PRESETS:
        name += "_"
    made.callback(PRESETS.forget, name)
    return preset(name)(scorer if kind == "scorer" else part)()


def at_every_step(press: Press) -> Press:
    """The press with a scorer that was asked about alone, evicting for every token decoded."""
    return Press(
        tuple(
            Part(part.name, (*part.given, ("every_step", True)))
            if "every_step" in PRESETS[part.name].signature.parameters and part.name.startswith(MADE)
            else part
            for part in press.parts
        )
    )


def _check_decisions(part: Part) -> None:
    try:
        decided = part.decisions()
    except KVPressError as error:
        raise BrokenError(f"{part.name} refuses its arguments: {error}") from error
    except Exception as error:
        raise BrokenError(f"{part.name} failed to decide: {told(error)}") from error
    if not isinstance(decided, dict):
        raise BrokenError(f"{part.name} returns a {type(decided).__name__}, expected a dictionary of decisions.")
    if unknown := sorted(set(decided) - _FIELDS):
        raise BrokenError(f"{part.name} decides {', '.join(unknown)}; a press decides: {', '.join(sorted(_FIELDS))}.")
    for kind in KINDS & set(decided):
        if decided[kind] is not None:
            follow(kind, decided[kind])


def _name(thing: Any) -> str:
    return str(getattr(thing, "__name__", type(thing).__name__))
