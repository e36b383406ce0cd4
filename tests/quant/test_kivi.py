"""KIVI in a cache: what is packed when, that decoded tokens are really quantized, and that padding is no token."""

from __future__ import annotations

import pytest
import torch

from kvpress import Press, kivi
from kvpress.quant.affine import Affine
from tests.helpers import decode, gap, rollout
from tests.models import build, left_padded, shared, tokens


def layout(cache: object) -> list[tuple[int, int]]:
    """(packed, dense) slots of every layer, of row 0 and head 0."""
    out = []
    for layer in cache.stores:  # type: ignore[attr-defined]
        packed = sum(int(item.per_row(item.segment.counts())[0, 0]) for item in layer.held)
        out.append((packed, int(layer.counts()[0, 0]) - packed))
    return out


@pytest.mark.parametrize(("group", "residual"), [(4, 0), (4, 5), (8, 8), (16, 3)])
@pytest.mark.parametrize("length", [1, 3, 8, 15, 16, 17, 37])
def test_blocks_leave_the_tail_as_soon_as_they_are_whole(group: int, residual: int, length: int) -> None:
    model = build("llama", num_hidden_layers=1)
    with kivi(bits=4, group=group, residual=residual)(model) as session:
        cache = session.prefill(tokens(1, length))
        for step in range(2 * group + 3):
            seen = cache.get_seq_length()
            packed, dense = layout(cache)[0]
            assert packed + dense == seen
            assert packed == max(0, seen - residual) // group * group
            decode(model, cache, tokens(1, 1, step))


def test_codes_are_those_of_the_true_keys() -> None:
    """Every packed block equals an independent encoding of the model's own keys and values for those tokens."""
    model, ids = build("llama", num_hidden_layers=1), tokens(2, 45)
    own = model(ids).past_key_values.layers[0]
    with kivi(bits=2, group=8, residual=8)(model) as session:
        layer = session.prefill(ids).stores[0]
    k, v = layer.held[0].segment.decode()
    assert k.shape[2] == 32
    key = Affine(2, "channel", 8).encode(own.keys.flatten(0, 1)[:, :32]).decode()
    value = Affine(2, "token", 8).encode(own.values.flatten(0, 1)[:, :32]).decode()
    assert gap(k.flatten(0, 1), key) < 1e-3 and gap(v.flatten(0, 1), value) < 1e-3
    assert torch.equal(layer.tail.keys, own.keys[:, :, 32:])


def test_decoded_keys_are_really_quantized() -> None:
    """Groups of one token would be exact and still be billed as two bits; blocks of a whole group are not."""
    model, ids, follow = build("llama", num_hidden_layers=1), tokens(1, 20), tokens(1, 40, 1)
    own = model(torch.cat([ids, follow], 1)).past_key_values.layers[0]
    with kivi(bits=2, group=8, residual=0)(model) as session:
        cache = rollout(session, ids, follow)[1]
    block = cache.stores[0].block()
    for slot, at in enumerate(block.pos[0, 0].tolist()):
        error = (block.k[0, 0, slot] - own.keys[0, 0, at]).abs().max()
        assert (error > 1e-3) if at < 56 else (error < 1e-5)
    assert not block.k.isnan().any() and not block.v.isnan().any()


def test_padding_never_enters_a_group() -> None:
    """A row padded with a token of enormous keys has the codes it has alone."""
    model = build("llama", num_hidden_layers=1)
    model.model.embed_tokens.weight.data[0] = 0.0
    model.model.embed_tokens.weight.data[0, 0] = 300.0
    rows = [tokens(1, 40)[0], tokens(1, 21)[0]]
    ids, mask = left_padded(rows)
    with kivi(bits=4, group=8, residual=0)(model) as session:
        together = session.prefill(ids, mask).stores[0].block()
        alone = session.prefill(rows[1][None]).stores[0].block()
    there = together.pos[1, 0] >= 0
    assert gap(together.k[1][:, there], alone.k[0]) < 1e-4
    assert gap(together.v[1][:, there], alone.v[0]) < 1e-4


def test_more_bits_are_closer() -> None:
    model, ids, follow = shared("llama"), tokens(2, 60), tokens(2, 9, 1)
    with Press.parse("full")(model) as session:
        wanted = rollout(session, ids, follow)[0]
    errors = []
    for bits in (2, 4, 8):
        with kivi(bits=bits, group=8, residual=8)(model) as session:
            errors.append(float((rollout(session, ids, follow)[0] - wanted).abs().mean()))
    assert errors[0] > 2 * errors[1] > 8 * errors[2] > 0


def test_keys_and_values_have_their_own_bits() -> None:
    press = Press.parse("kivi(bits=2, k_bits=8, v_bits=4, group=16)")
    assert press.recipe.key == Affine(8, "channel", 16) and press.recipe.value == Affine(4, "token", 16)
    assert Press.parse('kivi(keys="token")').recipe.key == Affine(2, "token", 32)


def test_segments_stay_few() -> None:
    """Joined as they grow: their number is that of a logarithm, not of the blocks."""
    model = build("llama", num_hidden_layers=1)
    with kivi(bits=4, group=4, residual=4)(model) as session:
        cache = session.prefill(tokens(1, 9))
        decode(model, cache, tokens(1, 200, 1))
    assert len(cache.stores[0].held) <= 8
