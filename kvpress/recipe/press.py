"""A press: an immutable recipe that prints as text, parses back from it, and composes with ``|``.

``name@whose`` is a press with the settings of somebody else:

``@paper``        what the paper describes. The plain press has this library's defaults, which may be the same.
``@authors``      the authors' code, where it differs from the paper and gave the published figures.
``@kvpress``      NVIDIA's kvpress.   ``@factory``  KVCache-Factory, whose tables many later papers quote.

Where a paper names no share to keep, or many, `keep` is one of its tables'; give another. Budgets over heads and layers
and storage come composed: ``pyramid@authors | snapkv@factory`` are the rows of PyramidKV.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from functools import cached_property
from importlib import import_module
from typing import Any

from kvpress.errors import KVPressError, PressConflictError, PressSyntaxError
from kvpress.recipe.kinds import Decisions
from kvpress.recipe.plugins import load_plugins
from kvpress.recipe.recipe import MisfitError, Recipe
from kvpress.recipe.text import Value, arguments, clean, split
from kvpress.registry import Registry

_TOP = __name__.partition(".")[0]
Builder = Callable[..., Decisions]


@dataclass(frozen=True)
class Preset:
    """A named way to fill a Recipe. build: its arguments to the decisions it makes. unsettled: why it has no
    ``@paper``, "" where it has, or needs none. small: its arguments as text, for prompts of thirty tokens, which the
    contract tests read.
    """

    name: str
    build: Builder
    summary: str
    signature: inspect.Signature = field(compare=False)
    unsettled: str = ""
    small: str = ""

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


def _load_all() -> None:
    """Whoever imports this module alone knows every press too, and can enter one."""
    import_module(_TOP)._load()


PRESETS: Registry[Preset] = Registry(
    "press",
    Preset,
    origin=lambda preset: preset.build.__module__,
    more=load_plugins,
    listing="kvpress list presses",
    first=_load_all,
)


def preset(name: str, unsettled: str = "", small: str = "") -> Callable[[Builder], Preset]:
    """Decorator: register a function from arguments to decisions as the press `name`. The others: as of a Preset."""

    def wrap(build: Builder) -> Preset:
        if build.__module__.partition(".")[0] != _TOP:
            PRESETS.ready()  # so that a name that is taken is refused here and not where ours are brought in
        summary = (inspect.getdoc(build) or "").split("\n")[0]
        made = Preset(name, build, summary, _with_texts(inspect.signature(build)), unsettled, small)
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
        except MisfitError as error:
            raise PressConflictError(f"{self}: {error} ({like(error.instead)}).") from None
        except PressConflictError as error:
            raise PressConflictError(f"{self}: {error}") from None

    def ready(self) -> None:
        """Raise PressConflictError for a press that is only a part of one: it may be composed, but not entered."""
        if not self.recipe.unfinished:
            return
        recipe = self.recipe
        does = "refines scores" if recipe.refine is not None else "says how slots are spread over heads or layers"
        if recipe.refine is None and recipe.layers is None and not recipe.heads.compares:
            does = "says when slots are chosen" if recipe.merge is None else "says what becomes of dropped slots"
        raise PressConflictError(
            f"{self} {does}, but nothing scores slots and drops any. Compose it with a press that does, for example "
            f"{self} | {like(_by_attention, 1)}(keep=0.25)."
        )

    @cached_property
    def recipe(self) -> Recipe:
        """Every decision, resolved. Two parts that decide the same thing are a PressConflictError."""
        chosen: dict[str, Any] = {}
        owner: dict[str, str] = {}
        alone: set[str] = set()  # decided by a part that decides nothing else
        names = {f.name for f in fields(Recipe)} - {"owners"}
        for part in self.parts:
            decided = part.decisions()
            if not decided and len(self.parts) > 1:
                raise PressConflictError(f"{part.name} decides nothing, so it is a press by itself only; leave it out.")
            for name, value in decided.items():
                assert name in names, name
                sole = len(decided) == 1
                if name == "residual" and name in chosen:  # slots that stay dense: the larger wish holds for both
                    value = max(value, chosen[name])
                elif name == "schedule" and name in chosen and sole != (name in alone):
                    if name in alone:  # that of a part that decides nothing else holds, whatever the scorer's own is
                        continue
                elif name in chosen:
                    raise PressConflictError(
                        f"{owner[name]} and {part.name} both decide {_WORDS.get(name, name)}; use one of them."
                    )
                chosen[name], owner[name] = value, part.name
                if sole:
                    alone.add(name)
        return Recipe(**chosen, owners=tuple(owner.items()))

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

    def __call__(self, model: Any) -> AbstractContextManager[Any]:
        """Context manager that runs `model` under this press and restores it exactly on leaving. It gives the Session.

        Raises PressConflictError for a part of a press, UnsupportedError for a model that cannot be served
        exactly, SessionError when the model is under a press already.
        """
        self.ready()
        PRESETS.ready()  # with everything that the package names, the way to enter a press is there too
        return _openers[0](self, model)


_WORDS = {
    "scorer": "which slots stay",
    "refine": "how scores are refined",
    "merge": "what becomes of dropped slots",
    "heads": "how slots are spread over heads",
    "layers": "how slots are spread over layers",
    "keep": "how many slots stay",
    "key": "how keys are stored",
    "value": "how values are stored",
    "channels": "which channels stay",
    "sharer": "which layers share",
    "selector": "which pages are read",
    "schedule": "when slots are chosen",
}

Opener = Callable[[Press, Any], AbstractContextManager[Any]]
_openers: list[Opener] = []


def opens(opener: Opener) -> Opener:
    """Decorator: what entering a press on a model does. Sessions are above recipes, which know nothing of models."""
    _openers[:] = [opener]
    return opener


def like(fits: Callable[[Recipe], bool], most: int = 3) -> str:
    """Names of some presses whose recipe `fits`, for messages that say what to use instead."""
    found = []
    for name in PRESETS:
        try:
            decided = {} if "@" in name else Part(name).decisions()
        except KVPressError:  # it has no defaults
            continue
        recipe = Recipe(**decided)
        if decided and not recipe.unfinished and fits(recipe):
            found.append(name)
    return ", ".join(found[:most])


def _by_attention(recipe: Recipe) -> bool:
    return bool(getattr(recipe.scorer, "attention", False))


def reads_once(recipe: Recipe) -> bool:
    """It drops slots by attention, and the prompt is read once."""
    return recipe.evicts and recipe.needs.repeat is None and _by_attention(recipe)


def list_presses() -> dict[str, str]:
    """Name of every press -> what it does, in one line."""
    return {name: PRESETS[name].summary for name in PRESETS}
