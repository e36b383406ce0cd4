"""Leverage scores against the rows of U from a singular value decomposition, and keys turned back by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvpress import Press, leverage
from kvpress.errors import UnsupportedError
from kvpress.evidence.evidence import Needs
from kvpress.evidence.rope import unrotated
from kvpress.policies.leverage import Leverage
from kvpress.storage.block import Block
from tests.helpers import positions_of
from tests.models import build, left_padded, shared, tokens
from tests.policies.scoring import LENGTHS, ROUNDED, assert_order_in_memory_is_nothing, compare, padded, rotate

EXACT = Leverage(sketch=0, keys="rotated")


def by_svd(k: Tensor, v: Tensor) -> list[float]:
    u, s, _ = torch.linalg.svd(k - k.mean(0), full_matrices=False)
    return (u[:, s > 1e-5 * s[0]] ** 2).sum(1).tolist()


def by_inverse(k: Tensor, ridge: float) -> list[float]:
    x = k - k.mean(0)
    inverse = torch.linalg.inv(x.T @ x + ridge * torch.eye(k.shape[1], dtype=k.dtype))
    return [float(row @ inverse @ row) for row in x]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exact_scores(dtype: torch.dtype) -> None:
    compare(EXACT, by_svd, *padded(dtype=dtype), ROUNDED)
    compare(Leverage(48, keys="rotated"), by_svd, *padded(dtype=dtype), ROUNDED)  # wider than the keys: exact
    assert_order_in_memory_is_nothing(EXACT)


def test_ridge() -> None:
    scorer = Leverage(sketch=0, ridge=0.5, keys="rotated")
    assert compare(scorer, lambda k, v: by_inverse(k, 0.5), *padded((37, 30, 20)), ROUNDED) == 3 * 87


@pytest.mark.parametrize("sketch", [0, 5])
def test_scores_are_parts_of_the_rank(sketch: int) -> None:
    block, seen = padded()
    scores = Leverage(sketch, keys="rotated")(block, seen)
    for row, length in enumerate(LENGTHS):
        mine = scores[row, :, -length:]
        assert mine.min() >= 0 and mine.max() <= 1
        rank = min(length - 1, sketch or 16)  # centering takes one
        assert (mine.sum(-1) - rank).abs().max() < ROUNDED * rank


def test_scores_know_neither_the_scale_nor_the_basis_of_the_keys() -> None:
    block, seen = padded()
    basis = torch.randn(16, 16, generator=torch.Generator().manual_seed(3))
    other = Block(block.k @ basis * 7 + 3, block.v, block.pos)
    gap = (EXACT(other, seen) - EXACT(block, seen))[block.valid]
    assert gap.abs().max() < 5e-4


def test_a_sketch_is_the_leverage_of_projected_keys() -> None:
    block, seen = padded((60, 33), heads=2)
    whole, few, again = (Leverage(9, keys="rotated", seed=s)(block, seen) for s in (1, 2, 1))
    assert torch.equal(whole, again) and not torch.allclose(whole, few)
    generator = torch.Generator().manual_seed(1_000_003 + 1)  # seed 1, layer 1
    projection = torch.randn(2, 16, 9, generator=generator).double() / 3
    for row, length in enumerate((60, 33)):
        for head in range(2):
            k = block.k[row, head, -length:].double() @ projection[head]
            wanted = torch.tensor(by_svd(k, k))
            assert (whole[row, head, -length:] - wanted).abs().max() < ROUNDED


def test_keys_are_turned_back_by_their_own_position() -> None:
    block, seen = padded()
    at = seen.rank.clamp(min=0).flatten(0, 1)
    turned = Block(rotate(block.k.flatten(0, 1).unsqueeze(1), at).view_as(block.k), block.v, block.pos)
    plain = EXACT(block, seen)
    assert (Leverage(sketch=0)(turned, seen) - plain)[block.valid].abs().max() < ROUNDED
    assert (EXACT(turned, seen) - plain)[block.valid].abs().max() > 0.05


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_oss", "gemma3"])
def test_what_a_model_projects_is_what_is_found(family: str) -> None:
    """Left-padded rows; keys of the projection (after its norm, where there is one) against the cached ones."""
    model, (ids, mask) = shared(family), left_padded([tokens(1, 29)[0], tokens(1, 17)[0]])
    caught: dict[int, Tensor] = {}
    hooks = []
    for index, layer in enumerate(model.model.layers):
        module = getattr(layer.self_attn, "k_norm", layer.self_attn.k_proj)
        hooks.append(module.register_forward_hook(lambda m, a, out, index=index: caught.__setitem__(index, out)))
    with leverage(keep=0.5)(model) as session:
        cache = session.prefill(ids, mask, compress=False)
    for hook in hooks:
        hook.remove()
    factor = model.model.rotary_emb.attention_scaling if family == "gpt_oss" else 1.0  # YaRN
    assert family != "gpt_oss" or factor > 1.1
    for layer in cache.stores:
        block = layer.block()
        seen = layer.evidence(block)
        wanted = caught[layer.index]
        heads, dim = block.k.shape[1], block.k.shape[3]
        if wanted.dim() == 3:
            wanted = wanted.view(2, -1, heads, dim).transpose(1, 2)
        elif wanted.shape[1] != heads:
            wanted = wanted.transpose(1, 2)
        gap = (unrotated(seen.of(session.press.recipe.scorer), block.k, seen.rank) - factor * wanted)[block.valid]
        assert gap.abs().max() < 1e-4 * wanted.abs().max()
        assert torch.equal(seen.rank[:, 0][mask.bool()], positions_of(mask).int()[mask.bool()])


def test_equal_tokens_of_the_first_layer_tie() -> None:
    model, ids = shared("llama"), tokens(1, 12).repeat(1, 3)
    with leverage(keep=0.5, sinks=0, recent=0)(model) as session:
        first = session.prefill(ids, compress=False).stores[0]
        block = first.block()
        scores = Leverage()(block, first.evidence(block))[0]
    assert torch.equal(scores[:, :12], scores[:, 12:24]) and torch.equal(scores[:, :12], scores[:, 24:])


def test_models_whose_keys_cannot_be_turned_back() -> None:
    with pytest.raises(UnsupportedError, match='keys="rotated"'), leverage(keep=0.5)(build("opt")):
        raise AssertionError("not reached")
    with leverage(keep=0.5, keys="rotated")(build("opt")) as session:
        assert session.report(session.prefill(tokens(1, 40))).layers[0].most == 20
    assert leverage(keep=1.0).recipe.needs == Needs()


def test_variant() -> None:
    assert Press.parse("leverage@kvpress").recipe.scorer == Leverage(48, ridge=0.01)
