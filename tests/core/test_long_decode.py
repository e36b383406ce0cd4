"""I11: what is held after two thousand decoded tokens is within rounding of what fp64 gives, in every type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kvpress import Press, PressCache, h2o, streaming_llm
from kvpress.attention.partial import fold_queries
from kvpress.cache.layer import StoreLayer
from kvpress.evidence.evidence import Rule
from kvpress.storage.columns import MASS
from tests.helpers import decode, rollout
from tests.models import build, left_padded, tokens

DIM, STEPS = 16, 2000


def turned(model: Any, x: Tensor, by: int) -> Tensor:
    """RoPE written out in fp64, with the frequencies of the model (`model.to(dtype)` rounds them too)."""
    angle = by * model.model.rotary_emb.inv_freq.double()
    a, b = x.double().chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def one_layer(dtype: torch.dtype) -> Any:
    return build("llama", num_hidden_layers=1).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sinks_do_not_drift(dtype: torch.dtype) -> None:
    """Two rows of other lengths, the shorter one padded: each row's sinks stand where its own evictions put them."""
    model, lengths, sinks = one_layer(dtype), (40, 23), 3
    ids, mask = left_padded([tokens(1, n)[0] for n in lengths])
    with streaming_llm(keep=16, sinks=sinks)(model) as session:
        cache = session.prefill(ids, mask, compress=False)
        before = [cache.stores[0].tail.keys[row, :, 40 - n :][:, :sinks].clone() for row, n in enumerate(lengths)]
        session.compress(cache)
        decode(model, cache, tokens(2, STEPS), mask)
        layer = cache.stores[0]
        held = layer.tail.k[:, :, :sinks]
    for row, length in enumerate(lengths):
        wanted = turned(model, before[row], length + STEPS - 16)
        # Rounded twice: when the key was given, and when it was moved; the angle is fp32, as in transformers.
        error = (held[row].double() - wanted).norm(dim=-1) / wanted.norm(dim=-1)
        assert error.max() < torch.finfo(dtype).eps + 2 * STEPS * torch.finfo(torch.float32).eps
    assert layer.sink_keys is not None and torch.equal(layer.sink_keys[0], before[0])


@pytest.mark.parametrize("lengths", [(7,), (7, 7), (9, 2), (30, 2), (2,)])
def test_sinks_of_rows_that_begin_short(lengths: tuple[int, ...]) -> None:
    """The first eviction comes while decoding, and padding or missing sinks stand in front: as if alone."""
    model, follow, sinks = one_layer(torch.float32), tokens(len(lengths), 25, 1), 4
    rows = [tokens(1, n)[0] for n in lengths]
    ids, mask = left_padded([torch.zeros(max(lengths) + 3, dtype=torch.long), *rows])
    ids, mask = ids[1:], mask[1:]  # three columns more than the longest row needs
    dense = [model(torch.cat([row, more])[None]).past_key_values for row, more in zip(rows, follow, strict=True)]
    with streaming_llm(keep=11, sinks=sinks)(model) as session:
        got, cache = rollout(session, ids, follow, mask)
        layer = cache.stores[0]
        for row, prompt in enumerate(rows):
            alone, own = rollout(session, prompt[None], follow[row : row + 1])
            assert (got[row] - alone[0]).abs().max() < 3e-5
            plain = dense[row].layers[0].keys
            wanted = turned(model, plain[0, :, :sinks], len(prompt) + 25 - 11)
            for held in (layer.tail.k[row, :, :sinks], own.stores[0].tail.k[0, :, :sinks]):
                assert (held.double() - wanted).abs().max() < 1e-5


def test_given_keys_travel_with_forks_rows_and_files(tmp_path: Path) -> None:
    model, path = one_layer(torch.bfloat16), tmp_path / "cache.safetensors"
    with streaming_llm(keep=16)(model) as session:
        _, cache = rollout(session, tokens(2, 40), tokens(2, 60, 1))
        given = cache.stores[0].sink_keys
        assert given is not None
        fork = cache.fork(torch.tensor([1]))
        cache.save(path, model)
        loaded = PressCache.load(path, model)
        for other, row in ((fork, slice(1, 2)), (loaded, slice(0, 2))):
            kept = other.stores[0].sink_keys
            assert kept is not None and torch.equal(kept, given[row])
            batch = kept.shape[0]
            decode(model, other, tokens(2, 50, 2)[row][:batch])
            wanted = turned(model, given[row], 40 + 110 - 16)
            error = (other.stores[0].tail.k[:, :, :4].double() - wanted).norm(dim=-1) / wanted.norm(dim=-1)
            assert error.max() < torch.finfo(torch.bfloat16).eps
        assert torch.equal(cache.stores[0].sink_keys, given)  # type: ignore[arg-type]


def test_bytes_of_the_given_keys() -> None:
    """One key a sink beside the tail, of the type of the model, counted as keys of the window."""
    text = "streaming_llm(keep=37, sinks=5, positions={})"
    ledgers = []
    for positions in ("slots", "keep"):
        with Press.parse(text.format(positions))(one_layer(torch.bfloat16)) as session:
            cache = rollout(session, tokens(2, 60), tokens(2, 20, 1))[1]
            ledgers.append(cache.ledger())
            assert cache.peak <= session.peak(60, rows=2).held
    moved, kept = ledgers
    more = 2 * 2 * 5 * DIM * 2
    assert moved.by_side()["k"] - kept.by_side()["k"] == more == moved.by_kind()["window"] - kept.by_kind()["window"]
    assert moved.total - kept.total == more + 2 * 8  # and how far each row was moved, int64


def test_mass_received_in_two_thousand_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """h2o's sums against fp64 sums over the very queries and slots of every step."""
    model, sums = one_layer(torch.bfloat16), dict[int, Tensor]()
    attend = StoreLayer.attend

    def counted(layer: StoreLayer, q: Tensor, rule: Rule) -> Tensor:
        out = attend(layer, q, rule)
        block = layer.block()
        logits = fold_queries(q, 2).double() @ block.k.double().mT * rule.scale
        probs = logits.masked_fill(~block.valid.unsqueeze(2), -torch.inf).softmax(-1).sum(2)[0]
        for slot, at in enumerate(block.pos[0, 0].tolist()):
            if at >= 0:
                sums[at] = sums.get(at, torch.zeros(2, dtype=torch.float64)) + probs[:, slot]
        return out

    # All slots are protected but one, so that both heads hold the same and the first ones are never evicted.
    with h2o(keep=13, sinks=6, recent=6)(model) as session:
        cache = session.prefill(tokens(1, 1))
        monkeypatch.setattr(StoreLayer, "attend", counted)
        decode(model, cache, tokens(1, STEPS))
        layer = cache.stores[0]
        received = layer.tail.columns[MASS]
        assert received.dtype == torch.float32
        mass, pos = received[0], layer.tail.positions()[0, 0].tolist()
    compared = 0
    for slot, at in enumerate(pos):
        if 1 <= at < 6:
            wanted = sums[at]
            assert ((mass[:, slot].double() - wanted).abs() / wanted).max() < torch.finfo(torch.bfloat16).eps / 4
            compared += 1
    assert compared == 5 and float(sums[1].max()) > 10
