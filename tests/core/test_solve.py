"""Equal bytes: the ledger of what is found shows what was asked for, and what cannot be reached is said."""

from __future__ import annotations

import pytest

from kvpress import Press, kivi
from kvpress.errors import BudgetError
from kvpress.plan.search import STEPS, Search
from kvpress.plan.solve import _Ruler, check, solve
from tests.models import build, shared, tokens

MODEL = build("llama", num_hidden_layers=2, head_dim=64, num_key_value_heads=2)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("snapkv(window=8)", 0.5),
        ("snapkv(window=8)", 0.0625),
        ("h2o | kivi(bits=4)", 0.1),
        ("random(recent=4) | think(keep_channels=0.5)", 0.3),
        ("zigzag(window=8) | ada | snapkv(window=8)", 0.125),
        ("knorm | kivi(bits=2, group=16, residual=16)", 0.125),
    ],
)
def test_the_ledger_shows_what_was_asked_for(text: str, share: float) -> None:
    found = solve(Press.parse(text), MODEL, 700, share)
    assert 0.98 * share * found.dense <= found.bytes <= share * found.dense
    with found.press(MODEL) as session:
        assert session.prefill(tokens(1, 700)).nbytes() == pytest.approx(found.bytes, rel=0.01)
    assert "keep=" in str(found.press) and Press.parse(str(found.press)) == found.press


def test_channels_and_bits_are_found_where_nothing_is_evicted() -> None:
    found = solve(Press.parse("think(window=8, recent=8)"), MODEL, 700, "75%")
    assert 0.4 < dict(found.press.parts[0].given)["keep_channels"] < 0.6  # type: ignore[operator]
    with kivi(bits=4)(MODEL) as session:
        four = session.prefill(tokens(1, 700)).nbytes()
    found = solve(Press.parse("kivi"), MODEL, 700, four + 99)
    assert found.bytes == four
    assert str(found.press) == "kivi(bits=4)"


@pytest.mark.parametrize("target", ["25%", "25 %", 0.25, "700KiB", "0.7MiB", 716800])
def test_targets_in_every_unit(target: str | float | int) -> None:
    found = solve(Press.parse("knorm"), MODEL, 700, target)
    wanted = 716_800 if not isinstance(target, float) and "25" not in str(target) else found.dense // 4
    assert 0.97 * wanted <= found.bytes <= max(wanted, 0.7 * 2**20)


def test_what_cannot_be_reached_says_what_can() -> None:
    with pytest.raises(BudgetError, match=r"by its keep: it reaches .*% to 15\.6%"):
        solve(Press.parse("h2o | kivi(bits=4, group=32, residual=0)"), MODEL, 1280, 0.6)
    with pytest.raises(BudgetError, match=r"in steps of \(2, 4, 8\)"):
        solve(Press.parse("kivi"), MODEL, 700, "1%")
    with pytest.raises(BudgetError, match="leaves nothing to solve for"):
        solve(Press.parse("snapkv(keep=0.25)"), MODEL, 700, 0.5)
    for wrong in ("a lot", "12 apples", "-3%", True):
        with pytest.raises(BudgetError, match="bytes="):
            solve(Press.parse("knorm"), MODEL, 700, wrong)


@pytest.mark.parametrize(("block", "most"), [(0, 12), (16, 30), (32, 30)])
@pytest.mark.parametrize("share", [0.06, 0.125, 0.3, 0.71, 0.97])
@pytest.mark.parametrize("slots", [303, 950, 1733])
def test_the_largest_value_that_fits_is_found_with_few_caches(block: int, most: int, share: float, slots: int) -> None:
    """A head that packs full blocks holds fewer bytes each time one is full: the last value that fits is meant."""
    tried: list[float] = []

    def measure(value: float) -> int:
        tried.append(value)
        kept = int(value * slots + 1e-9)
        packed = kept // block * block if block else 0
        return 68 * packed + 256 * (kept - packed) + (2 * kept if value < 1 else 0)  # positions, where some went

    wanted = int(share * measure(1.0))
    sizes = Search(measure, wanted, STEPS * block / slots).search()
    assert len(tried) <= most
    largest = max(step for step in range(STEPS + 1) if measure(step / STEPS) <= wanted)
    assert max(value for value, size in sizes.items() if size <= wanted) == largest / STEPS


def test_a_press_that_packs_keeps_as_much_as_it_can() -> None:
    press = "knorm(keep={}) | kivi(bits=4, group=32, residual=0)"
    found = solve(Press.parse(press.replace("(keep={})", "")), MODEL, 500, "15%")
    keep = dict(found.press.parts[0].given)["keep"]
    for more in range(1, 25):  # three blocks
        with Press.parse(press.format(keep + more / 250))(MODEL) as session:  # type: ignore[operator]
            assert session.prefill(tokens(1, 500)).nbytes() > 0.15 * found.dense


def test_what_is_no_question_of_bytes_is_said_without_a_model() -> None:
    check(Press.parse("knorm | kivi(bits=2)"), "12.5%")
    with pytest.raises(BudgetError, match="leaves nothing to solve for"):
        check(Press.parse("kivi(bits=2)"), "12.5%")
    with pytest.raises(BudgetError, match="cannot be read"):
        check(Press.parse("knorm"), "12 apples")


@pytest.mark.parametrize("share", ["36%", "40%", "43%", "45%", "50%"])
def test_bytes_that_no_block_was_packed_for_yet_are_found_too(share: str) -> None:
    """Under `residual` + a block of slots nothing is packed, and bytes are those of dense slots."""
    press, model = Press.parse("knorm | kivi(bits=2, group=8, residual=128)"), shared("llama")
    found = solve(press, model, 300, share)
    assert 0.98 * float(share[:-1]) / 100 <= found.bytes / found.dense <= float(share[:-1]) / 100


@pytest.mark.parametrize(
    "texts",
    [
        ("full", "snapkv(keep={}, window=8)", "knorm(keep={})", "snapkv(keep={}, window=8)"),
        ("h2o(keep={})", "tova(keep={})", "streaming_llm(keep={})"),
        ("zigzag(window=8) | ada | snapkv(keep={}, window=8) | kivi(bits=4, group=8, residual=4)", "kvzip(keep={})"),
        (
            "criticalkv | snapkv(keep={}, window=8) | minicache(start=0)",
            "expected_attention(keep={}) | think(recent=4)",
        ),
    ],
)
def test_a_prompt_read_once_measures_like_one_read_anew(texts: tuple[str, ...]) -> None:
    ruler = _Ruler(MODEL, 233)
    for keep in (1.0, 0.31, 0.77, 0.31):
        for text in texts:
            press = Press.parse(text.format(keep))
            with press(MODEL) as session:
                anew = session.prefill(ruler._ids).nbytes()
            assert ruler.measure(press) == anew, press
    assert ruler.dense == 2 * 2 * 2 * 64 * 233 * 4
