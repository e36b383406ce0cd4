"""Every eviction press of the library by its name, one small function each; quant/ and lowrank/ have their own.

A preset only maps arguments to decisions. The method itself is the scorer it names.
"""

from __future__ import annotations

from kvpress.errors import PressSyntaxError
from kvpress.lowrank.gear import gear, gear_l
from kvpress.policies.base import AfterPrefill, EveryStep, Schedule
from kvpress.policies.h2o import HeavyHitters
from kvpress.policies.random import Random
from kvpress.policies.snapkv import WindowVotes
from kvpress.policies.streaming_llm import Recency
from kvpress.policies.tova import LastQuery
from kvpress.press import PRESETS, Decisions, preset, variant
from kvpress.quant.fp8 import fp8
from kvpress.quant.int8 import int8
from kvpress.quant.kivi import kivi

__all__ = [
    "fp8",
    "full",
    "gear",
    "gear_l",
    "h2o",
    "int8",
    "kivi",
    "list_presses",
    "random",
    "snapkv",
    "streaming_llm",
    "tova",
]


@preset("full")
def full() -> Decisions:
    """The full cache: every slot, dense. The baseline of every comparison."""
    return {}


@preset("random")
def random(keep: float | int = 0.25, seed: int = 0, sinks: int = 4, recent: int = 32) -> Decisions:
    """A random subset after the prompt: the control every method must beat."""
    return {"keep": keep, "scorer": Random(seed), "sinks": sinks, "recent": recent, "schedule": AfterPrefill()}


@preset("streaming_llm")
def streaming_llm(keep: float | int = 0.25, sinks: int = 4, positions: str = "slots") -> Decisions:
    """Attention sinks and a sliding window, at every step (2309.17453)."""
    if positions not in ("slots", "keep"):
        raise PressSyntaxError(f'positions={positions!r}: use "slots" (the paper) or "keep" (original rotations).')
    return {
        "keep": keep,
        "scorer": Recency(),
        "sinks": sinks,
        "recent": 0,
        "schedule": EveryStep(),
        "positions": positions,
    }


@preset("tova")
def tova(keep: float | int = 0.25) -> Decisions:
    """Drop the token the last query attends to least, at every step (2401.06104)."""
    return {"keep": keep, "scorer": LastQuery(), "sinks": 0, "recent": 0, "schedule": EveryStep()}


@preset("h2o")
def h2o(keep: float | int = 0.25, recent: float | int = 0.5, sinks: int = 0) -> Decisions:
    """Heavy hitters by accumulated attention, and the recent half of the budget, at every step (2306.14048)."""
    return {"keep": keep, "scorer": HeavyHitters(), "sinks": sinks, "recent": recent, "schedule": EveryStep()}


@preset("snapkv")
def snapkv(
    keep: float | int = 0.25,
    window: int = 32,
    kernel_size: int = 7,
    pooling: str = "max",
    reduce: str = "mean",
    every_prompt: bool = False,
) -> Decisions:
    """Slots the end of the prompt attends to, pooled over neighbours (2404.14469)."""
    if window < 1 or kernel_size < 1 or kernel_size % 2 == 0:
        raise PressSyntaxError(f"window={window} must be positive and kernel_size={kernel_size} odd.")
    if pooling not in ("max", "avg") or reduce not in ("mean", "max", "sum"):
        raise PressSyntaxError(f'pooling={pooling!r} is "max" or "avg", reduce={reduce!r} is "mean", "max" or "sum".')
    schedule: Schedule = AfterPrefill(every_prompt)
    votes = WindowVotes(window, kernel_size, pooling, reduce)  # type: ignore[arg-type]
    return {"keep": keep, "scorer": votes, "sinks": 0, "recent": window, "schedule": schedule}


variant(snapkv, "paper", "SnapKV as in the paper's LongBench tables: 1024 slots, window 32, max pooling 7.", keep=1024)
variant(
    snapkv,
    "kvpress",
    "SnapKV with the defaults of NVIDIA's kvpress: window 64, average pooling 5.",
    keep=0.5,
    window=64,
    kernel_size=5,
    pooling="avg",
)


def list_presses() -> dict[str, str]:
    """Name of every press -> what it does, in one line."""
    return {name: PRESETS[name].summary for name in PRESETS}
