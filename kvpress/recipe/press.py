"""A press: an immutable recipe that prints as text, parses back from it, and composes with ``|``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kvpress.errors import BudgetError, PressConflictError, PressSyntaxError
from kvpress.evidence.evidence import Needs
from kvpress.policies.base import AfterPrefill, Even, HeadBudget, LayerBudget, Refiner, Schedule, Scorer, Sharer
from kvpress.recipe.plugins import load_plugins
from kvpress.recipe.text import Value, arguments, clean, split
from kvpress.registry import Registry
from kvpress.storage.codec import Codec, Dense
from kvpress.storage.columns import ADDED, MASS, Column
from kvpress.storage.pair import PairCodec, Split

if TYPE_CHECKING:
    from kvpress.evidence.premise import Premise
    from kvpress.quant.think import Channels
    from kvpress.session.session import Session

Decisions = Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """Every decision of a press, resolved. What a preset does not decide stays at these defaults.

    keep: fraction of the real tokens of a row, or slots per KV head (on average, where heads or layers
    differ). refine: changes scores once the budgets of heads are known. layers: None gives every layer the same.
    channels: which channels are stored, None = all. sharer: which layers store something in common. sinks: first
    tokens that always stay. recent: last tokens that always stay, as a count or as a fraction of the slots kept.
    residual: newest slots per head that stay dense when slots are packed. positions: "keep" leaves keys as they were
    rotated, "slots" rotates the sinks along with the window, so that positions are those inside the cache.
    """

    keep: float | int = 1.0
    scorer: Scorer | None = None
    refine: Refiner | None = None
    heads: HeadBudget = Even()
    layers: LayerBudget | None = None
    key: Codec = Dense()
    value: Codec = Dense()
    channels: Channels | None = None
    sharer: Sharer | None = None
    schedule: Schedule = AfterPrefill()
    sinks: int = 0
    recent: int | float = 0
    residual: int = 0
    positions: str = "keep"

    @cached_property
    def needs(self) -> Needs:
        """What has to be observed for this recipe; nothing where nothing is evicted."""
        needs = Needs() if self.channels is None else self.channels.needs
        if self.scorer is not None and self.evicts:
            needs |= self.scorer.needs
            for other in (self.layers, self.refine):
                if other is not None:
                    needs |= other.needs
        return needs

    @cached_property
    def premises(self) -> tuple[Premise, ...]:
        """What its decisions take for granted of a model, each once."""
        chosen = (self.scorer, self.refine, self.layers) if self.evicts else ()
        decisions = (*chosen, self.channels, self.sharer, self.key, self.value)
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
            return "ada"
        return "pooled" if self.layers is not None and self.layers.compares else ""

    @cached_property
    def waits(self) -> str | None:
        """Why the press can only be applied to a whole prompt; None where it may be after every chunk of one."""
        deciding = (self.scorer, self.layers) if self.evicts else ()
        for decision in (*deciding, self.channels):
            unsaid = f"{type(decision).__name__} does not declare that it may choose earlier (waits)"
            if decision is not None and (why := getattr(decision, "waits", unsaid)):
                return str(why)
        return None

    @cached_property
    def rotates(self) -> bool:
        """Keys or queries are moved to other positions, which takes the model's rotary embedding."""
        return self.positions == "slots" or self.needs.rotates

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
        return self.stored.block

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """What is known of every slot besides its position."""
        received = (MASS,) if self.needs.mass else ()
        added = (ADDED,) if self.refine is not None and self.evicts and self.in_place else ()
        return received + added

    @cached_property
    def in_place(self) -> bool:
        """Evicted slots are overwritten by the next token, so that nothing is copied while decoding."""
        return self.schedule.continuous and self.block == 0 and self.channels is None

    def check(self) -> None:
        """Raise for decisions that cannot work together, and for a budget its protected slots leave no room in."""
        if self.compares and self.scorer is not None and not getattr(self.scorer, "comparable", False):
            raise PressConflictError(
                f"{type(self.scorer).__name__} scores mean nothing across heads, so {self.compares} cannot compare "
                "heads by them. Use it with a press that scores by attention (snapkv, h2o, expected_attention)."
            )
        if self.refine is not None and self.scorer is not None and not getattr(self.scorer, "attention", False):
            raise PressConflictError(
                f"criticalkv weights attention by what a value adds to the output, and {type(self.scorer).__name__} "
                "scores are not what the slots of each head get of it, or are weighted by values already. Use "
                "criticalkv with snapkv, h2o or expected_attention(values=false)."
            )
        if self.sharer is not None:
            for other, reason in (
                (self.layers, "a layer budget gives its two layers different numbers of slots"),
                (self.schedule.continuous or None, "evicting at every step is decided in each layer alone"),
                (self.channels, "think drops other channels in each of its two layers"),
            ):
                if other is not None:
                    raise PressConflictError(
                        "minicache stores one direction for two layers, which must hold the same slots and channels, "
                        f"and {reason}. Use one of them."
                    )
        if self.needs.repeat is not None and self.schedule.continuous:
            raise PressConflictError(
                f"{type(self.scorer).__name__} scores slots by a second reading of the prompt, and there is none while "
                "decoding. Use it with a schedule that chooses once, after the prompt."
            )
        if self.positions == "slots" and self.block:
            raise PressConflictError(
                f'positions="slots" (streaming_llm) moves stored keys at every step, which {self.key.name} storage '
                'cannot: what is packed never changes. Use streaming_llm(positions="keep") with it.'
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


Builder = Callable[..., Decisions]


@dataclass(frozen=True)
class Preset:
    """A named way to fill a Recipe. build: its arguments to the decisions it makes."""

    name: str
    build: Builder
    summary: str
    signature: inspect.Signature = field(compare=False)

    def __call__(self, **arguments: Any) -> Press:
        return Press((Part(self.name, tuple(self._clean(arguments).items())),))

    def _clean(self, arguments: Mapping[str, Any]) -> dict[str, Value]:
        return clean(self.name, {name: p.annotation for name, p in self.signature.parameters.items()}, arguments)

    def resolved(self, given: Mapping[str, Value]) -> dict[str, Value]:
        """All arguments with their values, defaults included."""
        return {name: given.get(name, p.default) for name, p in self.signature.parameters.items()}


def _with_texts(signature: inspect.Signature) -> inspect.Signature:
    """Annotations as text, whether or not the module of a preset postpones their evaluation."""

    def text(annotation: Any) -> str:
        if isinstance(annotation, str):
            return annotation
        return annotation.__name__ if isinstance(annotation, type) else str(annotation)

    return signature.replace(
        parameters=[p.replace(annotation=text(p.annotation)) for p in signature.parameters.values()]
    )


def _load_presets() -> None:
    """Whoever imports this module alone knows every press too."""
    for name in ("presets", "variants"):
        import_module(f"kvpress.recipe.{name}")


PRESETS: Registry[Preset] = Registry(
    "press",
    origin=lambda preset: preset.build.__module__,
    more=load_plugins,
    listing="kvpress list presses",
    first=_load_presets,
)


def preset(name: str) -> Callable[[Builder], Preset]:
    """Decorator: register a function from arguments to decisions as the press `name`."""

    def wrap(build: Builder) -> Preset:
        if build.__module__.partition(".")[0] != "kvpress":
            PRESETS.ready()  # so that a name that is taken is refused here and not where ours are brought in
        summary = (inspect.getdoc(build) or "").split("\n")[0]
        made = Preset(name, build, summary, _with_texts(inspect.signature(build)))
        PRESETS.register(name)(made)
        return made

    return wrap


def variant(base: Preset, name: str, summary: str, **defaults: Value) -> Preset:
    """Register `base@name`: the same press with other defaults, for a paper's or another library's setting."""
    parameters = [
        p.replace(default=defaults[p.name]) if p.name in defaults else p for p in base.signature.parameters.values()
    ]
    made = Preset(f"{base.name}@{name}", base.build, summary, inspect.Signature(parameters))
    PRESETS.register(made.name)(made)
    return made


@dataclass(frozen=True)
class Part:
    """One preset with the arguments that were given."""

    name: str
    given: tuple[tuple[str, Value], ...] = ()

    def decisions(self) -> Decisions:
        chosen = PRESETS[self.name]
        try:
            return chosen.build(**chosen.resolved(dict(self.given)))
        except TypeError as error:
            raise PressSyntaxError(f"{self.name}: {error}") from error

    def text(self, resolved: bool) -> str:
        given = dict(self.given)
        values = PRESETS[self.name].resolved(given) if resolved else given
        inside = ", ".join(f"{name}={_show(value)}" for name, value in values.items())
        return f"{self.name}({inside})" if inside else self.name


def _show(value: Value) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


@dataclass(frozen=True)
class Press:
    """An immutable, hashable recipe without a model.

    ``str(press)`` is its canonical text, ``Press.parse`` reads it back, ``a | b`` composes two presses that
    decide different things, ``with press(model) as session:`` applies it to a model.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        try:
            self.recipe.check()
        except PressConflictError as error:
            raise PressConflictError(f"{self}: {error}") from None

    def ready(self) -> None:
        """Raise PressConflictError for a press that is only a part of one: it may be composed, but not entered."""
        if self.recipe.scorer is None and self.recipe.refine is not None:
            raise PressConflictError(
                f"{self} refines scores by what values add to the output, but nothing gives any. Compose it with a "
                "press that scores by attention, for example criticalkv | snapkv(keep=0.25)."
            )
        if self.recipe.scorer is None and (self.recipe.layers is not None or self.recipe.heads.compares):
            raise PressConflictError(
                f"{self} says how slots are spread over heads or layers, but nothing evicts any. Compose it with an "
                "eviction press, for example ada | snapkv(keep=0.25)."
            )

    @cached_property
    def recipe(self) -> Recipe:
        """Every decision, resolved. Two parts that decide the same thing are a PressConflictError."""
        chosen: dict[str, Any] = {}
        owner: dict[str, str] = {}
        names = {f.name for f in fields(Recipe)}
        for part in self.parts:
            decided = part.decisions()
            if not decided and len(self.parts) > 1:
                raise PressConflictError(f"{part.name} decides nothing, so it is a press by itself only; leave it out.")
            for name, value in decided.items():
                assert name in names, name
                if name == "residual" and name in chosen:  # slots that stay dense: the larger wish holds for both
                    value = max(value, chosen[name])
                elif name in chosen:
                    raise PressConflictError(
                        f"{owner[name]} and {part.name} both decide {_WORDS.get(name, name)}; use one of them."
                    )
                chosen[name], owner[name] = value, part.name
        return Recipe(**chosen)

    def __or__(self, other: Press) -> Press:
        return Press(self.parts + other.parts)

    def __str__(self) -> str:
        return " | ".join(part.text(resolved=False) for part in self.parts)

    def spec(self) -> str:
        """The text with every argument, defaults included; parses back to the same recipe."""
        return " | ".join(part.text(resolved=True) for part in self.parts)

    @staticmethod
    def parse(text: str) -> Press:
        """Read ``name(arg=value, ...) | name ...``.

        Raises PressSyntaxError with the offending part, and KVPressError with suggestions for a wrong name.
        """
        presses = []
        for name, inside in split(text):
            chosen = PRESETS[name]
            presses.append(chosen(**arguments(name, inside, list(chosen.signature.parameters))))
        return Press(tuple(part for press in presses for part in press.parts))

    def __call__(self, model: Any) -> AbstractContextManager[Session]:
        """Context manager that runs `model` under this press and restores it exactly on leaving.

        Raises PressConflictError for a part of a press, UnsupportedError for a model that cannot be served
        exactly, SessionError when the model is under a press already.
        """
        from kvpress.session.session import open_session

        self.ready()
        return open_session(self, model)


_WORDS = {
    "scorer": "which slots stay",
    "refine": "how scores are refined",
    "heads": "how slots are spread over heads",
    "layers": "how slots are spread over layers",
    "keep": "how many slots stay",
    "key": "how keys are stored",
    "value": "how values are stored",
    "channels": "which channels stay",
    "sharer": "which layers share",
    "schedule": "when slots are chosen",
}
