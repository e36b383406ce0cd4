"""Every eviction press of the library by its name, one small function each; quant/ and lowrank/ have their own.

A preset only maps arguments to decisions. The method itself is the scorer it names. Settings of papers and of other
libraries are in kvpress/recipe/variants.py.
"""

from __future__ import annotations

from typing import Any

from kvpress.errors import PressSyntaxError
from kvpress.lowrank.gear import gear, gear_l
from kvpress.policies.ada import AdaptiveHeads
from kvpress.policies.base import AfterPrefill, EveryStep, Schedule
from kvpress.policies.criticalkv import OutputPerturbation
from kvpress.policies.cur import ValueGuided
from kvpress.policies.expected_attention import ExpectedAttention
from kvpress.policies.h2o import HeavyHitters
from kvpress.policies.keydiff import KeyDifference
from kvpress.policies.knorm import FirstWhole, KeyNorm
from kvpress.policies.kvzip import Reconstruction
from kvpress.policies.lagkv import LagRelative
from kvpress.policies.leverage import Leverage
from kvpress.policies.minicache import SlerpPairs
from kvpress.policies.pooled import Pooled
from kvpress.policies.pyramid import Pyramid
from kvpress.policies.random import Random
from kvpress.policies.snapkv import WindowVotes
from kvpress.policies.streaming_llm import Recency
from kvpress.policies.tova import LastQuery
from kvpress.policies.zigzag import Uncertainty
from kvpress.quant.fp8 import fp8
from kvpress.quant.int8 import int8
from kvpress.quant.kivi import kivi
from kvpress.quant.think import think
from kvpress.recipe.press import PRESETS, Decisions, preset

__all__ = [
    "ada",
    "criticalkv",
    "cur",
    "expected_attention",
    "fp8",
    "full",
    "gear",
    "gear_l",
    "h2o",
    "int8",
    "keydiff",
    "kivi",
    "knorm",
    "kvzip",
    "lagkv",
    "leverage",
    "list_presses",
    "minicache",
    "pooled",
    "pyramid",
    "random",
    "snapkv",
    "streaming_llm",
    "think",
    "tova",
    "zigzag",
]


_NEIGHBOURS = 1023  # slots that pooling reaches over
_WIDEST = 4096  # channels, more than any head has
_AHEAD = 1 << 16  # positions


def _schedule(name: str) -> Schedule:
    if name not in ("every_step", "after_prefill"):
        raise PressSyntaxError(f'schedule={name!r}: slots are chosen at "every_step" or once "after_prefill".')
    return EveryStep() if name == "every_step" else AfterPrefill()


@preset("full")
def full() -> Decisions:
    """The full cache: every slot, dense. The baseline of every comparison."""
    return {}


@preset("random")
def random(keep: float | int = 0.25, seed: int = 0, sinks: int = 4, recent: int = 32) -> Decisions:
    """A random subset after the prompt: the control every method must beat."""
    return {"keep": keep, "scorer": Random(seed), "sinks": sinks, "recent": recent, "schedule": AfterPrefill()}


@preset("streaming_llm")
def streaming_llm(
    keep: float | int = 0.25, sinks: int = 4, positions: str = "slots", schedule: str = "every_step"
) -> Decisions:
    """Attention sinks and a sliding window, at every step (2309.17453)."""
    if positions not in ("slots", "keep"):
        raise PressSyntaxError(f'positions={positions!r}: use "slots" (the paper) or "keep" (original rotations).')
    return {
        "keep": keep,
        "scorer": Recency(),
        "sinks": sinks,
        "recent": 0,
        "schedule": _schedule(schedule),
        "positions": positions,
    }


@preset("tova")
def tova(keep: float | int = 0.25, recent: int = 0, schedule: str = "every_step") -> Decisions:
    """Drop the token the last query attends to least, at every step (2401.06104)."""
    return {"keep": keep, "scorer": LastQuery(), "sinks": 0, "recent": recent, "schedule": _schedule(schedule)}


@preset("h2o")
def h2o(
    keep: float | int = 0.25,
    recent: float | int = 0.5,
    sinks: int = 0,
    schedule: str = "every_step",
    average: bool = False,
) -> Decisions:
    """Heavy hitters by accumulated attention, and the recent half of the budget, at every step (2306.14048)."""
    scorer, chosen = HeavyHitters(average), _schedule(schedule)
    return {"keep": keep, "scorer": scorer, "sinks": sinks, "recent": recent, "schedule": chosen}


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
    if window < 1 or not 1 <= kernel_size <= _NEIGHBOURS or kernel_size % 2 == 0:
        raise PressSyntaxError(
            f"window={window} must be positive, and kernel_size={kernel_size} odd and at most {_NEIGHBOURS}: pooled "
            "over more neighbours, all slots score alike."
        )
    if pooling not in ("max", "avg") or reduce not in ("mean", "max", "sum"):
        raise PressSyntaxError(f'pooling={pooling!r} is "max" or "avg", reduce={reduce!r} is "mean", "max" or "sum".')
    schedule: Schedule = AfterPrefill(every_prompt)
    votes = WindowVotes(window, kernel_size, pooling, reduce)  # type: ignore[arg-type]
    return {"keep": keep, "scorer": votes, "sinks": 0, "recent": window, "schedule": schedule}


@preset("ada")
def ada(alpha: float = 0.2, mode: str = "interpolate") -> Decisions:
    """Slots of a layer go to the heads whose scores need them (2407.11550). Compose with an eviction press."""
    if mode not in ("interpolate", "floor") or not 0 <= alpha <= 1:
        raise PressSyntaxError(f'alpha={alpha} lies in [0, 1] and mode={mode!r} is "interpolate" or "floor".')
    return {"heads": AdaptiveHeads(alpha, mode)}  # type: ignore[arg-type]


@preset("criticalkv")
def criticalkv(ratio: float = 0.5, epsilon: float = 1e-4, protected: bool = False, share: bool = True) -> Decisions:
    """Attention first, then attention weighted by what values add to the output (2502.03805). Compose with a scorer."""
    if not 0 <= ratio <= 1 or epsilon < 0:
        raise PressSyntaxError(f"ratio={ratio} lies in [0, 1] and epsilon={epsilon} is not negative.")
    return {"refine": OutputPerturbation(ratio, epsilon, protected, share)}


@preset("minicache")
def minicache(
    start: float = 0.5,
    t: float = 0.6,
    retained: float = 0.05,
    rule: str = "ratio",
    gamma: float = 0.05,
    block: int = 32,
) -> Decisions:
    """Neighbouring layers share the directions of keys and values (2405.14366)."""
    inside = 0 <= start < 1 and 0 <= t <= 1 and 0 <= retained < 1 and 0 <= gamma <= 1
    if rule not in ("ratio", "range") or not inside or block < 1:
        raise PressSyntaxError(
            f'start={start}, t={t}, retained={retained} and gamma={gamma} are fractions, rule={rule!r} is "ratio" or '
            f'"range" and block={block} a number of slots.'
        )
    return {"sharer": SlerpPairs(start, t, retained, rule, gamma, block)}  # type: ignore[arg-type]


@preset("pyramid")
def pyramid(beta: float = 20.0, exact: bool = True, whole: bool = False) -> Decisions:
    """Slots fall linearly from the first layer to the last (2406.02069). Compose with an eviction press."""
    if beta < 1:
        raise PressSyntaxError(f"beta={beta} must be at least 1: the last layer gets 1 / beta of the average.")
    if beta == 1 and exact:  # the authors' rounding is another than that of a press without it
        raise PressSyntaxError(
            f"beta={beta} gives every layer what it gets without pyramid. Use more than 1, or leave pyramid out."
        )
    return {"layers": Pyramid(beta, exact, whole)}


@preset("zigzag")
def zigzag(tau: float = 0.9, floor: float = 0.2, window: int = 32) -> Decisions:
    """Layers get slots by how many their attention needs (2412.09036). Compose with an eviction press."""
    if not (0 < tau < 1 and 0 <= floor <= 1 and window >= 1):
        raise PressSyntaxError(f"tau={tau} lies in (0, 1), floor={floor} in [0, 1], window={window} is at least 1.")
    return {"layers": Uncertainty(tau, floor, window)}


@preset("pooled")
def pooled() -> Decisions:
    """Slots go to the layers whose scores need them, by one threshold for all. Compose with an eviction press."""
    return {"layers": Pooled()}


@preset("knorm")
def knorm(keep: float | int = 0.25, sinks: int = 0, recent: int = 0, skip: int = 0) -> Decisions:
    """Slots with the smallest keys, after the prompt; the first `skip` layers stay whole (2406.11430)."""
    if skip < 0:
        raise PressSyntaxError(f"skip={skip} is a number of layers and cannot be negative.")
    whole = {"layers": FirstWhole(skip)} if skip else {}
    return {"keep": keep, "scorer": KeyNorm(), "sinks": sinks, "recent": recent, "schedule": AfterPrefill(), **whole}


@preset("keydiff")
def keydiff(keep: float | int = 0.25, sinks: int = 0, recent: int = 0) -> Decisions:
    """Slots whose keys point away from the average key, after the prompt (2504.15364)."""
    return {"keep": keep, "scorer": KeyDifference(), "sinks": sinks, "recent": recent, "schedule": AfterPrefill()}


@preset("leverage")
def leverage(
    keep: float | int = 0.25,
    sinks: int = 8,
    recent: int = 4,
    sketch: int = 48,
    ridge: float = 0.0,
    keys: str = "unrotated",
    seed: int = 0,
) -> Decisions:
    """Slots whose keys the other keys cannot stand for: the leverage scores of Compactor (2507.08143)."""
    if not 0 <= sketch <= _WIDEST or ridge < 0:
        raise PressSyntaxError(
            f"sketch={sketch} is a width from 0 (exact) to {_WIDEST}, and ridge={ridge} cannot be negative."
        )
    if keys not in ("unrotated", "rotated"):
        raise PressSyntaxError(f'keys={keys!r}: use "unrotated" (the paper) or "rotated" (as they are cached).')
    scorer = Leverage(sketch, ridge, keys, seed)  # type: ignore[arg-type]
    return {"keep": keep, "scorer": scorer, "sinks": sinks, "recent": recent, "schedule": AfterPrefill()}


@preset("cur")
def cur(
    keep: float | int = 0.25,
    sinks: int = 4,
    recent: int = 0,
    combine: str = "product",
    window: int = 16,
    sketch: int = 0,
    seed: int = 0,
) -> Decisions:
    """Slots whose keys and values are large among their neighbours: CurDKV (2509.15038)."""
    if combine not in ("product", "mean", "key", "value"):
        raise PressSyntaxError(f'combine={combine!r}: use "product", "mean", "key" or "value".')
    if window < 0 or not 0 <= sketch <= _WIDEST:
        raise PressSyntaxError(
            f"window={window} cannot be negative, and sketch={sketch} is a width up to {_WIDEST}; 0 does without."
        )
    scorer = ValueGuided(combine, window, sketch, seed)  # type: ignore[arg-type]
    return {"keep": keep, "scorer": scorer, "sinks": sinks, "recent": recent, "schedule": AfterPrefill()}


@preset("lagkv")
def lagkv(keep: float | int = 0.25, sinks: int = 4, lag: int = 128, cross: bool = False) -> Decisions:
    """Tokens that stand out against the next partition of the prompt; its last partitions stay (2504.04704)."""
    if lag < 1:
        raise PressSyntaxError(f"lag={lag} must be a positive number of tokens.")
    return {
        "keep": keep,
        "scorer": LagRelative(lag, sinks, cross),
        "sinks": sinks,
        "recent": 0,
        "schedule": AfterPrefill(),
    }


@preset("expected_attention")
def expected_attention(
    keep: float | int = 0.25,
    sinks: int = 4,
    recent: int = 0,
    future: int = 512,
    epsilon: float = 0.0,
    covariance: bool = True,
    values: bool = True,
) -> Decisions:
    """Slots that queries still to come are expected to attend to, by their statistics (2510.00636)."""
    if not 1 <= future <= _AHEAD or epsilon < 0:
        raise PressSyntaxError(f"future={future} lies in [1, {_AHEAD}], and epsilon={epsilon} cannot be negative.")
    scorer = ExpectedAttention(future, sinks, epsilon, covariance, values)
    return {"keep": keep, "scorer": scorer, "sinks": sinks, "recent": recent, "schedule": AfterPrefill()}


@preset("kvzip")
def kvzip(
    keep: float | int = 0.25,
    sinks: int = 4,
    recent: int = 0,
    chunk: int = 2000,
    overlap: int = 8,
    spread: str = "all",
    whole: bool = False,
) -> Decisions:
    """Slots the model attends to when it repeats the prompt, which is read a second time (2505.23416)."""
    if chunk < 1 or overlap < 0 or spread not in ("all", "layer", "even"):
        raise PressSyntaxError(
            f'chunk={chunk} must be positive, overlap={overlap} not negative, and spread={spread!r} is "all" (the best '
            'slots of all layers and heads stay), "layer" (those of all heads of a layer) or "even".'
        )
    chosen: dict[str, Any] = {"keep": keep, "scorer": Reconstruction(chunk, overlap, sinks, whole), "sinks": sinks}
    if spread != "even":
        chosen["heads"] = AdaptiveHeads(alpha=0.0)
    if spread == "all":
        chosen["layers"] = Pooled()
    return chosen | {"recent": recent, "schedule": AfterPrefill()}


def list_presses() -> dict[str, str]:
    """Name of every press -> what it does, in one line."""
    return {name: PRESETS[name].summary for name in PRESETS}
