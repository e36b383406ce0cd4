"""Names that promise NVIDIA's setting keep the slots its formula keeps: each written out here, without our library."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from kvpress import Press
from tests.helpers import kept
from tests.models import build, tokens

LENGTH, WINDOW = 173, 13
LEAST = 0.97  # of the slots of the worst head
Sets = list[list[set[int]]]  # [layer][KV head]


@cache
def model() -> PreTrainedModel:
    return build("llama", num_hidden_layers=5, num_attention_heads=6, num_key_value_heads=2, hidden_size=96)


@dataclass(frozen=True)
class Layer:
    """q (Hq, n, D), k and v (H, n, D) of one layer, rotated, in fp64; w (hidden, Hq * D) its output projection."""

    q: Tensor
    k: Tensor
    v: Tensor
    w: Tensor

    @property
    def group(self) -> int:
        return self.q.shape[0] // self.k.shape[0]

    def probabilities(self) -> Tensor:
        """(Hq, n, n) causal attention."""
        n = self.q.shape[1]
        logits = self.q @ self.k.repeat_interleave(self.group, 0).mT / math.sqrt(self.q.shape[-1])
        return logits.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), -torch.inf).softmax(-1)

    def per_head(self, x: Tensor) -> Tensor:
        """(Hq, n) -> (H, n), the mean over the query heads of a KV head."""
        return x.unflatten(0, (-1, self.group)).mean(1)


@torch.no_grad()
def layers(ids: Tensor) -> list[Layer]:
    seen = model()(ids, output_hidden_states=True).hidden_states
    at = torch.arange(ids.shape[1])[None]
    found = []
    for number, block in enumerate(model().model.layers):
        attention, x = block.self_attn, block.input_layernorm(seen[number])
        q, k, v = (
            one(x).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for one in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        q, k = apply_rotary_pos_emb(q, k, *model().model.rotary_emb(x, at))
        found.append(Layer(q[0].double(), k[0].double(), v[0].double(), attention.o_proj.weight.double()))
    return found


def best(scores: list[Tensor], counts: list[int]) -> Sets:
    return [[set(head.topk(n).indices.tolist()) for head in layer] for layer, n in zip(scores, counts, strict=True)]


def observed(layer: Layer) -> Tensor:
    """Average attention a slot got from the queries that could see it."""
    n = layer.q.shape[1]
    return layer.per_head(layer.probabilities().sum(1) / torch.arange(n, 0, -1))


def votes(layer: Layer) -> Tensor:
    """SnapKV: mean over the window, average pooling of 5, mean over the group; the window above all else."""
    given = layer.probabilities()[:, -WINDOW:, :-WINDOW].mean(1)
    pooled = torch.nn.functional.avg_pool1d(given[None], 5, 1, 2)[0]
    mean = layer.per_head(pooled)
    return torch.nn.functional.pad(mean, (0, WINDOW), value=float(mean.max()) + 1)


def weighed(layer: Layer, scores: Tensor, kept_slots: int) -> Tensor:
    """CriticalKV: half of the slots by score, the others by (score + 1e-4) |W_o v|_1."""
    dim = layer.v.shape[-1]
    norms = torch.stack([
        (layer.v[head // layer.group] @ layer.w[:, head * dim : (head + 1) * dim].T).abs().sum(-1)
        for head in range(layer.q.shape[0])
    ])  # fmt: skip
    first = scores.topk(int(kept_slots * 0.5)).indices
    return ((scores + 1e-4) * layer.per_head(norms)).scatter(1, first, torch.inf)


def pyramid(keep: float, count: int) -> list[int]:
    """All slots of every layer; the same for all where the last would get less than the window."""
    total = LENGTH * keep
    high = min(2 * total - total / 20, LENGTH - WINDOW)
    low = 2 * total - high
    if not LENGTH >= high >= low >= WINDOW:
        return [round(total)] * count
    return [round(high - number * (high - low) / (count - 1)) for number in range(count)]


@torch.no_grad()
def repeated(ids: Tensor, chunk: int, told: list[list[int]]) -> list[Tensor]:
    """KVzip: the largest attention a slot gets from a repetition of its part, over [sinks, part, repetition]."""
    n = ids.shape[1]
    out = [torch.zeros(2, n, dtype=torch.float64) for _ in model().model.layers]
    for start in range(0, n, chunk):
        part = ids[0, start : start + chunk].tolist()
        lead = told[1] + ids[0, max(0, start - 8) : start].tolist() if start else told[0]
        again = lead + told[2] + part
        sinks = min(4, start)
        for number, layer in enumerate(layers(torch.cat([ids, torch.tensor([again])], 1))):
            m = len(again)
            keys = torch.cat([layer.k[:, :sinks], layer.k[:, start : start + len(part)], layer.k[:, n:]], 1)
            logits = layer.q[:, n:] @ keys.repeat_interleave(layer.group, 0).mT / math.sqrt(layer.q.shape[-1])
            later = ~torch.ones(m, m, dtype=torch.bool).tril()
            logits[..., -m:] = logits[..., -m:].masked_fill(later, -torch.inf)
            given = logits.softmax(-1)[..., sinks : sinks + len(part)].amax(1)
            out[number][:, start : start + len(part)] = given.unflatten(0, (-1, layer.group)).amax(1)
    for scores in out:
        scores[:, :4] = torch.inf
    return out


def ours(text: str, told: list[list[int]] | None = None) -> Sets:
    with Press.parse(text)(model()) as session:
        session.instructions = told or ([], [], [])
        return [[set(head) for head in rows[0]] for rows in kept(session.prefill(tokens(1, LENGTH)))]


def worst(mine: Sets, theirs: Sets) -> float:
    pairs = [pair for layer in zip(mine, theirs, strict=True) for pair in zip(*layer, strict=True)]
    assert len(pairs) == 10 and all(len(b) < LENGTH for layer in theirs for b in layer)
    return min(len(a & b) / max(len(a), len(b)) for a, b in pairs)


SNAP = f"snapkv@kvpress(keep={{}}, window={WINDOW})"


@pytest.mark.parametrize("keep", [0.4, 0.25])
def test_scores(keep: float) -> None:
    found, count = layers(tokens(1, LENGTH)), int(LENGTH * keep)
    counts = [count] * 5
    snap, seen = [votes(layer) for layer in found], [observed(layer) for layer in found]
    last = [layer.probabilities()[:, -1].mean(0).expand(2, -1) for layer in found]
    unit = [layer.k / layer.k.norm(dim=-1, keepdim=True) for layer in found]
    away = [
        -torch.cosine_similarity(layer.k, u.mean(1, keepdim=True), -1) for layer, u in zip(found, unit, strict=True)
    ]
    n = torch.arange(LENGTH)
    stream = torch.where(n < 4, LENGTH, n).double().expand(2, -1)
    expected = {
        f"knorm(keep={keep})": [-layer.k.norm(dim=-1) for layer in found],
        f"keydiff(keep={keep})": away,
        f"streaming_llm@kvpress(keep={keep})": [stream] * 5,
        f"tova@kvpress(keep={keep})": [torch.where(n == LENGTH - 1, torch.inf, one) for one in last],
        SNAP.format(keep): snap,
        f"h2o@kvpress(keep={keep})": seen,
        f"criticalkv@kvpress | {SNAP.format(keep)}": [
            weighed(layer, s, count) for layer, s in zip(found, snap, strict=True)
        ],
        f"criticalkv@kvpress | h2o@kvpress(keep={keep})": [
            weighed(layer, s, count) for layer, s in zip(found, seen, strict=True)
        ],
    }
    for text, scores in expected.items():
        assert worst(ours(text), best(scores, counts)) >= LEAST, text


def test_the_plain_presses_are_others() -> None:
    """A sum favours old slots, and a share of attention is another thing to add epsilon to."""
    found = layers(tokens(1, LENGTH))
    theirs = best([observed(layer) for layer in found], [69] * 5)
    assert worst(ours("h2o(keep=0.4, recent=0, schedule=after_prefill)"), theirs) < 0.9
    small = best([weighed(layer, observed(layer) * 1e-3, 69) for layer in found], [69] * 5)
    assert worst(ours("criticalkv@kvpress | h2o@kvpress(keep=0.4)"), small) < LEAST


@pytest.mark.parametrize("keep", [0.7, 0.53, 0.4, 0.15])
def test_pyramid(keep: float) -> None:
    counts = pyramid(keep, 5)
    assert (len(set(counts)) == 1) == (keep < 0.5)  # the last layer would get less than the window
    scores = [votes(layer) for layer in layers(tokens(1, LENGTH))]
    mine = ours(f"pyramid@kvpress | {SNAP.format(keep)}")
    assert [len(layer[0]) for layer in mine] == counts
    assert worst(mine, best(scores, counts)) >= LEAST


@pytest.mark.parametrize("chunk", [2048, 50])
@pytest.mark.parametrize("told", [[[], [], []], [[7, 8], [9], [11, 12]]], ids=["bare", "told"])
def test_kvzip(chunk: int, told: list[list[int]]) -> None:
    """One order of all slots of all layers and heads."""
    keep = 69 / LENGTH
    scores = torch.stack(repeated(tokens(1, LENGTH), chunk, told))
    chosen = torch.zeros(scores.numel(), dtype=torch.bool)
    chosen[scores.flatten().topk(69 * scores.shape[0] * scores.shape[1]).indices] = True
    theirs = [[set(head.nonzero().flatten().tolist()) for head in layer] for layer in chosen.view(scores.shape)]
    mine = ours(f"kvzip@kvpress(keep={keep}, chunk={chunk})", told)
    assert worst(mine, theirs) >= LEAST
    assert sum(len(head) for layer in mine for head in layer) == 69 * 10
