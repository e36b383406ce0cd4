"""GEAR: the formulas in fp64 loops, less error than the quantizer alone, and a stored form that never changes."""

from __future__ import annotations

import random as chance

import numpy as np
import pytest
import torch
from torch import Tensor

from kvpress.lowrank import corrected, outliers
from kvpress.lowrank.corrected import Corrected
from kvpress.lowrank.factors import _SEED, factors
from kvpress.lowrank.gear import Gear
from kvpress.quant.affine import Affine
from tests.helpers import gap

DIMS, LENGTHS = (16, 64, 80, 128), (1, 7, 16, 37, 65)
AXES = pytest.mark.parametrize("axis", ["channel", "token"])
BACKBONES = pytest.mark.parametrize("backbone", ["kivi", "kcvt"])


def codec(axis: str, backbone: str = "kivi", bits: int = 4, s: float = 0.1, **other: int) -> Gear:
    sizes = {"group": 16, "block": 16, **other}
    return Gear(axis, bits, backbone, outliers=s, **sizes)  # type: ignore[arg-type]


def sample(n: int, dim: int, runs: int = 3, seed: int = 0) -> Tensor:
    """Channels of different size and middle, and a few numbers far from all others."""
    generator = torch.Generator().manual_seed(1000 * seed + n + dim)
    x = torch.randn(runs, n, dim, generator=generator) * torch.linspace(0.1, 4, dim) + torch.linspace(-3, 3, dim)
    return x + 20 * x.sign() * (torch.rand(runs, n, dim, generator=generator) < 0.01)


def count(s: float, length: int) -> int:
    return 2 * min(max(1, int(s * length / 2 + 0.5)) if s else 0, (length - 1) // 2)


def cut(x: np.ndarray, axis: str, group: int) -> list[tuple[slice, slice]]:
    """The quantizer's groups of x (n, D)."""
    n, dim = x.shape
    if axis == "channel":
        return [(slice(t, t + group), slice(d, d + 1)) for d in range(dim) for t in range(0, n, group)]
    return [(slice(t, t + 1), slice(d, d + group)) for t in range(n) for d in range(0, dim, group)]


def orthonormal(x: np.ndarray) -> np.ndarray:
    out: list[np.ndarray] = []
    for column in x.T:
        for _ in range(2):
            for other in out:
                column = column - other * (other @ column)
        out.append(column / np.linalg.norm(column))
    return np.stack(out, 1)


def reference(x: np.ndarray, axis: str, bits: int, group: int, s: float, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """x' of the formula for one run (n, D) in fp64, and where the outliers are."""
    n, dim = x.shape
    away = np.zeros((n, dim), dtype=bool)
    for line in range(dim if axis == "channel" else n):
        values = x[:, line] if axis == "channel" else x[line]
        each = count(s, len(values)) // 2
        order = sorted(range(len(values)), key=lambda i: values[i])
        for i in [*order[:each], *order[len(order) - each :]]:
            away[(i, line) if axis == "channel" else (line, i)] = True
    quantized = np.zeros_like(x)
    for at in cut(x, axis, group):
        rest = x[at][~away[at]]
        middle = np.float32(rest.min() / 2 + rest.max() / 2) if rest.size else 0.0
        filled = np.where(away[at], middle, x[at])
        low = np.float16(filled.min())
        step = np.float16(np.float32(filled.max() - filled.min()) / np.float32(2**bits - 1))
        codes = np.clip(np.round((filled - low) / step), 0, 2**bits - 1) if step else 0 * filled
        quantized[at] = codes * np.float64(step) + np.float64(low)
    error = np.where(away, 0, x - quantized)
    right = torch.randn(dim, rank, generator=torch.Generator().manual_seed(_SEED)).double().numpy()
    for _ in range(3):
        left = orthonormal(error @ right)
        right = orthonormal(error.T @ left)
    return np.where(away, x, quantized + left @ (left.T @ error)), away


@AXES
@BACKBONES
@pytest.mark.parametrize(("bits", "n", "rank"), [(2, 16, 2), (4, 16, 2), (2, 37, 4), (4, 65, 3)])
def test_values_of_the_formula(axis: str, backbone: str, bits: int, n: int, rank: int) -> None:
    x = sample(n, 16, runs=2)
    made = codec(axis, backbone, bits, rank=rank, prefill_rank=rank)
    group = 16 if backbone == "kivi" else max(n, 16)
    back = made.encode(x).decode()
    for run in range(2):
        wanted, away = reference(x[run].double().numpy(), axis, bits, group, 0.1, rank)
        error = (back[run].double() - torch.from_numpy(wanted)).abs()
        assert away.sum() == count(0.1, n if axis == "channel" else 16) * (16 if axis == "channel" else n)
        away = torch.from_numpy(away)
        top = float(x[run].abs().max())
        assert error[~away].max() < 2**-9 * top / (2**bits - 1)  # factors in fp16; the largest step is 1000 times that
        assert error[away].max() < 2**-11 * 1.5 * top  # one number in fp16, no larger than the distance it covers


def quantizer(axis: str, backbone: str, bits: int, x: Tensor, group: int) -> Affine:
    if backbone == "kivi":
        return Affine(bits, axis, group)  # type: ignore[arg-type]
    return Affine(bits, axis, 1 << (x.shape[1] - 1).bit_length() if axis == "channel" else 1024)  # type: ignore[arg-type]


def energy(packed: object, x: Tensor) -> Tensor:
    """Squared error of each run."""
    return (packed.decode().double() - x.double()).square().sum((1, 2))  # type: ignore[attr-defined]


def rank_deficient() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(3, 320, 3, generator=generator) @ torch.randn(3, 3, 64, generator=generator)


def real(side: str) -> Tensor:
    """Keys or values of the bundled model for a document, (runs, n, D)."""
    from kvpress_eval.tiny import load
    from kvpress_eval.tiny.dialect import document

    from kvpress import full

    model, tokenizer = load()
    text = " ".join(document(chance.Random(1), 500, ["kv"]).tokens)
    with full()(model) as session:
        cache = session.prefill(tokenizer(text, return_tensors="pt").input_ids)
    return torch.cat([getattr(layer.block(), side)[0] for layer in cache.stores])


@AXES
@BACKBONES
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("kind", ["rank deficient", "outliers", "model"])
def test_error_is_below_that_of_the_quantizer_alone(axis: str, backbone: str, bits: int, kind: str) -> None:
    if kind == "model":
        x = real("k" if axis == "channel" else "v")
    else:
        x = rank_deficient() if kind == "rank deficient" else sample(320, 64)
    alone = energy(quantizer(axis, backbone, bits, x, 16).encode(x), x)
    corrected_by = {s: energy(codec(axis, backbone, bits, s).encode(x), x) for s in (0.0, 0.02)}
    assert (alone > 0).all()
    assert (corrected_by[0.0] < 0.99 * alone).all()  # in every run, and by more than rounding
    assert (corrected_by[0.02] < corrected_by[0.0]).all()


def test_factors_are_nearly_the_best_of_their_rank() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4, 70, 24, generator=generator) @ torch.diag(torch.logspace(0, -2, 24))
    for rank in (1, 2, 4):
        best = torch.linalg.svdvals(x.double())[:, :rank].square().sum(1)
        total = x.double().square().sum((1, 2))
        for rounds, share in ((3, 0.8), (20, 0.999)):
            left, right = factors(x, rank, rounds)
            assert left.dtype == right.dtype == torch.float16 and left.shape == (4, 70, rank)
            rest = (x.double() - left.double() @ right.double().mT).square().sum((1, 2))
            assert (total - rest > share * best).all() and (total - rest <= best * (1 + 1e-6)).all()


@pytest.mark.parametrize("shape", [(1, 5), (3, 2), (5, 1)])
def test_matrices_smaller_than_the_rank_are_exact(shape: tuple[int, int]) -> None:
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    left, right = factors(x, 4)
    assert left.shape[-1] == min(shape) and gap(left.float() @ right.float().mT, x) < 2e-3


def test_factors_of_numbers_of_any_size() -> None:
    x = torch.randn(2, 33, 16, generator=torch.Generator().manual_seed(0))
    for size in (0.0, 1e-6, 1.0, 6e4, 1e7):
        left, right = factors(x * size, 16)
        assert torch.isfinite(left).all() and torch.isfinite(right).all()
        assert gap(left.float() @ right.float().mT, x * size) <= 5e-3 * size


@AXES
def test_a_row_captures_in_a_batch_what_it_captures_alone(axis: str) -> None:
    """Every run needs a basis of its own: here their errors lie in different directions."""
    x = sample(64, 32, runs=4)
    for run in range(4):
        x[run, :, 8 * run : 8 * run + 8] *= 10
    for s in (0.0, 0.05):
        made = codec(axis, bits=2, s=s, prefill_rank=6)
        together, plain = energy(made.encode(x), x), energy(Affine(2, axis, 16).encode(x), x)  # type: ignore[arg-type]
        for run in range(4):
            alone = energy(made.encode(x[run : run + 1]), x[run : run + 1])
            assert float(together[run]) == pytest.approx(float(alone[0]), rel=1e-4)
        assert (together < 0.75 * plain).all()


def forms(made: Gear, dim: int, n: int) -> list[tuple[str, Corrected, Tensor]]:
    """One packed thing in every form it can take, with the values it must have."""
    packed = made.encode(sample(n, dim))
    more = [made.encode(sample(made.block, dim, seed=seed)) for seed in (1, 2, 3)]
    back, blocks = packed.decode(), torch.cat([each.decode() for each in more], 1)
    run, every = torch.tensor([2, 0, 2]), torch.arange(0, n, 2).expand(3, -1)
    joined = more[0].cat(more[1:])
    # Every run loses other slots: whole blocks in some, none in others.
    span = made.block
    ragged = torch.stack([torch.arange(span), torch.arange(2 * span, 3 * span), torch.arange(0, 3 * span, 3)[:span]])
    taken = joined.take(torch.arange(3), ragged)
    left = blocks.gather(1, ragged.unsqueeze(-1).expand(-1, -1, dim))
    short = torch.arange(0, span, 3).expand(3, -1)
    grown = taken.cat(more[:1])
    out = [
        ("packed", packed, back),
        ("taken", packed.take(run, every), back[run][:, ::2]),
        ("joined", joined, blocks),
        ("ragged", taken, left),
        ("ragged twice", taken.take(run, short), left[run][:, :span:3]),
        ("grown", grown, torch.cat([left, more[0].decode()], 1)),
        ("grown, taken", grown.take(run, every[:, :1] + span), more[0].decode()[run][:, :1]),
    ]
    if packed.joins(more[0]):
        out.append(("uneven", packed.cat(more), torch.cat([back, blocks], 1)))
    return out


@AXES
@BACKBONES
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("dim", DIMS)
def test_attention_on_codes_is_attention_on_values(
    dim: int, n: int, backbone: str, axis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corrected, "_PRODUCTS", 200)  # several pieces
    monkeypatch.setattr(outliers, "_PRODUCTS", 200)
    generator = torch.Generator().manual_seed(1)
    same_rank = {"rank": 2, "prefill_rank": 2}
    for made in (codec(axis, backbone), codec(axis, backbone, 2, 0.0), codec(axis, backbone, **same_rank)):
        for name, each, rows in forms(made, dim, n):
            assert torch.equal(each.decode(), rows), name  # the stored values themselves, never coded anew
            q = torch.randn(3, 5, dim, generator=generator) / dim**0.5
            weights = torch.rand(3, 5, each.slots, generator=generator).softmax(-1)
            logits, mixed = q.double() @ rows.double().mT, weights.double() @ rows.double()
            assert (each.logits(q) - logits).abs().max() <= 1e-5 * max(1, float(rows.abs().max())), name
            assert (each.mix(weights) - mixed).abs().max() <= 1e-5 * max(1, float(rows.abs().max())), name


@AXES
@BACKBONES
def test_what_is_joined_or_taken_comes_back_from_a_file(axis: str, backbone: str) -> None:
    for made in (codec(axis, backbone), codec(axis, backbone, 2, 0.0), codec(axis, backbone, rank=2, prefill_rank=2)):
        for name, each, rows in forms(made, 32, 37):
            again = made.load({key: t.clone() for key, (_, t) in each.tensors().items()}, each.dtype, 32)
            assert torch.equal(again.decode(), rows), name
            q, weights = torch.randn(3, 2, 32), torch.rand(3, 2, each.slots)
            assert torch.equal(again.logits(q), each.logits(q)) and torch.equal(again.mix(weights), each.mix(weights))


def formula(made: Gear, n: int, dim: int) -> dict[str, int]:
    """Bytes of n slots of one KV head packed at once, as the docstring has it."""
    wide = made.backbone == "kcvt"
    rank = min(made.prefill_rank if n > made.block else made.rank, n, dim)
    by_channel = made.axis == "channel"
    groups = dim * (1 if wide else -(-n // made.group)) if by_channel else n * (1 if wide else -(-dim // made.group))
    length, lines = (n, dim) if by_channel else (dim, n)
    index = 1 if length <= 256 else 2 if length <= 32768 else 4
    entries = lines * count(made.outliers, length)
    sparse = {"outliers": entries * (2 + index)} if made.outliers else {}
    return {"codes": n * dim * made.bits // 8, "scales": 4 * groups, "factors": 2 * rank * (n + dim), **sparse}


def by_kind(packed: Corrected) -> dict[str, int]:
    out: dict[str, int] = {}
    for kind, tensor in packed.tensors().values():
        assert tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        out[kind] = out.get(kind, 0) + tensor.untyped_storage().nbytes()
    return out


@AXES
@BACKBONES
@pytest.mark.parametrize("n", [1, 2, 3, 15, 16, 17, 256, 257, 1000])
@pytest.mark.parametrize("dim", [*DIMS, 272])
def test_bytes_are_the_formula(axis: str, backbone: str, dim: int, n: int) -> None:
    x = sample(n, dim, runs=2)
    for bits, s in ((2, 0.02), (4, 0.1), (2, 0.0)):
        made = codec(axis, backbone, bits, s)
        assert by_kind(made.encode(x)) == {kind: 2 * size for kind, size in formula(made, n, dim).items()}


def test_bytes_of_a_very_long_block() -> None:
    made = codec("channel", s=0.001)
    assert by_kind(made.encode(sample(32_769, 8, runs=1))) == formula(made, 32_769, 8)


@AXES
@BACKBONES
def test_bytes_of_joined_blocks_are_their_sum_and_those_of_taken_ones_shrink(axis: str, backbone: str) -> None:
    made = codec(axis, backbone)
    blocks = [made.encode(sample(16, 64, seed=seed)) for seed in range(5)]
    joined = blocks[0].cat(blocks[1:])
    assert by_kind(joined) == {kind: 5 * 3 * size for kind, size in formula(made, 16, 64).items()}
    prompt = made.encode(sample(320, 64))
    few = by_kind(prompt.take(torch.arange(3), torch.arange(0, 320, 32).expand(3, -1)))
    whole = by_kind(prompt)
    assert few["codes"] * 32 == whole["codes"] and few["outliers"] < 0.25 * whole["outliers"]
    assert few["factors"] == 3 * 2 * 4 * (10 + 64)  # rows of A go, B stays


@AXES
@BACKBONES
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("kind", ["zero", "constant", "constant line", "huge", "tiny", "one outlier", "two values"])
def test_hostile_values_stay_finite_and_close(axis: str, backbone: str, bits: int, kind: str) -> None:
    x = torch.randn(2, 37, 16, generator=torch.Generator().manual_seed(0))
    if kind in ("zero", "constant"):
        x = torch.full_like(x, 0.0 if kind == "zero" else -2.5)
    elif kind == "constant line":
        x[..., 3], x[:, 5] = 1.25, -7.0
    elif kind == "huge":
        x = x.sign() * 60_000
    elif kind == "tiny":
        x = x * 1e-9
    elif kind == "two values":
        x = torch.where(x > 1, 30.0, 1.0)  # a group whose outliers are most of it
    else:
        x[0, 5, 2] = 1e6  # beyond fp16
    for s in (0.0, 0.02, 0.9):
        packed = codec(axis, backbone, bits, s).encode(x)
        back = packed.decode()
        ones = torch.ones(2, 1, 16), torch.ones(2, 1, 37)
        for found in (back, packed.logits(ones[0]), packed.mix(ones[1]), packed.left, packed.right):
            assert torch.isfinite(found).all()
        if kind in ("zero", "constant"):
            assert torch.equal(back, x)
        if kind == "constant line":
            assert (
                gap(back[..., 3] if axis == "channel" else back[:, 5], x[..., 3] if axis == "channel" else x[:, 5]) < 1
            )
        if kind == "huge":
            assert (back - x).abs().max() < 60_000
        if kind == "one outlier" and s:
            others = torch.ones_like(x, dtype=torch.bool)
            others[0, 5, 2] = False
            assert (back - x)[others].abs().max() < 5  # the range is that of the others


def test_numbers_that_are_none_stay_where_they_are() -> None:
    x = sample(32, 16)
    clean = codec("token").encode(x).decode()
    x[1, 3, 4] = torch.nan
    back = codec("token").encode(x).decode()
    assert torch.equal(back[[0, 2]], clean[[0, 2]])


@AXES
def test_half_precision_inputs_come_back_in_their_type(axis: str) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        x = sample(33, 16).to(dtype)
        packed, exact = codec(axis).encode(x), codec(axis).encode(x.float())
        assert packed.decode().dtype == dtype and packed.logits(x[:, :1]).dtype == torch.float32
        assert torch.equal(packed.decode(), exact.decode().to(dtype))  # rounded once, at the end
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(packed.tensors().values(), exact.tensors().values()))


@AXES
@BACKBONES
def test_equal_numbers_are_chosen_in_order(axis: str, backbone: str) -> None:
    x = sample(32, 16).round()  # bf16 caches have many ties
    first, second = (codec(axis, backbone).encode(x) for _ in range(2))
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(first.tensors().values(), second.tensors().values()))
    lines = torch.tensor([[1.0, 5, 5, 5, 1, 1, 1, 5, 3]])
    assert outliers.extremes(lines, 2).nonzero()[:, 1].tolist() == [0, 1, 2, 4]
    assert outliers.extremes(torch.ones(1, 5), 2).nonzero()[:, 1].tolist() == [0, 1, 2, 3]


def test_only_blocks_of_one_rank_join() -> None:
    made = codec("channel")
    prompt, block, other = (made.encode(sample(n, 16)) for n in (64, 16, 16))
    assert (prompt.rank, block.rank) == (4, 2)
    assert not prompt.joins(block) and block.joins(other) and prompt.joins(made.encode(sample(64, 16, seed=1)))
    assert not prompt.joins(made.encode(sample(640, 16)))  # ten times the outliers a channel
    assert codec("token").encode(sample(64, 16)).joins(codec("token").encode(sample(640, 16)))
