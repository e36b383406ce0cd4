"""Every decision of a press, resolved, and whether they can work together."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kvpress.errors import BudgetError, PressConflictError
from kvpress.evidence.bind import MOMENTS, SINKS, Asked, Binds, View
from kvpress.evidence.evidence import Needs
from kvpress.recipe.kinds import (
    TRAITS,
    AfterPrefill,
    Even,
    HeadBudget,
    LayerBudget,
    Merger,
    Pruner,
    Refiner,
    Schedule,
    Scorer,
    Selector,
    Sharer,
    check_traits,
)
from kvpress.storage.codec import Codec, Dense
from kvpress.storage.columns import ADDED, BIAS, MASS, Column
from kvpress.storage.pair import PairCodec, Split

if TYPE_CHECKING:
    from kvpress.evidence.premise import Premise


class MisfitError(PressConflictError):
    """Two decisions do not go together. instead: the recipes that would do, whose presses the message is to name."""

    def __init__(self, message: str, instead: Callable[[Recipe], bool]) -> None:
        super().__init__(message)
        self.instead = instead


@dataclass(frozen=True)
class Recipe:
    """Every decision of a press, resolved. What a preset does not decide stays at these defaults.

    keep: fraction of the real tokens of a row, or slots per KV head (on average, where heads or layers differ). refine:
    changes scores once the budgets of heads are known. merge: what becomes of dropped slots. layers: None gives every
    layer the same. channels: which channels are stored, None = all. sharer: which layers store something in common.
    selector: which pages decoded tokens read, None = all. sinks: first tokens that always stay. recent: last tokens
    that always stay, as a count or as a fraction of the slots kept. residual: newest slots per head that stay dense
    when slots are packed. positions: "keep" leaves keys as they were rotated, "slots" rotates the sinks along with the
    window, so that positions are those inside the cache. owners:
    which part of a press decided a field, for messages.
    """

    keep: float | int = 1.0
    scorer: Scorer | None = None
    refine: Refiner | None = None
    merge: Merger | None = None
    heads: HeadBudget = Even()
    layers: LayerBudget | None = None
    key: Codec = Dense()
    value: Codec = Dense()
    channels: Pruner | None = None
    sharer: Sharer | None = None
    selector: Selector | None = None
    schedule: Schedule = AfterPrefill()
    sinks: int = 0
    recent: int | float = 0
    residual: int = 0
    positions: str = "keep"
    owners: tuple[tuple[str, str], ...] = field(default=(), compare=False)

    @cached_property
    def needs(self) -> Needs:
        """What has to be observed for this recipe; nothing where nothing is evicted."""
        needs = Needs() if self.channels is None else self.channels.needs
        if self.scorer is not None and self.evicts:
            needs |= self.scorer.needs
            for other in (self.layers, self.refine, self.merge):
                if other is not None:
                    needs |= other.needs
        return needs

    @cached_property
    def premises(self) -> tuple[Premise, ...]:
        """What its decisions take for granted of a model, each once."""
        chosen = (self.scorer, self.refine, self.merge, self.layers) if self.evicts else ()
        decisions = (*chosen, self.channels, self.sharer, self.selector, self.key, self.value)
        found = (getattr(decision, "premise", None) for decision in decisions)
        return tuple(dict.fromkeys(premise for premise in found if premise is not None))

    @cached_property
    def evicts(self) -> bool:
        """Some slots are dropped: there is a scorer, and keep is less than everything."""
        return self.scorer is not None and self.keep != 1.0

    @cached_property
    def together(self) -> bool:
        """All layers have to be read before the press can be applied to any."""
        spread = self.evicts and self.layers is not None
        return self.sharer is not None or self.needs.repeat is not None or spread

    @cached_property
    def compares(self) -> str:
        """The budget that compares scores of different heads, "" for none."""
        if self.heads.compares:
            return self.by("heads")
        return self.by("layers") if self.layers is not None and self.layers.compares else ""

    @cached_property
    def unfinished(self) -> bool:
        """It says how slots are chosen or spread, but nothing scores them: a part of a press, not to be entered."""
        parts = (self.layers, self.refine, self.merge)
        spreads = any(part is not None for part in parts) or self.heads.compares or self.schedule.interval
        return self.scorer is None and bool(spreads)

    @cached_property
    def asks_again(self) -> bool:
        """Slots are chosen again after the first prompt, so that what scores them goes on being gathered."""
        return self.schedule.every_prompt or self.schedule.interval > 0

    def by(self, name: str) -> str:
        """The part of the press that decided the field `name`."""
        return dict(self.owners).get(name) or type(getattr(self, name)).__name__

    @cached_property
    def waits(self) -> str | None:
        """Why the press can only be applied to a whole prompt; None where it may be after every chunk of one."""
        if self.positions == "slots" and not self.in_place:
            return "it moves the sinks once, when the prompt is complete"
        deciding = (self.scorer, self.layers) if self.evicts else ()
        for decision in (*deciding, self.channels):
            unsaid = f"{type(decision).__name__} does not declare that it may choose earlier (waits)"
            if decision is not None and (why := getattr(decision, "waits", unsaid)):
                return str(why)
        return None

    @cached_property
    def rotates(self) -> bool:
        """Keys or queries are moved to other positions, which takes the model's rotary embedding."""
        asked = Asked()
        with contextlib.suppress(Exception):  # a method may want to see the weights that it asks for
            self.bind(asked, 0)
        return "rotation" in asked.names

    def bind(self, view: View, layer: int) -> dict[Any, Any]:
        """What the decisions need of one layer of a model, by decision."""
        chosen = (self.scorer, self.refine, self.merge, self.heads, self.layers) if self.evicts else ()
        decisions = (*chosen, self.channels, self.sharer, self.selector, self.key, self.value)
        given: dict[Any, Any] = {one: one.bind(view, layer) for one in decisions if isinstance(one, Binds)}
        if self.needs.moments:
            given[MOMENTS] = view.rotation(layer)
        if self.positions == "slots":
            given[SINKS] = view.rotation(layer)
        return given

    @cached_property
    def block(self) -> int:
        """Slots are packed in multiples of this; 0 = what is stored is exact."""
        return self.codec_block if self.sharer is None else math.lcm(max(1, self.codec_block), self.sharer.block)

    @cached_property
    def stored(self) -> PairCodec:
        """How the slots of one layer are stored, in the channels that stay."""
        split = Split(self.key, self.value)
        return split if self.channels is None else self.channels.around(split)

    @cached_property
    def loads(self) -> PairCodec:
        """As `stored`, for whatever a saved cache may hold."""
        return self.stored if self.sharer is None else self.sharer.around(self.stored)

    @cached_property
    def codec_block(self) -> int:
        """As `block`, for a layer that shares with no other."""
        return self.stored.block if self.selector is None else math.lcm(max(1, self.stored.block), self.selector.page)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """What is known of every slot besides its position."""
        received = (MASS,) if self.needs.mass else ()
        added = (ADDED,) if self.refine is not None and self.evicts and self.in_place else ()
        merged = (BIAS,) if self.merge is not None and self.evicts else ()
        return received + added + merged

    @cached_property
    def in_place(self) -> bool:
        """Evicted slots are overwritten by the next token, so that nothing is copied while decoding."""
        one_by_one = self.schedule.interval == 1 and not self.schedule.decoded
        return one_by_one and self.block == 0 and self.channels is None and self.merge is None

    def check(self) -> None:
        """Raise for decisions that cannot work together, and for a budget its protected slots leave no room in."""
        for name in TRAITS:
            check_traits(name, getattr(self, name))
        if self.compares and self.scorer is not None and not getattr(self.scorer, "comparable", False):
            raise MisfitError(
                f"scores of {self.by('scorer')} mean nothing across heads, so {self.compares} cannot compare heads by "
                "them. Use it with a press whose scores are on one scale",
                lambda recipe: bool(getattr(recipe.scorer, "comparable", False)),
            )
        if self.refine is not None and self.scorer is not None and not getattr(self.scorer, "attention", False):
            raise MisfitError(
                f"{self.by('refine')} weights attention by what a value adds to the output, and scores of "
                f"{self.by('scorer')} are not what the slots of each head get of it, or are weighted by values "
                "already. Use it with a press that scores by attention",
                lambda recipe: bool(getattr(recipe.scorer, "attention", False)),
            )
        if self.sharer is not None:
            for other, reason in (
                (self.layers, "a layer budget gives its two layers different numbers of slots"),
                (self.schedule.interval or None, "evicting at every step is decided in each layer alone"),
                (self.selector, "which pages are read is decided in each layer alone"),
                (self.merge, "dropped slots go into slots of each of its two layers"),
                (self.channels, "other channels are dropped in each of its two layers"),
            ):
                if other is not None:
                    raise PressConflictError(
                        f"{self.by('sharer')} stores something once for two layers, which must hold the same slots and "
                        f"channels, and {reason}. Use one of them."
                    )
        if self.needs.repeat is not None and self.schedule.interval:
            raise PressConflictError(
                f"{self.by('scorer')} scores slots by a second reading of the prompt, and there is none while "
                "decoding. Use one of them, or a schedule that chooses once, after the prompt."
            )
        if self.selector is not None and self.needs.mass and (self.schedule.interval or self.schedule.every_prompt):
            raise PressConflictError(
                f"{self.by('selector')} lets decoded tokens read some slots only, and {self.by('scorer')} goes by the "
                "attention slots get from them. Use one of them, or a schedule that chooses once, after the prompt."
            )
        if self.schedule.decoded and self.layers is not None:
            raise PressConflictError(
                f"{self.by('layers')} spreads the slots of a prompt over layers, and {self.by('schedule')} chooses "
                "among decoded slots alone, in each layer. Use one of them."
            )
        if self.positions == "slots" and (self.block or self.merge is not None):
            what = f"{self.key.name} storage" if self.stored.block else self.by("merge" if self.merge else "selector")
            raise PressConflictError(
                f'positions="slots" of {self.by("positions")} moves stored keys at every step, which {what} cannot: '
                'what is packed or merged never changes. Use it with positions="keep".'
            )
        if self.positions == "slots" and self.schedule.interval and not self.in_place:
            raise PressConflictError(
                f'positions="slots" of {self.by("positions")} moves the sinks whenever a slot goes, one at a time, and '
                f'{self.by("schedule")} lets several go at once. Use it with positions="keep".'
            )
        if min(self.sinks, self.recent, self.residual) < 0 or (isinstance(self.recent, float) and self.recent > 1):
            raise BudgetError(
                f"sinks={self.sinks}, recent={self.recent} and residual={self.residual} count slots and cannot be "
                "negative; a fraction as `recent` lies in [0, 1]."
            )
        if isinstance(self.keep, int):
            fixed = self.sinks + (self.recent if isinstance(self.recent, int) else 0)
            if self.keep <= fixed:
                raise BudgetError(
                    f"keep={self.keep} slots leaves no choice: {fixed} are always kept (sinks {self.sinks}, "
                    f"recent {self.recent}). Keep more than {fixed}, or protect fewer."
                )

    def serves(self, layers: int) -> None:
        """Raise PressConflictError where a decision would change nothing in a model of so many full layers."""
        for decision in (self.sharer, self.layers if self.evicts else None):
            if check := getattr(decision, "check_layers", None):
                check(layers)

    def fits(self, key: int, value: int | None = None) -> None:
        """Raise PressConflictError where keys of `key` channels and values of `value` (as many) cannot be stored."""
        self.stored.check(key, key if value is None else value)
