"""A press as text and as a value: it prints, parses back, compares, composes, and explains what is wrong."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from kvpress import PRESETS, KVPressError, Press, ada, full, h2o, kivi, random, snapkv, streaming_llm, tova
from kvpress.errors import BudgetError, PressConflictError, PressSyntaxError
from kvpress.recipe.press import preset
from tests.helpers import ALL

TEXTS = [*ALL.values(), *sorted(PRESETS), "snapkv@paper | kivi@paper", "h2o(keep=0.2, recent=0.25) | kivi(bits=4)"]


@pytest.mark.parametrize("text", TEXTS)
def test_text_and_spec_parse_back(text: str) -> None:
    press = Press.parse(text)
    assert Press.parse(str(press)) == press and hash(Press.parse(str(press))) == hash(press)
    assert str(Press.parse(str(press))) == str(press)
    resolved = Press.parse(press.spec())
    assert resolved.recipe == press.recipe
    assert resolved.spec() == press.spec()


def test_text_is_what_was_written() -> None:
    assert str(snapkv(keep=0.25) | kivi(bits=2)) == "snapkv(keep=0.25) | kivi(bits=2)"
    assert str(full()) == "full" and str(streaming_llm(positions="keep")) == 'streaming_llm(positions="keep")'
    assert "window=32" in snapkv().spec() and "window" not in str(snapkv())


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("SnapKV(keep = 0.25)", snapkv(keep=0.25)),
        ("streaming-llm( 0.5 , positions=keep )", streaming_llm(keep=0.5, positions="keep")),
        ("snapkv(pooling=avg, every_prompt=true)", snapkv(pooling="avg", every_prompt=True)),
        ("snapkv(pooling='avg', every_prompt=False)", snapkv(pooling="avg", every_prompt=False)),
        ("kivi(k_bits=none)", kivi(k_bits=None)),
        ("h2o(64)", h2o(keep=64)),
        ("tova(compression_ratio=0.75)", tova(keep=0.25)),
        ("full()", full()),
        ("random(keep=0.5)|kivi", random(keep=0.5) | kivi()),
    ],
)
def test_spellings(text: str, same: Press) -> None:
    assert Press.parse(text) == same


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.3, 0.5, 0.7, 0.9])
def test_compression_ratio_is_one_minus_keep(ratio: float) -> None:
    assert snapkv(compression_ratio=ratio).recipe.keep == pytest.approx(1 - ratio, abs=1e-9)
    assert snapkv(compression_ratio=0).recipe.keep == 1.0


def test_keep_one_is_everything_however_it_is_written() -> None:
    for press in (snapkv(keep=1), snapkv(keep=1.0), snapkv(compression_ratio=0.0)):
        assert press.recipe.keep == 1.0 and not press.recipe.evicts
    assert snapkv(keep=1) == snapkv(keep=1.0)
    assert snapkv(keep=64).recipe.keep == 64 and snapkv(keep=64).recipe.evicts


def test_a_press_is_a_value() -> None:
    press = snapkv(keep=0.25) | kivi(bits=2)
    assert {press: 1}[Press.parse("snapkv(keep=0.25) | kivi(bits=2)")] == 1
    assert press != snapkv(keep=0.25) and press != snapkv(keep=0.25) | kivi(bits=4)
    assert copy.deepcopy(press) == press and pickle.loads(pickle.dumps(press)) == press
    with pytest.raises(dataclasses.FrozenInstanceError):
        press.parts = ()  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        press.recipe.keep = 0.5  # type: ignore[misc]
    before = str(press)
    press | ada()
    assert str(press) == before


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (snapkv, h2o, "snapkv and h2o both decide (how many|which) slots stay"),
        (kivi, kivi, "kivi and kivi both decide how keys are stored"),
        (tova, random, "tova and random both decide"),
    ],
)
def test_conflicts_name_both_and_the_matter(a: object, b: object, words: str) -> None:
    with pytest.raises(PressConflictError, match=words):
        a() | b()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("snapvk(keep=0.5)", "did you mean 'snapkv'"),
        ("h20", "did you mean 'h2o'"),
        ("snapkv(keep=0.25, keep=0.5)", "Cannot read the arguments"),
        ("zzz", "none of the [0-9]+ names is near. `kvpress list presses` lists all"),
        ("snapkv(kep=0.5)", "no argument 'kep'; it takes: keep, window"),
        ("full(keep=0.5)", "no argument 'keep'; it takes: none"),
        ("kivi(compression_ratio=0.5)", "compression_ratio.*does not have"),
        ("snapkv(keep=0.5, compression_ratio=0.5)", "give one"),
        ("snapkv(keep=0)", "out of range"),
        ("snapkv(keep=1.5)", "out of range"),
        ("snapkv(keep=-3)", "out of range"),
        ("snapkv(compression_ratio=1)", "out of range"),
        ("snapkv(keep=true)", "fraction such as 0.25"),
        ("snapkv(keep=a)", "fraction such as 0.25"),
        ("snapkv(keep=nan)", "keep"),
        ("snapkv(compression_ratio=a)", "compression_ratio"),
        ("snapkv(kernel_size=4)", "odd"),
        ("snapkv(pooling=median)", 'pooling=\'median\' is "max" or "avg"'),
        ("streaming_llm(positions=old)", '"slots".*"keep"'),
        ("kivi(bits=3)", "use 2, 4 or 8"),
        ("kivi(group=12)", "power of two"),
        ("kivi(keys=rows)", "channel.*token"),
        ("snapkv(keep=0.5", "Cannot read"),
        ("snapkv keep=0.5", "Cannot read"),
        ("snapkv(keep=__import__('os'))", "Cannot read the arguments"),
        ("snapkv(**{})", "Cannot read|no argument"),
        ("snapkv(1, 2, 3, 4, 5, 6, 7)", "Cannot read the arguments"),
        ("snapkv(0.5, keep=0.5)", "keep"),
        ("", "Cannot read"),
        ("snapkv | ", "Cannot read"),
        ("snapkv(window=0)", "window=0"),
        ("leverage(ridge=-1)", "ridge=-1.*negative"),
        ("leverage(keys=new)", '"unrotated".*"rotated"'),
        ("cur(combine=sum)", "product.*mean"),
        ("cur(window=-1)", "window=-1"),
        ("lagkv(lag=0)", "lag=0"),
        ("expected_attention(future=0)", "future=0"),
        ("criticalkv(ratio=1.5)", "ratio=1.5"),
        ("criticalkv(epsilon=-1)", "epsilon=-1"),
    ],
)
def test_errors_say_what_to_do(text: str, words: str) -> None:
    with pytest.raises(KVPressError, match=words):
        Press.parse(text)


def test_arguments_of_the_wrong_kind() -> None:
    with pytest.raises(PressSyntaxError, match="must be a number, a string or true/false"):
        snapkv(window=[3])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('snapkv(window="a")', "window='a' must be int"),
        ("snapkv(window=3.5)", "window=3.5 must be int"),
        ("snapkv(every_prompt=1)", "every_prompt=1 must be bool"),
        ("random(seed=a)", "seed='a' must be int"),
        ("random(sinks=true)", "sinks=True must be int"),
        ("random(sinks=-2)", "negative"),
        ("kivi(residual=-1)", "negative"),
        ("kivi(k_bits=4.0)", "k_bits=4.0 must be int or None"),
        ("h2o(recent=1.5)", "fraction as `recent`"),
        ("h2o(recent=-0.5)", "negative"),
    ],
)
def test_values_of_the_wrong_kind(text: str, words: str) -> None:
    with pytest.raises(KVPressError, match=words):
        Press.parse(text)


@pytest.mark.parametrize(
    ("text", "fixed"), [("snapkv(keep=32)", 32), ("random(keep=36)", 36), ("streaming_llm(keep=4)", 4)]
)
def test_a_budget_without_a_choice(text: str, fixed: int) -> None:
    with pytest.raises(BudgetError, match=f"Keep more than {fixed}"):
        Press.parse(text)
    Press.parse(text.replace(str(fixed), str(fixed + 1)))


def test_variants_have_other_defaults_and_keep_their_name() -> None:
    assert Press.parse("snapkv@paper").recipe.keep == 1024
    assert Press.parse("snapkv@kvpress").recipe.recent == 64
    assert Press.parse("kivi@paper").recipe.residual == 128
    assert str(Press.parse("snapkv@paper(keep=256)")) == "snapkv@paper(keep=256)"
    assert "snapkv@paper(keep=256, window=32" in Press.parse("snapkv@paper(keep=256)").spec()


def test_a_preset_of_a_module_that_evaluates_its_annotations() -> None:
    """As a stranger's file without `from __future__ import annotations` has them."""

    def build(keep=0.5, sinks=0, mode="a"):  # type: ignore[no-untyped-def]
        return {"keep": keep, "sinks": sinks}

    build.__annotations__ = {"keep": float | int, "sinks": int, "mode": str}
    made = preset("evaluated")(build)
    try:
        assert Press.parse("evaluated(keep=7, sinks=2)").recipe.sinks == 2
        with pytest.raises(PressSyntaxError, match="sinks='x' must be int"):
            made(sinks="x")
    finally:
        del PRESETS._items["evaluated"]
