"""fp8: e4m3 by hand in Python floats, scales that are set once, attention on codes equal to attention on values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvpress import Press, fp8
from kvpress.errors import PressSyntaxError
from kvpress.quant.fp8 import Fp8
from tests.helpers import rollout
from tests.models import build, tokens

DIMS = (16, 64, 80, 128)
BOTH = pytest.mark.parametrize("per_token", [False, True], ids=["head", "token"])
# Every finite e4m3 number from 0 up: eight subnormal ones in steps of 2^-9, then eight an exponent up to 448.
GRID = sorted({m * 2.0**-9 for m in range(8)} | {(8 + m) * 2.0 ** (e - 10) for e in range(1, 16) for m in range(8)})
GRID = [number for number in GRID if number <= 448]


def sample(n: int, dim: int, runs: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + n)
    return torch.randn(runs, n, dim, generator=generator) * torch.logspace(-2, 2, dim) + torch.linspace(-1, 1, dim)


def nearest(value: float) -> float:
    """The e4m3 number next to value, the even one of two; saturated."""
    size = min(abs(value), 448.0)
    at = min(range(len(GRID)), key=lambda i: (abs(GRID[i] - size), i % 2))
    return GRID[at] if value >= 0 else -GRID[at]


@BOTH
@pytest.mark.parametrize("n", [1, 4, 7])
def test_values_of_the_formula(per_token: bool, n: int) -> None:
    x = sample(n, 16, runs=2)
    back = Fp8(4, per_token).encode(x).decode()
    for run in range(2):
        for slot in range(n):
            block = x[run, slot : slot + 1] if per_token else x[run, slot // 4 * 4 : slot // 4 * 4 + 4]
            scale = float((block.abs().max() / 448).to(torch.bfloat16))
            wanted = [nearest(float(torch.tensor(value) / scale)) * scale for value in x[run, slot].tolist()]
            assert back[run, slot].tolist() == pytest.approx(wanted, rel=1e-6)


@BOTH
def test_error_is_an_eighth_of_an_exponent(per_token: bool) -> None:
    x = sample(65, 64)
    packed = Fp8(8, per_token).encode(x)
    scale = packed.scale if per_token else packed.scale.repeat_interleave(8, 1)[:, :65]
    bound = torch.maximum(x.abs() * 2**-4, scale.float().unsqueeze(-1) * 2**-10) * (1 + 1e-5)
    error = (packed.decode() - x).abs()
    assert (error <= bound).all() and error.max() > 0.1 * bound.max()


@BOTH
@pytest.mark.parametrize("n", [1, 31, 32, 65])
@pytest.mark.parametrize("dim", DIMS)
def test_attention_on_codes_is_attention_on_values(dim: int, n: int, per_token: bool) -> None:
    packed, more = (Fp8(32, per_token).encode(sample(count, dim)) for count in (n, 5))
    back, generator = packed.decode(), torch.Generator().manual_seed(1)
    every, run = torch.arange(0, n, 2).expand(3, -1), torch.tensor([2, 0, 2])
    taken, joined = packed.take(run, every), packed.cat([packed, more])
    again = joined.take(torch.arange(3), torch.arange(1, joined.slots, 3).expand(3, -1))
    mixed = taken.cat([packed.take(run, torch.arange(n).expand(3, -1))])
    for each, rows in (
        (packed, back),
        (taken, back[run][:, ::2]),
        (joined, torch.cat([back, back, more.decode()], 1)),
        (again, torch.cat([back, back, more.decode()], 1)[:, 1::3]),
        (mixed, torch.cat([back[run][:, ::2], back[run]], 1)),
    ):
        assert torch.equal(each.decode(), rows)  # the stored values themselves, never coded anew
        q = torch.randn(3, 5, dim, generator=generator)
        weights = torch.rand(3, 5, each.slots, generator=generator).softmax(-1)
        logits, mixed_values = q.double() @ rows.double().mT, weights.double() @ rows.double()
        assert (each.logits(q) - logits).abs().max() <= 1e-5 * max(1, float(logits.abs().max()))
        assert (each.mix(weights) - mixed_values).abs().max() <= 1e-5 * max(1, float(rows.abs().max()))


@BOTH
@pytest.mark.parametrize("n", [1, 31, 32, 33, 1000])
@pytest.mark.parametrize("dim", DIMS)
def test_bytes_are_the_formula(dim: int, n: int, per_token: bool) -> None:
    packed = Fp8(32, per_token).encode(sample(n, dim, runs=2))
    scales = n if per_token else -(-n // 32)
    assert {name: t.untyped_storage().nbytes() for name, (_, t) in packed.tensors().items()} == {
        "codes": 2 * n * dim,
        "scale": 2 * 2 * scales,
    }
    assert packed.codes.dtype == torch.float8_e4m3fn
    taken = packed.take(torch.arange(2), torch.arange(0, n, 2).expand(2, -1))
    count = -(-n // 2)
    assert sum(t.untyped_storage().nbytes() for _, t in taken.tensors().values()) == 2 * count * (dim + 2)


@BOTH
@pytest.mark.parametrize("kind", ["zero", "constant", "constant line", "huge", "tiny", "beyond fp16", "one outlier"])
def test_hostile_values_stay_finite_and_close(per_token: bool, kind: str) -> None:
    x = sample(37, 16)
    size = {"huge": 60_000.0, "tiny": 1e-9, "beyond fp16": 1e20}.get(kind)
    if kind in ("zero", "constant"):
        x = torch.full_like(x, 0.0 if kind == "zero" else -2.5)
    elif kind == "constant line":
        x[..., 3], x[:, 5] = 1.25, -7.0
    elif size is not None:
        x = x.sign() * size
    else:
        x[0, 5, 2] = 1e6
    packed = Fp8(8, per_token).encode(x)
    back = packed.decode()
    assert torch.isfinite(back).all() and torch.isfinite(packed.logits(torch.ones(3, 1, 16))).all()
    if kind == "constant line":
        assert (back - x)[..., 3].abs().max() < 0.05 * x.abs().max() and (back - x)[:, 5].abs().max() < 0.3
    elif kind != "one outlier":
        assert (back - x).abs().max() <= 2**-8 * x.abs().max()  # no more than the rounding of the scale
    else:
        assert abs(float(back[0, 5, 2]) / 1e6 - 1) < 2**-8


def test_half_precision_inputs_come_back_in_their_type() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        x = sample(33, 16).to(dtype)
        packed = Fp8(8).encode(x)
        assert packed.decode().dtype == dtype and packed.logits(x[:, :1]).dtype == torch.float32
        assert torch.equal(packed.decode(), Fp8(8).encode(x.float()).decode().to(dtype))


def test_a_block_has_the_scale_it_had_alone() -> None:
    """Append-only: later slots, however large, change nothing, and neither do other rows of the batch."""
    x = sample(64, 16)
    x[:, 40:] *= 1e4
    whole, first = Fp8(32).encode(x), Fp8(32).encode(x[:, :32])
    assert torch.equal(whole.decode()[:, :32], first.decode())
    assert torch.equal(first.cat([Fp8(32).encode(x[:, 32:])]).decode(), whole.decode())
    assert torch.equal(Fp8(32).encode(x[1:2]).decode(), whole.decode()[1:2])


@pytest.mark.parametrize(("text", "scales"), [("fp8", 1 / 32), ('fp8(scale="token")', 1)])
def test_ledger_is_the_formula(text: str, scales: float) -> None:
    model, prompt, steps = build("llama", num_hidden_layers=1, head_dim=64), 331, 40
    with Press.parse(text)(model) as session:
        cache = rollout(session, tokens(1, prompt), tokens(1, steps, 1))[1]
    kinds, packed = cache.ledger().by_kind(), (prompt + steps - 32) // 32 * 32
    assert kinds["codes"] == 2 * 2 * packed * 64
    assert kinds["scales"] == 2 * 2 * packed * scales * 2


def test_mistakes_are_named() -> None:
    with pytest.raises(PressSyntaxError, match='one scale per "head"'):
        fp8(scale="tensor")
    with pytest.raises(PressSyntaxError, match="block=0"):
        fp8(block=0)
