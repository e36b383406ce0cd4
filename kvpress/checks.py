"""One finding of a check, as `kvpress doctor` and `kvpress check` report it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Check:
    """One finding. status "skip": the check does not apply, and detail says why. advice: what to do, "" = nothing."""

    name: str
    status: Status
    detail: str
    advice: str = ""
