"""CriticalKV: the two stages against a plain reference, on random scores and in a model; what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kvpress import Press, PressCache, ada, criticalkv, h2o, kivi, snapkv
from kvpress.cache.layer import StoreLayer
from kvpress.errors import PressConflictError
from kvpress.evidence import output
from kvpress.pipeline import evict
from kvpress.policies.ada import AdaptiveHeads
from kvpress.policies.criticalkv import OutputPerturbation
from kvpress.storage.block import choose
from kvpress.storage.columns import ADDED
from tests.helpers import decode, forward, gap, kept
from tests.models import left_padded, shared, tokens
from tests.policies.scoring import padded

SNAPKV = "snapkv(keep=0.4, window=5, kernel_size=3)"


def by_hand(
    scores: list[float], added: list[float], count: int, safe: set[int], ratio: float, epsilon: float, all_of: bool
) -> set[int]:
    """The slots of one head that stay, of those at 0, 1, ... in order."""
    free = [i for i in range(len(scores)) if i not in safe]
    first = int((count if all_of else max(0, count - len(safe))) * ratio + 1e-9)
    first = max(0, first - len(safe)) if all_of else first
    by_attention = sorted(free, key=lambda i: (-scores[i], i))
    chosen, rest = by_attention[:first], by_attention[first:]
    rest.sort(key=lambda i: (-(scores[i] / sum(scores) + epsilon) * added[i], i))
    return safe | set((chosen + rest)[: max(0, count - len(safe))])


@pytest.mark.parametrize("all_of", [False, True])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 1.0])
def test_two_stages(ratio: float, all_of: bool) -> None:
    block, seen = padded((37, 19, 30, 4), 3)
    generator = torch.Generator().manual_seed(3)
    scores = torch.rand(block.pos.shape, generator=generator) ** 4
    scores = torch.where(scores < 0.01, 0.0, scores).masked_fill(~block.valid, torch.nan)
    added = torch.rand(block.pos.shape, generator=generator)
    held = block.valid.sum(-1)
    safe = block.valid & ((seen.rank < 2) | (seen.rank >= held.unsqueeze(-1) - 5))
    counts = torch.tensor([[17, 9, 21], [12, 12, 13], [7, 8, 30], [3, 4, 4]])
    refine = OutputPerturbation(ratio, 1e-2, all_of)
    keep = choose(refine(scores, added, block.pos, counts, safe), block.pos, counts, safe)
    compared = 0
    for row, head in ((r, h) for r in range(4) for h in range(3)):
        there = block.valid[row, head]
        own = scores[row, head, there].double().tolist(), added[row, head, there].double().tolist()
        count, sure = int(counts[row, head]), set(safe[row, head, there].nonzero().flatten().tolist())
        found = set(keep[row, head, there].nonzero().flatten().tolist())
        if len(sure) <= count:
            assert found == by_hand(*own, count, sure, ratio, 1e-2, all_of), (row, head)
            compared += 1
        best = sorted(set(range(int(there.sum()))) - sure, key=lambda i: (-own[0][i], i))
        first = int((count - len(sure)) * ratio + 1e-9)
        assert all_of or first <= 0 or set(best[:first]) <= found
        assert len(found) == count
    assert compared >= 9


def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[StoreLayer, Any, Tensor, Tensor, Tensor, Tensor]]:
    """(layer, block, scores, counts, protected, kept) of every eviction after a prompt."""
    calls: list[Any] = []
    retain, refine = evict.retain, OutputPerturbation.__call__
    given: list[Any] = []

    def record_refine(self: Any, scores: Tensor, added: Tensor, pos: Tensor, counts: Tensor, safe: Tensor) -> Tensor:
        given.append((scores.clone(), counts, safe))
        return refine(self, scores, added, pos, counts, safe)

    def record_retain(layer: StoreLayer, keep: Tensor) -> None:
        calls.append((layer, layer.block(), *given.pop(), keep))
        retain(layer, keep)

    monkeypatch.setattr(OutputPerturbation, "__call__", record_refine)
    monkeypatch.setattr(evict, "retain", record_retain)
    return calls


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize(
    "under", [SNAPKV, f"ada | {SNAPKV}", "zigzag | h2o(keep=0.4, sinks=2)", "expected_attention(keep=11, values=false)"]
)
def test_kept_sets_of_a_model(family: str, under: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of padded rows: norms by hand from the weights of o_proj, sets by hand from norms and the scorer's scores."""
    model, lengths = shared(family), (41, 27, 33)
    ids, mask = left_padded([tokens(1, n)[0] for n in lengths])
    calls = watched(monkeypatch)
    with Press.parse(f"criticalkv(ratio=0.4, epsilon=0.001) | {under}")(model) as session:
        session.prefill(ids, mask)
    layers = {m.layer_idx: m for m in model.modules() if hasattr(m, "o_proj")}
    assert calls
    for layer, block, scores, counts, safe, keep in calls:
        heads = block.v.shape[1]
        for row in range(3):
            there = block.valid[row, 0]
            weight = layers[layer.index].o_proj.weight.double().unflatten(1, (heads, -1, block.v.shape[3]))
            added = torch.einsum("ohgd,hnd->hgno", weight, block.v[row][:, there].double()).abs().sum(-1).mean(1)
            for head in range(heads):
                own = scores[row, head, there].double().tolist(), added[head].tolist()
                sure = set(safe[row, head, there].nonzero().flatten().tolist())
                wanted = by_hand(*own, int(counts[row, head]), sure, 0.4, 0.001, False)
                assert set(keep[row, head, there].nonzero().flatten().tolist()) == wanted


def test_heads_are_given_slots_by_attention_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ada, as in the authors' code: its budgets are those it gives without criticalkv."""
    budgets: list[Tensor] = []
    spread = AdaptiveHeads.__call__

    def record(self: AdaptiveHeads, total: Tensor, scores: Tensor) -> Tensor:
        budgets.append(spread(self, total, scores))
        return budgets[-1]

    monkeypatch.setattr(AdaptiveHeads, "__call__", record)
    sets = []
    for press in (ada() | Press.parse(SNAPKV), criticalkv() | ada() | Press.parse(SNAPKV)):
        with press(shared("llama")) as session:
            sets.append(kept(session.prefill(tokens(2, 61))))
    half = len(budgets) // 2
    assert half == 3 and torch.equal(budgets[0], budgets[half])  # later layers read what earlier ones kept
    assert [[len(head) for head in row] for row in sets[1][0]] == budgets[0].tolist()
    assert sets[0][0] != sets[1][0] and len(set(budgets[0].flatten().tolist())) > 1


@pytest.mark.parametrize("under", [SNAPKV, "h2o(keep=0.4)", "ada | h2o(keep=13)"])
def test_a_ratio_of_one_is_the_press_alone(under: str) -> None:
    model, ids, follow = shared("llama"), tokens(2, 41), tokens(2, 9, 1)
    found = []
    for text in (under, f"criticalkv(ratio=1) | {under}"):
        with Press.parse(text)(model) as session:
            cache = session.prefill(ids)
            found.append((decode(model, cache, follow), kept(cache)))
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]


@pytest.mark.parametrize("under", ["h2o(keep=0.4)", "ada | h2o(keep=13, sinks=1, recent=3)"])
def test_norms_are_worked_out_once_where_slots_go_one_by_one(under: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And give the tokens and slots that norms of all slots at every step give."""
    model, follow = shared("llama"), tokens(3, 14, 1)
    ids, mask = left_padded([tokens(1, n)[0] for n in (41, 12, 29)])
    counted: list[int] = []
    norms = output.projected_norms

    def count(v: Tensor, weight: Tensor) -> Tensor:
        counted.append(v.shape[2])
        return norms(v, weight)

    monkeypatch.setattr(output, "projected_norms", count)
    found = []
    for _ in range(2):
        counted.clear()
        with Press.parse(f"criticalkv | {under}")(model) as session:
            cache = session.prefill(ids, mask)
            evidence = cache.ledger().by_kind()["evidence"]
            found.append((decode(model, cache, follow, mask), kept(cache)))
        if len(found) == 1:
            assert counted[:3] == [41] * 3 and set(counted[3:]) == {1} and len(counted) > 20
            slots = sum(layer.tail.count for layer in cache.stores)
            assert 3 * 2 * slots * 4 <= evidence  # mass, norms and positions of what is held, not of the prompt
            widest = [layer.tail.used()[ADDED].shape[2] for layer in cache.stores]
            assert len(widest) == 3 and max(widest) <= max(layer.tail.count for layer in cache.stores)
        monkeypatch.setattr(evict, "remember", lambda *args: None)
    assert gap(found[0][0], found[1][0]) < 1e-5 and found[0][1] == found[1][1]


def test_a_batch_is_its_rows() -> None:
    model, lengths, follow = shared("llama"), (37, 21, 30), tokens(3, 7, 1)
    ids, mask = left_padded([tokens(1, n)[0] for n in lengths])
    with Press.parse(f"criticalkv | {SNAPKV}")(model) as session:
        cache = session.prefill(ids, mask)
        together, sets = decode(model, cache, follow, mask), kept(cache)
        for row, length in enumerate(lengths):
            own = session.prefill(tokens(1, length))
            assert gap(decode(model, own, follow[row : row + 1]), together[row : row + 1]) < 3e-5
            pad = 37 - length
            assert [[[s - pad for s in head] for head in layer[row]] for layer in sets] == [x[0] for x in kept(own)]


@pytest.mark.parametrize("text", [f"criticalkv | {SNAPKV}", "criticalkv | h2o(keep=0.4)"])
@pytest.mark.parametrize("compress", [True, False])
def test_saved_and_loaded(text: str, compress: bool, tmp_path: Path) -> None:
    model, path, follow = shared("llama"), tmp_path / "cache.safetensors", tokens(2, 6, 1)
    with Press.parse(text)(model) as session:
        cache = session.prefill(tokens(2, 33), compress=compress)
        if compress:
            decode(model, cache, tokens(2, 3, 4))  # norms are remembered by now
        cache.save(path, model)
    with Press.parse(text)(model) as session:
        other = PressCache.load(path, model)
        assert other.ledger() == cache.ledger()
        for each in (cache, other):
            session.compress(each)
        assert torch.equal(decode(model, cache, follow), decode(model, other, follow)) and kept(cache) == kept(other)


@pytest.mark.parametrize(
    "under",
    ["random", "streaming_llm", "tova", "knorm", "keydiff", "leverage", "cur", "lagkv", "expected_attention"],
)
def test_scores_that_are_no_attention_are_refused(under: str) -> None:
    with pytest.raises(PressConflictError, match=rf"criticalkv \| {under}.*(attention|values).*Use it with a press"):
        Press.parse(f"criticalkv | {under}")


def test_a_scorer_that_says_nothing_is_refused_and_so_is_no_scorer() -> None:
    class Silent:
        comparable = True

    recipe = replace((criticalkv() | snapkv()).recipe, scorer=Silent(), owners=())
    with pytest.raises(PressConflictError, match="Silent"):
        recipe.check()
    for press in (criticalkv(), criticalkv() | ada(), criticalkv() | kivi()):
        with (
            pytest.raises(PressConflictError, match=r"criticalkv.* \| h2o\(keep=0.25\)"),
            press(shared("llama")),
        ):
            raise AssertionError("not reached")
    with pytest.raises(PressConflictError, match="both decide how scores are refined"):
        criticalkv() | criticalkv(ratio=0.1)


def test_text_variant_and_forks() -> None:
    assert Press.parse("criticalkv@kvpress | snapkv").recipe.refine == OutputPerturbation(protected=True, share=False)
    press = Press.parse(f"criticalkv(ratio=0.25) | {SNAPKV}")
    assert Press.parse(str(press)) == press and Press.parse(press.spec()).recipe == press.recipe
    model = shared("llama")
    with (criticalkv() | h2o(keep=0.4))(model) as session:
        cache = session.prefill(tokens(1, 31))
        forward(model, tokens(1, 1, 3), cache)
        fork = cache.fork(2)
        rows = decode(model, fork, tokens(1, 5, 2).expand(2, -1))
        assert gap(rows[1:], decode(model, cache, tokens(1, 5, 2))) < 1e-5
    assert [layer[0] for layer in kept(fork)] == [layer[0] for layer in kept(cache)]
