"""Presses at equal bytes: the free parameter of a press is found so that the ledger shows what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import PreTrainedModel

from kvpress.cache.cache import PressCache
from kvpress.errors import BudgetError, short
from kvpress.plan.amounts import bytes_of
from kvpress.plan.search import STEPS, Search
from kvpress.recipe.press import PRESETS, Part, Press

_FRACTIONS = ("keep", "keep_channels")
_CHOICES = {"bits": (2, 4, 8)}
_CLOSE = 0.02
_AROUND = 24  # slots


@dataclass(frozen=True)
class Solved:
    """A press whose free parameter was found. bytes: what its cache holds; dense: the same tokens dense."""

    press: Press
    bytes: int
    dense: int


def check(press: Press, target: str | float | int) -> None:
    """Raise BudgetError where `press` has no free parameter or `target` is no amount; needs no model."""
    _free(press)
    bytes_of(target, 1 << 62)


def solve(press: Press, model: PreTrainedModel, length: int, target: str | float | int) -> Solved:
    """Find the free parameter of `press` so that a cache of `length` tokens holds at most `target` bytes.

    The free parameter is `keep` of the part that has one and was not given it, else `keep_channels`, else `bits`.
    The largest value whose cache fits is taken; every candidate's bytes are read from the ledger of a cache that
    `model` really filled, with random tokens.

    target: "12.5%" of the dense cache, "512MiB" ("KiB", "GiB", "B"), an int of bytes, or a fraction in (0, 1).
    Raises BudgetError when there is no free parameter, or no value of it comes within 2 % under the target; the
    message says what is reachable.
    """
    number, name = _free(press)
    ruler = _Ruler(model, length)
    wanted = bytes_of(target, ruler.dense)
    presses: dict[float, Press] = {}

    def at(value: float) -> int:
        part = press.parts[number]
        given = tuple(sorted({**dict(part.given), name: value}.items()))
        names = list(PRESETS[part.name].signature.parameters)
        given = tuple(sorted(given, key=lambda pair: names.index(pair[0])))
        presses[value] = Press((*press.parts[:number], Part(part.name, given), *press.parts[number + 1 :]))
        return ruler.measure(presses[value])

    sizes: dict[float, int]
    if name in _CHOICES:
        sizes = {value: at(value) for value in _CHOICES[name]}
    else:  # a head that packs blocks of slots holds fewer bytes each time one is full
        block = press.recipe.block if name == "keep" else 0
        first = press.recipe.residual + block if block else 0
        sizes = Search(at, wanted, STEPS * block / length, STEPS * first / length).search()
    best = _best(sizes, wanted)
    if name == "keep" and press.recipe.block and (best is None or sizes[best] < (1 - _CLOSE) * wanted):
        sizes |= Search(at, wanted).search()  # as if bytes only grew: somewhere near is what fits
        best = _best(sizes, wanted)
        best = None if best is None else _nearer(at, sizes, best, wanted, length)
    if best is None or sizes[best] < (1 - _CLOSE) * wanted:
        raise BudgetError(
            f"{short(press)} cannot hold {wanted:,} bytes ({wanted / ruler.dense:.1%} of {length} tokens dense) "
            f"by its {name}: it reaches {_reach(at, sizes, ruler.dense)}"
            + (f" in steps of {_CHOICES[name]}" if name in _CHOICES else "")
            + (f"; {sizes[best] / ruler.dense:.1%} fits" if best is not None and best != max(sizes) else "")
            + ". Ask for another share, or compose it."
        )
    return Solved(presses[best], sizes[best], ruler.dense)


def _best(sizes: Mapping[float, int], wanted: int) -> float | None:
    return max((value for value, size in sizes.items() if size <= wanted), default=None)


def _nearer(at: Callable[[float], int], sizes: dict[float, int], best: float, wanted: int, length: int) -> float:
    """A fraction some slots around `best` whose bytes are as close under `wanted` as they must be, if there is one.

    Where heads hold different numbers of slots each fills its blocks at another fraction, and bytes jump to and fro.
    """
    if sizes[best] == wanted or best == 1:
        return best
    for slots in sorted(range(-_AROUND, _AROUND + 1), key=abs):
        value = round(best + slots / length, 4)
        if not 0 < value < 1:
            continue
        if value not in sizes:
            try:
                sizes[value] = at(value)
            except BudgetError:
                continue
        if (1 - _CLOSE) * wanted <= sizes[value] <= wanted:
            return value
    return best


@dataclass
class _Ruler:
    """Bytes of presses on one prompt of random tokens.

    The prompt is read once for all presses that look at the same evidence: what is read before a press fires does not
    depend on how much it keeps, and a compressed fork of it holds what a prompt read under the press holds.
    """

    model: PreTrainedModel
    length: int
    read: PressCache | None = None

    @cached_property
    def _ids(self) -> torch.Tensor:
        high = int(self.model.config.get_text_config().vocab_size)
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, high, (1, self.length), generator=generator, dtype=torch.int64, device="cpu").to(
            self.model.device
        )

    @cached_property
    def dense(self) -> int:
        with Press((Part("full"),))(self.model) as session:
            self.read = session.prefill(self._ids, compress=False)
            return self.read.dense_nbytes()

    def measure(self, press: Press) -> int:
        recipe = press.recipe
        with press(self.model) as session:
            known = None if self.read is None else self.read.press.recipe
            if self.read is None or known is None or (known.needs, known.sharer) != (recipe.needs, recipe.sharer):
                self.read = session.prefill(self._ids, compress=False)
            cache = self.read.fork()
            cache.press = press
            for layer in cache.stores:
                layer.recipe = recipe
            session.compress(cache)
            return cache.nbytes()


def _free(press: Press) -> tuple[int, str]:
    for name in (*_FRACTIONS, *_CHOICES):
        for number, part in enumerate(press.parts):
            if name in PRESETS[part.name].signature.parameters and name not in dict(part.given):
                return number, name
    raise BudgetError(
        f"{short(press)} leaves nothing to solve for: leave out keep, keep_channels or bits, and its value is found."
    )


def _reach(at: Callable[[float], int], sizes: Mapping[float, int], dense: int) -> str:
    """What a press can hold, in words: `0.4% to 15.6%`."""
    if len(sizes) == 1:  # the largest value was all that was tried
        try:
            sizes = {**sizes, 1 / STEPS: at(1 / STEPS)}
        except BudgetError:
            return f"at most {max(sizes.values()) / dense:.1%}"
    return f"{min(sizes.values()) / dense:.1%} to {max(sizes.values()) / dense:.1%}"
