"""MiniCache: directions by SLERP, norms per layer, the most different slots whole, and one storage for two layers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kvpress import Press, PressCache, minicache
from kvpress.errors import PressConflictError, PressSyntaxError
from kvpress.policies.minicache import DirectedPair, SlerpPairs
from tests.helpers import decode, gap, rollout
from tests.models import build, left_padded, shared, tokens


def plain_slerp(a: Tensor, b: Tensor, t: float) -> tuple[Tensor, float]:
    """Direction and angle of two vectors, from the formula, in fp64."""
    a, b = a.double() / a.double().norm(), b.double() / b.double().norm()
    omega = math.acos(max(-1.0, min(1.0, float(a @ b))))
    return (math.sin((1 - t) * omega) * a + math.sin(t * omega) * b) / math.sin(omega), omega


def test_directions_and_norms_are_those_of_the_formula() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 3, 7, 12)
    b += 0.7 * a
    pairs = SlerpPairs(t=0.6)
    e, norm_a, norm_b = pairs.merge(a, b)
    for run in range(3):
        for slot in range(7):
            wanted, omega = plain_slerp(a[run, slot], b[run, slot], 0.6)
            assert gap(e[run, slot].double(), wanted) < 1e-5
            assert float(pairs.angle(a, b)[run, slot]) == pytest.approx(omega / math.pi, abs=1e-5)
    assert norm_a.dtype == torch.float16 and gap(norm_a, a.norm(dim=-1)) < 5e-3
    assert gap(norm_b, b.norm(dim=-1)) < 5e-3


@pytest.mark.parametrize("angle", [0.0, 1e-5, 0.1, 0.5, 1.0, 2.0])
def test_error_of_a_restored_vector_follows_the_angle(angle: float) -> None:
    """x_a is off by 2 |x_a| sin(t Omega / 2), x_b by 2 |x_b| sin((1 - t) Omega / 2)."""
    a = torch.tensor([[[3.0, 0.0, 0.0]]])
    b = 5.0 * torch.tensor([[[math.cos(angle), math.sin(angle), 0.0]]])
    e, norm_a, norm_b = SlerpPairs(t=0.6).merge(a, b)
    assert float((norm_a[..., None].float() * e - a).norm()) == pytest.approx(6 * math.sin(0.3 * angle), abs=5e-3)
    assert float((norm_b[..., None].float() * e - b).norm()) == pytest.approx(10 * math.sin(0.2 * angle), abs=5e-3)


def test_degenerate_vectors_stay_finite() -> None:
    a = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [60000.0, 60000.0]]])
    b = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-60000.0, 1.0]]])
    for x in SlerpPairs().merge(a, b):
        assert torch.isfinite(x).all()
    assert SlerpPairs().angle(a, b)[0, 1] > 0.99


@pytest.mark.parametrize(
    ("layers", "start", "pairs"), [(8, 0.5, [(4, 5), (6, 7)]), (5, 0.5, [(3, 4)]), (4, 0.0, [(0, 1), (2, 3)])]
)
def test_which_layers_share(layers: int, start: float, pairs: list[tuple[int, int]]) -> None:
    assert SlerpPairs(start).pairs(layers) == pairs


def test_the_most_different_slots_stay_whole() -> None:
    torch.manual_seed(0)
    angle, there = torch.rand(2, 2, 40), torch.ones(2, 2, 40, dtype=torch.bool)
    there[1, 1, 20:] = False
    assert SlerpPairs(retained=0.05).keep_whole(angle, there).tolist() == [[2, 2], [2, 1]]
    angle[0, 0] = 0.2
    angle[0, 0, 3:9] = 0.8
    ranged = SlerpPairs(retained=0.5, rule="range", gamma=0.1).keep_whole(angle, there)
    assert ranged[0, 0] == 6


def exact_and_shared(press: Press, ids: Tensor) -> tuple[PressCache, PressCache]:
    model = build("llama", num_hidden_layers=4)
    with Press.parse("full")(model) as session:
        exact = session.prefill(ids)
    with press(model) as session:
        return exact, session.prefill(ids)


def test_what_is_stored_is_what_the_formula_says() -> None:
    """Every slot of both layers: whole ones as they were, merged ones the norm times the shared direction."""
    press = minicache(start=0.5, block=8, retained=0.1)
    exact, cache = exact_and_shared(press, tokens(1, 61))
    low, high = exact.stores[2].block(), exact.stores[3].block()
    merged, whole = (item.segment for item in cache.stores[2].held)
    count, kept = merged.width, whole.width
    assert (count, kept) == (48, 7) and cache.stores[2].tail.count == 6
    for head in range(2):
        angles = []
        for slot in range(55):
            k, v = (plain_slerp(getattr(low, n)[0, head, slot], getattr(high, n)[0, head, slot], 0.6) for n in "kv")
            angles.append(max(k[1], v[1]))
        wanted = sorted(sorted(range(55), key=lambda i: -angles[i])[:7])
        assert whole.positions()[0, head].tolist() == wanted
        assert torch.equal(whole.decode()[0][0, head], low.k[0, head, wanted])
    for number, dense in ((2, low), (3, high)):
        segment = cache.stores[number].held[0].segment
        for got, source in zip(segment.decode(), (dense.k, dense.v), strict=True):
            at = segment.positions()[0].long()
            for head in range(2):
                here, there = (getattr(b, "k" if source is dense.k else "v")[0, head] for b in (low, high))
                for slot in range(0, 48, 5):
                    where = int(at[head, slot])
                    direction, _ = plain_slerp(here[where], there[where], 0.6)
                    norm = float(source[0, head, where].double().norm())  # stored in fp16
                    assert gap(got[0, head, slot].double(), norm * direction) < 6e-4 * norm


def directions(cache: PressCache, layer: int) -> set[int]:
    found = set()
    for item in cache.stores[layer].held:
        for slab in item.segment.slabs:
            if isinstance(slab.pair, DirectedPair):
                found |= {tensor.data_ptr() for *_, tensor in slab.pair.inner.tensors()}
    return found


@pytest.mark.parametrize("codec", ["", " | kivi(bits=4, group=4, residual=8)"])
def test_one_storage_for_two_layers_whatever_happens_to_the_cache(codec: str, tmp_path: Path) -> None:
    press = Press.parse("snapkv(keep=0.7, window=4, every_prompt=true) | minicache(start=0.5, block=4)" + codec)
    model = build("llama", num_hidden_layers=4)
    with press(model) as session:
        cache = session.prefill(tokens(2, 61))

        def check(one: PressCache) -> None:
            assert directions(one, 2) == directions(one, 3) != set()
            ledger = one.ledger().by_layer()
            assert ledger[3] < 0.75 * ledger[2]

        check(cache)
        check(cache.fork())
        check(cache.fork(torch.tensor([1, 1, 0])))
        decode(model, cache, tokens(2, 40, 1))
        check(cache)
        session.prefill(tokens(2, 9, 2), cache=cache)  # evicts again
        check(cache)
        cache.save(tmp_path / "cache.safetensors", model)
        loaded = PressCache.load(tmp_path / "cache.safetensors", model)
        check(loaded)
        assert loaded.nbytes() == cache.nbytes()
        assert (tmp_path / "cache.safetensors").stat().st_size < 1.1 * cache.nbytes() + 40_000
        follow = tokens(2, 20, 3)
        assert gap(decode(model, loaded, follow), decode(model, cache, follow)) < 1e-5


def test_bytes_follow_the_formula() -> None:
    model = build("llama", num_hidden_layers=4, head_dim=64)
    prompt, heads, dim = 1280, 2, 64
    with minicache(start=0.5, retained=0.05)(model) as session:
        cache = session.prefill(tokens(1, prompt))
    whole = math.ceil(0.05 * prompt)
    merged = (prompt - whole) // 32 * 32
    pair = heads * (2 * merged * (dim * 4 + 2 * 2) + 2 * 2 * (prompt - merged) * dim * 4 + 4 * (merged + 2 * whole))
    formula = 2 * heads * prompt * 2 * dim * 4 + pair
    assert 0.999 * formula <= cache.nbytes() <= 1.01 * formula
    with Press.parse("minicache(start=0.5) | kivi(bits=4, group=64, residual=32)")(model) as session:
        small = session.prefill(tokens(1, prompt))
    assert small.nbytes() < 0.3 * cache.nbytes()


def test_a_padded_row_shares_what_it_shares_alone() -> None:
    model, rows = shared("llama"), [tokens(1, 41)[0], tokens(1, 27, 5)[0]]
    ids, mask = left_padded(rows)
    press = minicache(start=0.3, block=4, retained=0.1)
    with press(model) as session:
        cache = session.prefill(ids, mask)
        follow = tokens(2, 11, 3)
        together = decode(model, cache, follow, mask)
        for number, row in enumerate(rows):
            alone, _ = rollout(session, row[None], follow[number : number + 1])
            assert gap(together[number : number + 1], alone[:, 1:]) < 2e-3


def test_what_slots_received_goes_along_when_a_prompt_is_compressed_between_its_chunks() -> None:
    press = Press.parse('minicache(start=0, block=4) | h2o(keep=24, schedule="after_prefill")')
    with press(build("llama", num_hidden_layers=4)) as session:
        cache = session.prefill(tokens(1, 60), chunk=20, between=True)
        assert all(int(layer.counts().max()) == 24 for layer in cache.stores)


def test_refused_with_both_names() -> None:
    for text, word in (
        ("minicache | h2o", "every step"),
        ("zigzag | snapkv | minicache", "layer budget"),
        ("think | minicache", "channels are dropped"),
        ("minicache | minicache", "which layers share"),
    ):
        with pytest.raises(PressConflictError, match=f"(?s)minicache.*{word}"):
            Press.parse(text)
    for text in ("minicache(start=1)", "minicache(rule=best)", "minicache(block=0)", "minicache(t=2)"):
        with pytest.raises(PressSyntaxError):
            Press.parse(text)


@pytest.mark.parametrize("prompt", [1, 31, 32, 33, 34, 1000])
@pytest.mark.parametrize("dim", [64, 80, 256])
def test_bytes_of_any_length_and_width(dim: int, prompt: int) -> None:
    """A pair shares whole blocks of 32 slots, to the byte; the rest is dense twice, positions and rows are named."""
    model, heads = build("llama", num_hidden_layers=2, head_dim=dim, max_position_embeddings=1024), 2
    with minicache(start=0.0, retained=0.05)(model) as session:
        cache = session.prefill(tokens(1, prompt))
    whole = math.ceil(0.05 * prompt)
    merged = (prompt - whole) // 32 * 32
    kinds = cache.ledger().by_kind()
    shared_by_both = heads * 2 * merged * (dim * 4 + 2 * 2)
    alone = 2 * heads * 2 * (prompt - merged) * dim * 4
    beside = kinds.get("positions", 0), kinds.get("indices", 0)
    assert cache.nbytes() - sum(beside) == shared_by_both + alone
    assert beside[0] <= 4 * 2 * heads * (merged + whole) and beside[1] <= 3 * 8 * heads


def test_reset_keeps_the_layers_together() -> None:
    with Press.parse("minicache(start=0, block=4)")(shared("llama")) as session:
        cache = session.prefill(tokens(1, 40))
        before = cache.nbytes()
        cache.reset()
        assert session.prefill(tokens(1, 40), cache=cache).nbytes() == before
