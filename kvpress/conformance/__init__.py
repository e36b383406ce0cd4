"""Does a method keep the promises of kvpress? The checks a method of the library passes, for one from anywhere.

``kvpress check my_package:MyScorer`` prints what `run` finds. It takes seconds, needs no network and no GPU: the model
is a tiny random one, made in code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kvpress.checks import Check
from kvpress.conformance import budgets, codecs, refiners, scores, sessions, storage
from kvpress.conformance.case import Case
from kvpress.conformance.codecs import Format
from kvpress.conformance.protocol import KINDS, follow
from kvpress.conformance.target import MADE, at_every_step, resolved
from kvpress.conformance.trial import BrokenError, InapplicableError, Trial, attempt_all
from kvpress.errors import KVPressError, PressConflictError
from kvpress.recipe.press import Press
from kvpress.storage.codec import Codec, Dense

__all__ = ["Check", "run"]

_KIVI = "kivi(bits=4, group=4, residual=5)"
_ADA, _RANDOM, _H2O = "ada", "random(keep=0.4, sinks=2, recent=4)", "h2o(keep=0.4)"
_COMPOSED = "A scorer sees decoded slots and a codec slots with gaps: read block.pos, and keep codes as they are."
_PROTOCOL = 'See CONTRIBUTING.md, "a method outside the tree".'


def run(target: object) -> list[Check]:
    """Check a method, one finding a promise; names begin with the invariant (I1 .. I11) they are about.

    target: ``"module:Name"`` of a scorer, a head or layer budget, a codec, or a preset, with arguments in brackets
    where it needs some; a press text, which may hold such names (``"mine(keep=0.4) | kivi(bits=4)"``); or such an
    object itself. Nothing is raised for what is wrong with the method: it is a Check with status "fail". A check that
    makes no sense for the method has status "skip" and says why.
    """
    try:
        with resolved(target) as press:
            return _check(press)
    except (BrokenError, KVPressError) as error:
        return [Check("protocol", "fail", str(error), _PROTOCOL)]


def _check(press: Press) -> list[Check]:
    try:
        case = Case.of(press)
    except PressConflictError as error:
        return [Check("protocol", "fail", str(error), "check(head_dim) of the codec must accept one of those.")]
    checks = attempt_all([Trial("protocol", _protocol, _PROTOCOL, gate=True)], case)
    for alone in (_scorer, _heads, _layers, _refiner, _codecs):
        checks += alone(case)
    if any(check.status == "fail" for check in checks):
        return [*checks, Check("on a model", "skip", "not run, because a part of the press fails alone")]
    whole = [*sessions.TRIALS, *budgets.SLOTS, *storage.TRIALS]
    return checks + attempt_all([*whole, *_composed(case)], case)


def _protocol(case: Case) -> str:
    press, recipe = case.press, case.press.recipe
    if Press.parse(str(press)) != press or Press.parse(press.spec()).recipe != recipe:
        raise BrokenError(f"{press} does not parse back to itself: two equal texts must make equal decisions")
    decided = {name: getattr(recipe, name) for name in KINDS}
    found = {follow(kind, thing) for kind, thing in decided.items() if thing is not None}
    hash(recipe)
    return "; ".join(sorted(text for text in found if not text.startswith(("Dense ", "Even ")))) or f"{press}"


def _scorer(case: Case) -> list[Check]:
    if not case.recipe.evicts:
        return [Check("scores", "skip", "does not apply: nothing is evicted")]
    return attempt_all(scores.TRIALS, case)


def _heads(case: Case) -> list[Check]:
    if not case.recipe.heads.compares:
        return [Check("heads: exact sums", "skip", "does not apply: every head keeps the same number of slots")]
    return attempt_all(budgets.HEADS, case)


def _layers(case: Case) -> list[Check]:
    if case.recipe.layers is None:
        return [Check("layers: shares", "skip", "does not apply: every layer keeps the same number of slots")]
    return attempt_all(budgets.LAYERED, case)


def _refiner(case: Case) -> list[Check]:
    return [] if case.recipe.refine is None or not case.recipe.evicts else attempt_all(refiners.TRIALS, case)


def _codecs(case: Case) -> list[Check]:
    sides: dict[Codec, str] = {}
    for side, codec in (("keys", case.recipe.key), ("values", case.recipe.value)):
        if not isinstance(codec, Dense):
            sides[codec] = f"{sides[codec]} and {side}" if codec in sides else side
    if not sides:
        return [Check("decode(encode(x))", "skip", "does not apply: slots are stored as they are")]
    checks = []
    for codec, side in sides.items():
        found = attempt_all(codecs.TRIALS, Format(codec, case.head_dim))
        checks += [replace(check, name=f"{check.name}, {side}") if len(sides) > 1 else check for check in found]
    return checks


def _composed(case: Case) -> list[Trial[Case]]:
    """The press with others around it: a codec behind one that evicts, one that evicts before a codec."""
    recipe, others = case.recipe, []
    if isinstance(recipe.key, Dense) and isinstance(recipe.value, Dense):
        others.append(_KIVI)
    if recipe.scorer is None:
        others += [_RANDOM, _H2O]
    elif getattr(recipe.scorer, "comparable", False) and not recipe.compares:
        others.append(_ADA)
    trials = [Trial(f"composed with {other.split('(')[0]}", _composed_with(other), _COMPOSED) for other in others]
    once = recipe.needs.repeat is not None  # a prompt is repeated when it has been read, and never again
    if recipe.scorer is not None and not once and any(part.name.startswith(MADE) for part in case.press.parts):
        trials.append(Trial("at every step", lambda case: _all_of(at_every_step(case.press)), _COMPOSED))
    return trials


def _composed_with(other: str) -> Callable[[Case], str]:
    def test(case: Case) -> str:
        try:
            both = case.press | Press.parse(other)
            both.ready()
            return _all_of(both)
        except PressConflictError as error:
            raise InapplicableError(f"refused. {error}") from error

    return test


def _all_of(press: Press) -> str:
    case = Case.of(press)
    try:
        for part in (budgets.exact, storage.attends, storage.ledger, storage.round_trip):
            part(case)
    except BrokenError as error:
        raise BrokenError(f"{press}: {error}") from error
    return f"{press} keeps what was asked, also while decoding, attends exactly, counts its bytes, saves and loads"
