"""One check and how it is run: what it finds, why it does not apply, or the line of the method that raised."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from kvpress.checks import Check

C = TypeVar("C")
_OURS = ("kvpress", "torch", "transformers", "numpy", "safetensors")


class BrokenError(Exception):
    """The promise is broken; the message says how."""


class DoubtfulError(Exception):
    """Nothing is wrong, and still worth knowing; the message says what."""


class InapplicableError(Exception):
    """The promise is not one this method can make; the message says why."""


@dataclass(frozen=True)
class Trial(Generic[C]):
    """test: what was found, in a few words; raises one of the errors above. advice: for when it is broken.

    gate: what comes after is not worth running where this one fails.
    """

    name: str
    test: Callable[[C], str]
    advice: str
    gate: bool = False


def attempt(trial: Trial[C], case: C) -> Check:
    """Run one trial; whatever the method raises is a finding too."""
    try:
        return Check(trial.name, "ok", trial.test(case))
    except InapplicableError as error:
        return Check(trial.name, "skip", f"does not apply: {error}")
    except DoubtfulError as error:
        return Check(trial.name, "warn", str(error), trial.advice)
    except BrokenError as error:
        return Check(trial.name, "fail", str(error), trial.advice)
    except Exception as error:
        return Check(trial.name, "fail", told(error), "An exception is never part of an answer: see the line named.")


def attempt_all(trials: Sequence[Trial[C]], case: C) -> list[Check]:
    """Run trials in order; after a gate that failed the others are said to be not run."""
    checks: list[Check] = []
    closed = ""
    for trial in trials:
        if closed:
            checks.append(Check(trial.name, "skip", f"not run, because {closed!r} failed"))
            continue
        checks.append(attempt(trial, case))
        if trial.gate and checks[-1].status == "fail":
            closed = trial.name
    return checks


def told(error: BaseException) -> str:
    """Type, message and the last line of somebody else's code that an exception came through."""
    text = " ".join(str(error).split())
    place = _place(error)
    return f"{type(error).__name__}: {text}" + (f" ({place})" if place else "")


def _place(error: BaseException) -> str:
    frames = list(traceback.walk_tb(error.__traceback__))
    own = [(frame, line) for frame, line in frames if not _is_ours(frame.f_globals.get("__name__", ""))]
    for frame, line in reversed(own or frames):
        return f"{Path(frame.f_code.co_filename).name}:{line}, in {frame.f_code.co_name}"
    return ""


def _is_ours(module: str) -> bool:
    """Code that only called the method, or that the method called."""
    return module.split(".")[0] in _OURS or module.startswith(("importlib", "<frozen"))
