"""Premises: each figure by hand on slots made for it, measured once per session, and said where it does not hold."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from kvpress import Press
from kvpress.errors import PremiseWarning
from kvpress.evidence.evidence import Evidence, Rule
from kvpress.evidence.premise import run_of, spread
from kvpress.lowrank.gear import CoherentError, Gear
from kvpress.policies.minicache import NeighboursAgree, SlerpPairs
from kvpress.policies.snapkv import LaterQueriesAgree
from kvpress.policies.zigzag import LayersDiffer, Uncertainty
from kvpress.quant.affine import Affine, OutlierChannels
from kvpress.quant.think import Channels, FewChannels
from kvpress.storage.block import Block
from tests.models import build

HEADS, SLOTS, DIM = 2, 97, 16


def _block(k: Tensor, v: Tensor | None = None) -> Block:
    pos = torch.arange(k.shape[2], dtype=torch.int32).expand(*k.shape[:3])
    return Block(k, torch.zeros_like(k) if v is None else v, pos)


def _seen(block: Block, queries: Tensor | None = None) -> Evidence:
    at = None
    if queries is not None:
        n, w = block.k.shape[2], queries.shape[2]
        at = torch.arange(n - w, n, dtype=torch.int32).expand(len(queries), -1)
    return Evidence(0, Rule(1.0), block.pos, queries=queries, query_pos=at)


def _keys() -> Tensor:
    return torch.randn(1, HEADS, SLOTS, DIM, generator=torch.Generator().manual_seed(5))


def test_minicache_measures_the_cosine_of_layers_that_share():
    keys = _keys()
    other = torch.randn(keys.shape, generator=torch.Generator().manual_seed(6))
    premise = NeighboursAgree(SlerpPairs(start=0.5))
    layers = [_block(other), _block(keys), _block(keys, keys), _block(3 * keys, 0.5 * keys)]  # layers 2 and 3 share
    same = premise.figure([premise.sample(block, _seen(block)) for block in layers])
    assert same == pytest.approx(1.0, abs=1e-5)
    layers[3] = _block(3 * keys, -0.5 * keys)  # keys alike, values opposite
    assert premise.figure([premise.sample(block, _seen(block)) for block in layers]) == pytest.approx(0.0, abs=1e-5)


def test_minicache_loses_little_where_its_premise_holds_and_much_where_it_does_not():
    """Neighbouring layers project alike and add little to the stream: what the method builds on."""
    ids = torch.randint(3, 60, (1, 90), generator=torch.Generator().manual_seed(1))
    found = {}
    for agree in (True, False):
        model = build("llama", num_hidden_layers=4)
        for low, high in zip(model.model.layers[::2], model.model.layers[1::2], strict=True):
            if agree:
                for name in ("k_proj", "v_proj"):
                    getattr(high.self_attn, name).weight.copy_(getattr(low.self_attn, name).weight)
            for small in (low.self_attn.o_proj, low.mlp.down_proj):
                small.weight.mul_(0.02)
        with torch.no_grad():
            want = model(ids).logits[0, -1]
            with warnings.catch_warnings(), Press.parse("minicache@paper(block=8)")(model) as session:
                warnings.simplefilter("ignore")
                cache = session.prefill(ids[:, :-1])
                got = model(ids[:, -1:], past_key_values=cache).logits[0, -1]
        assert session.premises is not None
        (finding,) = session.premises
        found[agree] = finding, float((got - want).norm() / want.norm())
    assert found[True][0].holds and not found[False][0].holds
    assert found[True][1] < 0.02
    assert found[False][1] > 5 * found[True][1]


def test_think_measures_the_energy_in_the_channels_it_keeps():
    keys, queries = torch.ones(1, 1, SLOTS, DIM), torch.ones(1, 2, 8, DIM)
    keys[..., :4] = 3.0  # energy 9 in 4 channels, 1 in 12
    block = _block(keys)
    premise = FewChannels(Channels(keys=0.25, window=8))
    assert premise.figure([premise.sample(block, _seen(block, queries))]) == pytest.approx(36 / 48)


def test_kivi_compares_ranges_along_tokens_and_channels():
    keys = torch.zeros(1, 1, SLOTS, DIM)
    keys[..., 3] = 8.0  # an outlier channel: a range of 8 in every token's first group
    keys[..., ::2, 5] = 1.0  # and one channel that changes by 1
    block, premise = _block(keys), OutlierChannels(8)
    assert Affine(2, "channel", 8).premise == premise
    assert Affine(2, "token", 8).premise is None
    by_token, by_channel = (64 + 0) / 2, 1 / DIM
    assert premise.figure([premise.sample(block, _seen(block))]) == pytest.approx(by_token / by_channel)


def test_gear_tells_a_coherent_error_from_noise():
    codec = Gear("channel", bits=2, group=8, block=8, rank=1, prefill_rank=1, outliers=0.0)
    premise = CoherentError(codec)
    noise = _block(_keys())
    wave = torch.linspace(0, 9, SLOTS).sin()[:, None] * torch.linspace(0.5, 2, DIM)  # rank one, and so is its error
    coherent = _block(wave.expand(1, HEADS, -1, -1))
    white, low = (premise.figure([premise.sample(block, _seen(block))]) for block in (noise, coherent))
    assert 0.8 < white < 1.2
    assert low > 2 * premise.bound


def test_zigzag_measures_how_layers_differ():
    premise = LayersDiffer(Uncertainty())
    assert premise.figure([torch.tensor(4.0).double()] * 3) == 0.0
    asked = [torch.tensor(value).double() for value in (2.0, 4.0, 6.0)]
    assert premise.figure(asked) == pytest.approx((8 / 3) ** 0.5 / 4)


def test_snapkv_compares_the_halves_of_its_window():
    keys = torch.eye(DIM).repeat(7, 1)[None, None, :SLOTS]  # slot n is direction n mod 16
    block, premise = _block(keys), LaterQueriesAgree(8)
    to = lambda a, b: 30 * torch.eye(DIM)[[a] * 4 + [b] * 4][None, None]  # noqa: E731
    assert premise.figure([premise.sample(block, _seen(block, to(3, 3)))]) == pytest.approx(1.0)
    assert premise.figure([premise.sample(block, _seen(block, to(3, 5)))]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("text", ["kivi(bits=2, group=4)", "minicache(block=4)", "zigzag | snapkv(keep=40)"])
def test_a_session_measures_once_and_warns(text: str):
    model, ids = (
        build("llama", num_hidden_layers=4),
        torch.randint(3, 60, (2, 90), generator=torch.Generator().manual_seed(1)),
    )
    with Press.parse(text)(model) as session:
        assert session.premises is None
        session.prefill(ids[:, :40])  # too short to tell
        assert session.premises is None
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            session.prefill(ids)
            first = session.premises
            assert first is not None
            session.prefill(ids.flip(1))
            model.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=0)
        assert session.premises is first
    told = [str(one.message) for one in said if issubclass(one.category, PremiseWarning)]
    assert len(told) == sum(not finding.holds for finding in first)
    for finding, line in zip((f for f in first if not f.holds), told, strict=True):
        assert line.startswith(f"{finding.method}: ") and "does not hold" in line and len(line) < 300


def test_a_padded_row_is_measured_as_alone_and_presses_without_a_premise_measure_nothing():
    model, ids = (
        build("llama", num_hidden_layers=4),
        torch.randint(3, 60, (1, 80), generator=torch.Generator().manual_seed(1)),
    )
    padded = torch.cat([torch.zeros(1, 9, dtype=torch.long), ids], 1)
    mask = (torch.arange(89) >= 9).long()[None]
    figures = []
    for given, seen in ((ids, None), (padded, mask)):
        with Press.parse("minicache(block=4)")(model) as session, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            session.prefill(given, attention_mask=seen)
            assert session.premises is not None
            figures.append(session.premises[0].figure)
    assert figures[0] == pytest.approx(figures[1], abs=1e-5)
    with Press.parse("knorm(keep=20, skip=0)")(model) as session:
        session.prefill(ids)
        assert session.premises == ()


def test_samples_are_of_real_tokens():
    pos = torch.tensor([-1] * 5 + list(range(5, 97)), dtype=torch.int32).expand(1, 2, -1)
    block = Block(torch.zeros(1, 2, 97, 4), torch.zeros(1, 2, 97, 4), pos)
    for columns in (spread(block, 13), run_of(block, 13)):
        assert (pos[0, 0, columns] >= 0).all()
    assert spread(block, 13)[[0, -1]].tolist() == [5, 96]
    assert run_of(block, 13).diff().unique().tolist() == [1]
