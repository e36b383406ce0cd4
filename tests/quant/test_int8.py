"""int8 is the affine codec with one group a row: nothing of its own, so what is tested is that it is that."""

from __future__ import annotations

import pytest
import torch

from kvpress import Press, int8, kivi
from kvpress.quant.affine import Affine
from tests.helpers import gap, rollout
from tests.models import build, shared, tokens

DIMS = (16, 64, 80, 128)


@pytest.mark.parametrize("n", [1, 7, 65])
@pytest.mark.parametrize("dim", DIMS)
def test_values_of_the_formula_in_double(dim: int, n: int) -> None:
    generator = torch.Generator().manual_seed(dim + n)
    x = torch.randn(2, n, dim, generator=generator) * torch.linspace(0.1, 3, dim)
    packed = int8().recipe.key.encode(x)
    back = packed.decode()
    for run in range(2):
        for slot in range(n):
            row = x[run, slot].double()
            low, high = float(row.min()), float(row.max())
            step = (high - low) / 255
            # Half a step, and the rounding of step and minimum to fp16.
            assert (back[run, slot].double() - row).abs().max() <= step / 2 + (high - low + abs(low)) * 2**-11
    total = sum(t.untyped_storage().nbytes() for _, t in packed.tensors().values())
    assert total == 2 * n * (dim + 4)
    q, weights = torch.randn(2, 3, dim, generator=generator), torch.rand(2, 3, n, generator=generator).softmax(-1)
    assert (packed.logits(q) - q @ back.mT).abs().max() < 1e-5 * dim
    assert (packed.mix(weights) - weights @ back).abs().max() < 1e-5


@pytest.mark.parametrize("value", [0.0, -2.5, 60_000.0, -60_000.0])
def test_rows_without_a_range_are_exact(value: float) -> None:
    x = torch.full((2, 5, 16), value)
    back = int8().recipe.value.encode(x).decode()
    assert torch.equal(back, x.half().float())


def test_it_is_kivi_per_token_with_wide_groups() -> None:
    """On purpose not a second implementation."""
    recipe = int8(residual=3).recipe
    assert recipe == kivi(bits=8, keys="token", group=1024, residual=3).recipe
    assert isinstance(recipe.key, Affine) and recipe.key == recipe.value


def test_logits_are_nearly_those_of_the_full_cache() -> None:
    model, ids, follow = shared("llama"), tokens(2, 60), tokens(2, 9, 1)
    with Press.parse("full")(model) as session:
        wanted = rollout(session, ids, follow)[0]
    errors = {}
    for text in ("int8(residual=0)", 'kivi(bits=4, keys="token", group=16, residual=0)'):
        with Press.parse(text)(model) as session:
            errors[text] = gap(rollout(session, ids, follow)[0], wanted)
    small, large = errors.values()
    assert 0 < small < large / 4 and small < 0.1


def test_ledger_is_the_formula() -> None:
    model, prompt, steps = build("llama", num_hidden_layers=1, head_dim=64), 203, 7
    with int8(residual=32)(model) as session:
        cache = rollout(session, tokens(1, prompt), tokens(1, steps, 1))[1]
    kinds, packed = cache.ledger().by_kind(), prompt + steps - 32
    assert kinds["codes"] == 2 * 2 * packed * 64 and kinds["scales"] == 2 * 2 * packed * 4
