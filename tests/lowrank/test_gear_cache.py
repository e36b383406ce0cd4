"""GEAR in a cache: which blocks get which rank, what the ledger says, and that its answers are better than KIVI's."""

from __future__ import annotations

import pytest
import torch

from kvpress import Press, gear, gear_l
from kvpress.attention import backends as kernels
from kvpress.errors import PressConflictError, PressSyntaxError
from kvpress.lowrank.gear import Gear
from kvpress.recipe.press import PRESETS
from tests.helpers import GEAR, decode, gap, rollout
from tests.lowrank.test_gear import formula
from tests.models import build, left_padded, shared, tokens

H, D, FP32 = 2, 64, 4


def test_prompts_and_decoded_blocks_have_their_own_rank() -> None:
    model = build("llama", num_hidden_layers=1)
    with gear(bits=4, group=8, block=8, residual=4, rank=1, prefill_rank=3)(model) as session:
        cache = rollout(session, tokens(1, 40), tokens(1, 40, 1))[1]
        session.prefill(tokens(1, 30, 2), cache=cache)
        decode(model, cache, tokens(1, 20, 3))
    packed = [item.segment.slabs[0].pair.key for item in cache.stores[0].held]
    assert [(key.rank, key.slots) for key in packed] == [(3, 32), (1, 40), (3, 32), (1, 16)]  # type: ignore[attr-defined]
    assert [key.owner for key in packed] == [None] * 4  # type: ignore[attr-defined]


def test_a_short_row_of_a_batch_has_the_rank_it_has_alone() -> None:
    rows = [tokens(1, 40)[0], tokens(1, 13)[0]]
    with gear(bits=4, group=8, block=8, residual=4)(build("llama", num_hidden_layers=1)) as session:
        slabs = session.prefill(*left_padded(rows)).stores[0].held[0].segment.slabs
    assert {slab.slots: slab.pair.key.rank for slab in slabs} == {8: 2, 32: 4}  # type: ignore[attr-defined]


@pytest.mark.parametrize("backbone", ["kivi", "kcvt"])
@pytest.mark.parametrize("name", ["gear", "gear_l"])
def test_ledger_is_the_formula(name: str, backbone: str) -> None:
    model, prompt, steps = build("llama", num_hidden_layers=1, head_dim=D), 1203, 150
    press = PRESETS[name](backbone=backbone)
    with press(model) as session:
        cache = rollout(session, tokens(1, prompt), tokens(1, steps, 1))[1]
    first = (prompt - 64) // 64 * 64
    blocks = (prompt + steps - 64) // 64 - first // 64
    assert blocks == 3
    wanted: dict[str, int] = {}
    for axis in ("channel", "token"):
        codec = Gear(axis, 2, backbone, outliers=0.02 if name == "gear" else 0.0)  # type: ignore[arg-type]
        for kind, size in formula(codec, first, D).items():
            wanted[kind] = wanted.get(kind, 0) + H * (size + blocks * formula(codec, 64, D)[kind])
    kinds, dense = cache.ledger().by_kind(), prompt + steps - first - blocks * 64
    runs = sum(slab.runs.numel() * 8 for item in cache.stores[0].held for slab in item.segment.slabs)
    wanted["indices"] = runs  # int64, the only thing there besides the formula
    assert {kind: kinds[kind] for kind in wanted} == wanted
    room = kinds["window"] - H * dense * 2 * D * FP32
    total = sum(wanted.values()) - runs + H * dense * 2 * D * FP32
    assert room >= 0 and total <= cache.nbytes() - room <= 1.01 * total


@pytest.mark.parametrize("text", ["fp8", "gear(block=4, group=4, residual=4)", "int8"])
def test_kernels_leave_formats_they_do_not_know_to_the_reference(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = build("llama", num_hidden_layers=1), []
    attend = kernels.attend

    def watched(parts, q, scale, cap):  # type: ignore[no-untyped-def]
        out = attend(parts, q, scale, cap)
        asked.append((len(parts), out is None))
        return out

    monkeypatch.setattr(kernels, "attend", watched)
    with Press.parse(text)(model) as session:
        cache = session.prefill(tokens(1, 90))
        asked.clear()
        decode(model, cache, tokens(1, 1))
    if text != "int8":
        assert not asked  # what lies in no way that kernels know is not even shown to them
    else:
        assert asked[0] == (2, kernels.cpu._function() is None)


def test_outputs_are_closer_than_those_of_the_quantizer_alone() -> None:
    model, ids, follow = shared("llama"), tokens(2, 90), tokens(2, 30, 1)
    with Press.parse("full")(model) as session:
        wanted = rollout(session, ids, follow)[0]
    errors = []
    for text in ("kivi(bits=2, group=16, residual=8)", "gear_l(group=16, block=16, residual=8)",
                 "gear(group=16, block=16, residual=8)"):  # fmt: skip
        with Press.parse(text)(model) as session:
            errors.append(float((rollout(session, ids, follow)[0] - wanted).square().mean()))
    assert errors[0] > errors[1] > errors[2] > 0


def test_segments_stay_few_while_decoding_and_evicting() -> None:
    model = build("llama", num_hidden_layers=1)
    for text in (
        "gear(bits=4, group=4, block=4, residual=4)",
        "h2o(keep=40) | gear(bits=4, group=4, block=4, residual=4)",
    ):
        with Press.parse(text)(model) as session:
            cache = session.prefill(tokens(1, 60))
            decode(model, cache, tokens(1, 200, 1))
        assert len(cache.stores[0].held) <= 8


def test_defaults_are_those_of_the_paper() -> None:
    recipe = gear().recipe
    assert recipe.key == Gear("channel", 2, "kivi", 64, 64, 2, 4, 0.02) and recipe.residual == recipe.block == 64
    assert gear_l().recipe.value == Gear("token", 2, "kivi", 64, 64, 2, 4, 0.0)
    assert gear(outliers=0.0).recipe == gear_l().recipe


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gear(bits=8)", "use 2 or 4"),
        ("gear(backbone=hqq)", '"kivi" or "kcvt"'),
        ("gear(block=48)", "block=48 must be a multiple of group=64"),
        ("gear(backbone=kcvt, block=48)", "power of two"),
        ("gear_l(rank=0)", "must be 1 or more"),
        ("gear(outliers=2.0)", "fraction"),
        ("gear(group=12)", "power of two"),
    ],
)
def test_mistakes_are_named(text: str, words: str) -> None:
    with pytest.raises(PressSyntaxError, match=words):
        Press.parse(text)


def test_a_head_that_groups_do_not_divide_is_refused() -> None:
    model = build("llama", head_dim=80)
    with pytest.raises(PressConflictError, match="group=16"), gear()(model):
        pass
    with gear(group=16)(model), pytest.raises(PressConflictError), (gear() | gear_l())(model):
        pass


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gear(group=8, rank=1000)", "rank=1000 saves nothing on heads of 16 channels.*64 slots.*Use rank=12 or less"),
        ("gear(group=8, prefill_rank=16)", "a prompt in 16 bits. Use prefill_rank=15 or less"),
        ("gear_l(group=8, block=8, rank=6)", "a block of 8 slots in 16 bits. Use rank=5 or less"),
        ("think(0.5, recent=64, window=4) | gear_l(group=8, prefill_rank=8)", "8 channels.*Use prefill_rank=7 or less"),
    ],
)
def test_a_rank_that_saves_nothing_is_refused(text: str, words: str) -> None:
    with pytest.raises(PressConflictError, match=words), Press.parse(text)(shared("llama")):
        raise AssertionError("not reached")


def test_the_largest_rank_that_is_told_is_served_and_the_next_would_not_be_smaller() -> None:
    slots, dim = 8, 16
    with Press.parse("gear_l(group=8, block=8, residual=0, rank=5, prefill_rank=15)")(shared("llama")) as session:
        session.prefill(tokens(1, slots))
    for rank, saves in ((5, True), (6, False)):
        packed = Gear("channel", group=8, block=slots, rank=rank, outliers=0.0).encode(torch.randn(1, slots, dim))
        assert (packed.left.nbytes + packed.right.nbytes < 2 * slots * dim) is saves


@pytest.mark.parametrize("text", ["kivi(bits=4, group=8, residual=0)", "fp8(block=8)", "int8", GEAR])
def test_a_length_that_no_row_taken_has_is_no_trouble(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots are kept by length; picking rows may leave a length without any."""
    monkeypatch.setenv(kernels.VARIABLE, "reference")
    ids, mask = left_padded([tokens(1, 80)[0], tokens(1, 53)[0]])
    with Press.parse(text)(build("llama", num_hidden_layers=1)) as session:
        whole = session.prefill(ids, mask).stores[0].held[0].segment
    picked = whole.take_rows(torch.tensor([1, 1, 1]))
    assert sorted(slab.runs.numel() for slab in picked.slabs) == [0, 6]
    q = torch.randn(3, H, 5, 16)
    k, v = picked.decode()
    probs = torch.softmax((q @ k.mT * 0.3).masked_fill((picked.positions() < 0).unsqueeze(2), -torch.inf), -1)
    part = picked.attend(q, 0.3)
    assert gap(part.out, probs @ v) < 1e-5
    assert gap(picked.mass(q, part.lse, 0.3), probs.sum(2)) < 1e-5
