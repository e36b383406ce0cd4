"""SnapKV's kept sets against scores computed from the attention weights of the eager model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kvpress import Press, snapkv
from tests.helpers import kept, positions_of, rollout
from tests.models import build, left_padded, shared, tokens


def pooled(row: list[float], size: int, kind: str) -> list[float]:
    """1-D pooling written out: zero padding that counts in the average, nothing outside for the maximum."""
    half, n = size // 2, len(row)
    out = []
    for i in range(n):
        near = [row[j] for j in range(i - half, i + half + 1) if 0 <= j < n]
        out.append(max(near) if kind == "max" else sum(near) / size)
    return out


def by_hand(weights: Tensor, keep: int, window: int, size: int, pooling: str, reduce: str) -> set[int]:
    """weights (G, n, n): attention of the query heads of one KV head over the real tokens of one row."""
    n = weights.shape[-1]
    votes = []
    for head in weights[:, n - window :, : n - window].double():
        votes.append(pooled(head.sum(0).tolist(), size, pooling))
    table = torch.tensor(votes)
    score = {"mean": table.mean(0), "sum": table.sum(0), "max": table.amax(0)}[reduce].tolist()
    best = sorted(range(n - window), key=lambda i: (-score[i], i))[: keep - window]
    return set(best) | set(range(n - window, n))


def check(
    family: str, press: Press, window: int, size: int, pooling: str, reduce: str, lengths: tuple[int, ...]
) -> None:
    model, eager = shared(family), shared(family, "eager")
    ids, mask = left_padded([tokens(1, n)[0] for n in lengths])
    with press(model) as session:
        cache = session.prefill(ids, mask)
        sets = kept(cache)
    weights = eager(ids, attention_mask=mask, position_ids=positions_of(mask), output_attentions=True).attentions
    for layer, held in zip(cache.stores, sets, strict=True):
        heads = layer.tail.k.shape[1]
        for row, length in enumerate(lengths):
            pad = ids.shape[1] - length
            keep = press.recipe.keep
            total = keep if isinstance(keep, int) else int(keep * length + 1e-9)
            mine = weights[layer.index][row, :, pad:, pad:].unflatten(0, (heads, -1))
            for head in range(heads):
                wanted = by_hand(mine[head], min(total, length), window, size, pooling, reduce)
                assert set(held[row][head]) == {slot + pad for slot in wanted}


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt_oss", "gpt_neox", "phi3"])
@pytest.mark.parametrize(
    ("size", "pooling", "reduce"), [(3, "max", "mean"), (5, "avg", "mean"), (1, "max", "sum"), (7, "max", "max")]
)
def test_kept_sets(family: str, size: int, pooling: str, reduce: str) -> None:
    press = snapkv(keep=0.5, window=6, kernel_size=size, pooling=pooling, reduce=reduce)
    check(family, press, 6, size, pooling, reduce, (51, 33, 40))


def test_the_variants() -> None:
    lengths = (131, 97)
    check("llama", Press.parse("snapkv@paper(keep=80)"), 32, 7, "max", "mean", lengths)
    check("llama", Press.parse("snapkv@kvpress(keep=0.7)"), 64, 5, "avg", "mean", lengths)
    check("llama", Press.parse("snapkv@authors(keep=80)"), 32, 5, "avg", "mean", lengths)
    check("llama", Press.parse("snapkv@factory(keep=80)"), 8, 7, "max", "mean", lengths)


def test_window_larger_than_the_prompt_keeps_the_prompt() -> None:
    with snapkv(keep=0.25, window=40)(shared("llama")) as session:
        assert kept(session.prefill(tokens(1, 23)))[0][0][0] == list(range(23))


def test_decoded_tokens_are_kept_and_a_later_prompt_counts_only_if_asked() -> None:
    model, ids, turn = shared("llama"), tokens(1, 40), tokens(1, 20, 1)
    for again, slots in ((False, 10 + 5 + 20), (True, 16)):
        with snapkv(keep=0.25, window=4, every_prompt=again)(model) as session:
            cache = rollout(session, ids, tokens(1, 5, 2))[1]
            assert kept(cache)[0][0][0][-5:] == [40, 41, 42, 43, 44] and len(kept(cache)[0][0][0]) == 15
            session.prefill(turn, cache=cache)
            assert {len(head) for rows in kept(cache) for head in rows[0]} == {slots}  # floor(0.25 * 65)


def test_evidence_is_let_go_after_firing() -> None:
    with snapkv(keep=0.25, window=4)(build("llama")) as session:
        cache = session.prefill(tokens(1, 40))
    assert all(layer.witness.empty for layer in cache.stores)
    assert "evidence" not in cache.ledger().by_kind()


def test_neighbours_are_neighbours_in_the_text_not_in_memory() -> None:
    from kvpress.evidence.evidence import Evidence, Rule
    from kvpress.policies.snapkv import WindowVotes
    from kvpress.storage.block import Block

    generator = torch.Generator().manual_seed(2)
    q, k = torch.randn(1, 4, 5, 16, generator=generator), torch.randn(1, 2, 40, 16, generator=generator)
    at, order = torch.arange(35, 40, dtype=torch.int32)[None], torch.randperm(40, generator=generator)
    pos = torch.arange(40, dtype=torch.int32).expand(1, 2, -1)
    votes = WindowVotes(5, 7)
    wanted = votes(Block(k, k, pos), Evidence(0, Rule(0.5), pos, q, at))
    shuffled = votes(Block(k[:, :, order], k, pos[..., order]), Evidence(0, Rule(0.5), pos[..., order], q, at))
    assert (shuffled - wanted[..., order]).abs().max() < 1e-6
