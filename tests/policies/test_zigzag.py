"""ZigZagKV: LMBA from the eager model's weights, exact sums where a layer asks for too much, and the bundled model."""

from __future__ import annotations

import random as chance
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from kvpress import Press
from kvpress.evidence.evidence import Evidence, Rule
from kvpress.policies.zigzag import Uncertainty
from kvpress.storage.block import Block
from tests.helpers import positions_of
from tests.models import left_padded, shared, tokens


def evidence(q: Tensor, k: Tensor) -> tuple[Block, Evidence, Callable[[], Tensor]]:
    n, w = k.shape[2], q.shape[2]
    pos = torch.arange(n, dtype=torch.int32).expand(*k.shape[:2], n)
    at = torch.arange(n - w, n, dtype=torch.int32)[None]
    return Block(k, k, pos), Evidence(0, Rule(1.0), pos, q, at), pos.float


def test_layer_need_counts_slots_up_to_tau() -> None:
    q = torch.ones(1, 2, 3, 4)
    uniform = Uncertainty(tau=0.9, window=1).measure(*evidence(q, torch.zeros(1, 1, 50, 4)))
    assert uniform.tolist() == [45.0]
    one_hot = torch.zeros(1, 1, 50, 4)
    one_hot[:, :, 7] = 20.0
    assert Uncertainty(tau=0.9, window=3).measure(*evidence(q, one_hot)).tolist() == [1.0]
    halves = torch.cat([one_hot, torch.zeros(1, 1, 50, 4)], 1)  # two KV heads: the mean of 1 and of 45
    assert Uncertainty(tau=0.9, window=1).measure(*evidence(torch.ones(1, 4, 1, 4), halves)).tolist() == [23.0]


def test_equal_need_is_equal_budgets_and_the_floor_holds() -> None:
    total, fixed, long = torch.tensor([100]), torch.tensor([5]), torch.tensor([9999])
    zz = Uncertainty(floor=0.2)
    assert zz.weights(torch.full((4, 1), 7.0), total, fixed, long)[:, 0].tolist() == [100.0] * 4
    skewed = zz.weights(torch.tensor([[1e-9], [1.0], [1.0]]), total, fixed, long)[:, 0]
    assert skewed[0].item() == pytest.approx(20.0) and skewed.sum().item() == pytest.approx(300.0)


def need(probs: list[float], tau: float) -> int:
    """Slots whose attention reaches a share tau of all, the largest first."""
    total, gathered = sum(probs), 0.0
    for count, p in enumerate(sorted(probs, reverse=True), 1):
        gathered += p
        if gathered >= tau * total:
            return count
    raise AssertionError("not reached")


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt_neox"])
def test_need_and_budgets_of_a_model(family: str) -> None:
    """LMBA by the formula from output_attentions, then the budgets by hand; rows padded."""
    model, eager, lengths, window = shared(family), shared(family, "eager"), (61, 40, 53), 6
    ids, mask = left_padded([tokens(1, n)[0] for n in lengths])
    with Press.parse(f"zigzag(window={window}) | snapkv(keep=0.3, window={window})")(model) as session:
        read = session.prefill(ids, mask, compress=False)
        blocks = [layer.block() for layer in read.stores]
        measured = [
            Uncertainty(window=window).measure(block, layer.evidence(block), block.pos.float)
            for layer, block in zip(read.stores, blocks, strict=True)
        ]
        session.compress(read)
    weights = eager(ids, attention_mask=mask, position_ids=positions_of(mask), output_attentions=True).attentions
    for row, n in enumerate(lengths):
        wanted = []
        for layer, block in zip(read.stores, blocks, strict=True):
            heads = block.k.shape[1]
            rows = weights[layer.index][row, :, -window:, -n:].double().unflatten(0, (heads, -1)).mean((1, 2))
            wanted.append(sum(need(probs.tolist(), 0.9) for probs in rows) / heads)
        assert [float(m[row]) for m in measured] == wanted
        average, count = int(0.3 * n), len(wanted)
        real = [0.2 * average + 0.8 * average * count * m / sum(wanted) for m in wanted]
        slots = [int(layer.counts()[row, 0]) for layer in read.stores]
        assert sum(slots) == average * count
        assert all(abs(a - b) < 1 for a, b in zip(slots, real, strict=True))


@pytest.mark.parametrize(
    ("asked", "slots"),
    [
        ((100.0, 1.0, 1.0), [60, 15, 15]),  # 76.6 of a prompt of 60: what is left over goes to the others
        ((1.0, 50.0, 50.0), [7, 42, 41]),  # 6.7, 41.6, 41.6
        ((1.0, 1.0, 1.0), [30, 30, 30]),
    ],
)
def test_what_a_layer_cannot_hold_goes_to_the_others(
    asked: tuple[float, ...], slots: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(self: Uncertainty, block: Block, seen: Evidence, scores: Callable[[], Tensor]) -> Tensor:
        return torch.full((block.pos.shape[0],), asked[seen.layer], dtype=torch.float64)

    monkeypatch.setattr(Uncertainty, "measure", measure)
    with Press.parse("zigzag | snapkv(keep=0.5, window=5)")(shared("llama")) as session:
        read = session.prefill(tokens(1, 60))
    assert [layer.counts()[0].tolist() for layer in read.stores] == [[n, n] for n in slots]


@cache
def bundled(kind: str, seed: int) -> tuple[list[float], list[float], list[int], int]:
    """LMBA, entropy of the window's attention (nats), and slots at a quarter of every layer of the bundled model."""
    from kvpress_eval.tiny import load
    from kvpress_eval.tiny.dialect import document

    model, tokenizer = load()
    text = " ".join(document(chance.Random(seed), 500, [kind]).tokens)
    ids = tokenizer(text, return_tensors="pt").input_ids
    asked, spread = [], []
    with Press.parse("zigzag | snapkv(keep=0.25)")(model) as session:
        read = session.prefill(ids, compress=False)
        for layer in read.stores:
            block = layer.block()
            seen = layer.evidence(block)
            asked.append(float(Uncertainty().measure(block, seen, block.pos.float)))
            probs = seen.window(block, 32).mean((2, 3)).double()
            spread.append(float(torch.special.entr(probs).sum(-1).mean()))
        session.compress(read)
    return asked, spread, [int(layer.counts()[0, 0]) for layer in read.stores], ids.shape[1]


DOCUMENTS = [(kind, seed) for kind in ("kv", "fact", "trace") for seed in range(3)]


def in_one_order(slots: list[int], asked: list[float]) -> bool:
    return all(
        (a - b) * (x - y) >= 0 for a, x in zip(slots, asked, strict=True) for b, y in zip(slots, asked, strict=True)
    )


def test_bundled_model_gives_more_to_layers_that_look_wider() -> None:
    for document in DOCUMENTS:
        asked, spread, slots, n = bundled(*document)
        assert sum(slots) == len(slots) * (n // 4)
        assert in_one_order(slots, asked)
        assert asked.index(max(asked)) == spread.index(max(spread)) == 1, document
        assert all(1 < m < n / 5 for m in asked) and max(asked) > 1.5 * min(asked)


def test_bundled_layers_differ_more_than_documents() -> None:
    """A layer's share of the need is its own: over nine documents it moves less than it differs from the next."""
    asked = torch.tensor([bundled(*document)[0] for document in DOCUMENTS], dtype=torch.float64)
    share = asked / asked.sum(1, keepdim=True)
    assert share.mean(0).std() > 3 * share.std(0).mean()
    for kind in range(3):
        mine = share[3 * kind : 3 * kind + 3]
        assert (mine[:, 1] > mine[:, [0, 2, 3]].amax(1) + 0.08).all()
