"""ThinK: the channels of its formula are kept, attention on them is attention with the others zeroed, bytes go."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvpress import Press, PressCache, think
from kvpress.errors import PressConflictError, PressSyntaxError
from kvpress.evidence.evidence import Evidence, Rule
from kvpress.quant.affine import Affine
from kvpress.quant.think import Channels, FewerChannelsPair
from kvpress.storage.block import Block
from kvpress.storage.codec import Dense
from kvpress.storage.pair import Slots, Split
from tests.helpers import decode, gap, rollout
from tests.models import build, left_padded, shared, tokens


def scene(batch: int = 2, heads: int = 2, group: int = 3, n: int = 23, window: int = 5, dim: int = 10):
    """Random slots, the first four of row 1 padding, and the window's queries."""
    torch.manual_seed(3)
    k, v = torch.randn(2, batch, heads, n, dim)
    q = torch.randn(batch, heads * group, window, dim)
    pos = torch.arange(n, dtype=torch.int32).expand(batch, heads, n).clone()
    pos[1, :, :4] = -1
    k[1, :, :4] = v[1, :, :4] = torch.nan  # padding reaches no statistic
    at = torch.arange(n - window, n, dtype=torch.int32).expand(batch, -1).clone()
    return Block(k.nan_to_num(0.0), v.nan_to_num(0.0), pos), q, at


def plain_key_score(block: Block, q: Tensor, packed: Tensor, row: int, head: int) -> list[float]:
    heads, dim = block.k.shape[1], block.k.shape[3]
    group = q.shape[1] // heads
    mine = q[row, head * group : (head + 1) * group].double()
    scores = []
    for c in range(dim):
        asked = sum(float(mine[g, w, c]) ** 2 for g in range(group) for w in range(mine.shape[1]))
        held = sum(
            float(block.k[row, head, j, c].double()) ** 2 for j in range(block.k.shape[2]) if packed[row, head, j]
        )
        scores.append(asked * held)
    return scores


def test_channels_are_those_of_the_formula() -> None:
    block, q, at = scene()
    packed = block.valid.clone()
    packed[:, :, -6:] = False
    seen = Evidence(0, Rule(0.3), block.pos, q, at)
    chosen = Channels(0.5, 0.7, 5).choose(block, seen, packed)
    key, value = chosen["key_channels"], chosen["value_channels"]
    assert key.shape == (2, 2, 5) and value.shape == (2, 2, 7) and key.dtype == torch.uint8
    probs = seen.window(block, 5).double()
    for row in range(2):
        for head in range(2):
            scores = plain_key_score(block, q, packed, row, head)
            assert key[row, head].tolist() == sorted(sorted(range(10), key=lambda c: -scores[c])[:5])
            w = probs[row, head].sum((0, 1)) * packed[row, head]
            energy = [float((w * block.v[row, head, :, c].double() ** 2).sum()) for c in range(10)]
            assert value[row, head].tolist() == sorted(sorted(range(10), key=lambda c: -energy[c])[:7])


@pytest.mark.parametrize(("fraction", "dim", "kept"), [(0.6, 128, 77), (0.625, 128, 80), (0.5, 64, 32), (0.01, 64, 1)])
def test_how_many_channels_stay(fraction: float, dim: int, kept: int) -> None:
    assert Channels.count(fraction, dim) == kept


@pytest.mark.parametrize(
    "codec", [None, Affine(4, "channel", 4), Affine(2, "token", 4)], ids=["dense", "channel", "token"]
)
def test_attention_on_kept_channels_is_attention_with_the_others_zero(codec: Affine | None) -> None:
    torch.manual_seed(0)
    rows, values = torch.randn(3, 12, 16), torch.randn(3, 12, 16)
    channels = torch.stack([torch.randperm(16)[:8].sort().values for _ in range(3)]).to(torch.uint8)
    one = Dense() if codec is None else codec
    own = {"key_channels": channels[None], "value_channels": channels.flip(0)[None]}
    slots = Slots(rows, values, torch.arange(12).expand(3, -1).int(), torch.arange(3), own)
    packed = Channels(0.5, 0.5).around(Split(one, one)).encode(slots)

    def at() -> Tensor:
        raise AssertionError("this form asks for no positions")

    k, v = packed.decode(at)
    for dense in (k, v):
        assert dense.shape == (3, 12, 16) and (dense != 0).any(1).sum(-1).tolist() == [8, 8, 8]
    if codec is None:
        mine = channels.long().unsqueeze(1).expand(-1, 12, -1)
        assert torch.equal(k.gather(-1, mine), rows.gather(-1, mine))
    q, w = torch.randn(3, 5, 16), torch.rand(3, 5, 12)
    assert gap(packed.logits(q, at), q @ k.mT) < 1e-5
    assert gap(packed.mix(w, at), w @ v) < 1e-5
    part = packed.take(torch.tensor([2, 0]), torch.tensor([[0, 3], [11, 5]]))
    assert torch.equal(part.decode(at)[0], torch.stack([k[2, [0, 3]], k[0, [11, 5]]]))
    joined = packed.join(packed)
    assert joined is not None and torch.equal(joined.decode(at)[1], torch.cat([v, v], 1))


def test_bytes_follow_the_formula() -> None:
    model, heads, dim, prompt = build("llama", num_hidden_layers=1, head_dim=64), 2, 64, 1203
    with think(keep_channels=0.625, recent=32)(model) as session:
        cache = session.prefill(tokens(2, prompt))
    kept = 40
    formula = 2 * heads * ((prompt - 32) * (kept + dim) * 4 + 32 * 2 * dim * 4 + kept)
    assert formula <= cache.nbytes() <= 1.001 * formula
    with Press.parse("snapkv(keep=0.25) | think(keep_channels=0.625) | kivi(bits=2)")(model) as session:
        cache = session.prefill(tokens(2, prompt))
    slots = prompt // 4 - 32
    slots -= slots % 32
    dense = prompt // 4 - slots
    packed = slots * ((kept + dim) * 2 // 8 + 4 * (kept + dim) // 32)
    formula = 2 * heads * (packed + dense * 2 * dim * 4 + kept + 4 * (slots + dense))
    assert 0.99 * formula <= cache.nbytes() <= 1.01 * formula


def channels_of(cache: PressCache) -> list[list[list[int]]]:
    return [layer.own["key_channels"].tolist() for layer in cache.stores if layer.own]


def test_a_padded_row_keeps_the_channels_it_keeps_alone() -> None:
    model, rows = shared("llama"), [tokens(1, 41)[0], tokens(1, 29, 5)[0], tokens(1, 6, 7)[0]]
    ids, mask = left_padded(rows)
    with think(window=6, recent=7)(model) as session:
        together = channels_of(session.prefill(ids, mask))
        for number, row in enumerate(rows):
            alone = channels_of(session.prefill(row[None]))
            assert [layer[number] for layer in together] == [layer[0] for layer in alone]


def test_channels_are_frozen_and_decoded_tokens_stay_whole() -> None:
    model = shared("llama")
    with think(window=6, recent=7)(model) as session:
        cache = session.prefill(tokens(1, 41))
        before = channels_of(cache)
        decode(model, cache, tokens(1, 20, 1))
        assert channels_of(cache) == before
        assert cache.stores[0].tail.count == 27 and len(cache.stores[0].held) == 1
    with Press.parse("think(window=6) | kivi(bits=4, group=4, residual=5)")(model) as session:
        cache = rollout(session, tokens(1, 9), tokens(1, 60, 1))[1]  # a prompt shorter than the window that stays whole
        packed = [slab.pair for layer in cache.stores for item in layer.held for slab in item.segment.slabs]
        assert packed and all(isinstance(pair, FewerChannelsPair) for pair in packed)


def test_refused() -> None:
    for text in ("think(keep_channels=0)", "think(keep_values=1.5)", "think(window=0)"):
        with pytest.raises(PressSyntaxError, match="fractions"):
            Press.parse(text)
    with pytest.raises(PressConflictError, match="both decide which channels"):
        think() | think()
    with (
        pytest.raises(PressConflictError, match="whole bytes"),
        Press.parse("think(keep_values=0.6) | kivi(group=8)")(shared("llama")),
    ):
        raise AssertionError("not reached")
