"""Expected attention: its moments against projected queries, its closed form against the formula and a sample."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from kvpress import Press, expected_attention
from kvpress.errors import KVPressError
from kvpress.evidence.evidence import Evidence, Rule
from kvpress.evidence.moments import add_queries, read_moments
from kvpress.policies.expected_attention import ExpectedAttention
from kvpress.storage.block import Block
from tests.helpers import gap, kept
from tests.models import build, left_padded, shared, tokens
from tests.policies.scoring import ROTATES, padded, rotate

SCALE, HEADS, GROUP, DIM = 0.3, 2, 3, 16


def moments_by_hand(q: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the rows of q (n, D), in fp64."""
    q = q.double()
    mean = q.mean(0)
    return mean, sum(torch.outer(x - mean, x - mean) for x in q) / len(q)  # type: ignore[return-value]


def turn(position: int, dim: int = DIM) -> Tensor:
    """The matrix R with R x = x rotated to `position`."""
    return rotate(torch.eye(dim, dtype=torch.float64)[None, None], torch.tensor([position]))[0, 0].T


def by_hand(
    mean: list[Tensor], cov: list[Tensor], k: Tensor, v: Tensor, scale: float, future: int, sinks: int, epsilon: float
) -> list[float]:
    """Scores of one KV head of one row: keys and values (n, D), one mean and covariance for each query head."""
    n, dim = k.shape
    average = sum(turn(n + t, dim) for t in range(future)) / future
    expected = torch.zeros(n, dtype=torch.float64)
    for m, s in zip(mean, cov, strict=True):
        m, s = average @ m, average @ s @ average.T
        z = [scale * float(m @ x) + scale**2 / 2 * float(x @ s @ x) for x in k[sinks:].double()]
        top = max(z)
        total = sum(math.exp(x - top) for x in z)
        expected[sinks:] += torch.tensor([math.exp(x - top) / total for x in z]) / len(mean)
    return [(float(e) + epsilon) * float(x.norm()) for e, x in zip(expected, v.double(), strict=True)]


def queries(block: Block, seed: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(len(block.k), HEADS * GROUP, block.k.shape[2], DIM, generator=generator)
    return q + 2 * torch.randn(1, HEADS * GROUP, 1, DIM, generator=generator)


def with_moments(block: Block, seen: Evidence, q: Tensor, skip: int) -> Evidence:
    """Evidence of q (B, Hq, n, D) before RoPE, given rotated and in three uneven chunks."""
    rank = seen.rank[:, 0]
    turned, at = rotate(q, rank.clamp(min=0)), torch.where(rank >= skip, rank, -1)
    moments = None
    for start, stop in ((0, 7), (7, 8), (8, q.shape[2])):
        moments = add_queries(moments, turned[:, :, start:stop], at[:, start:stop], rotate)
    return Evidence(1, Rule(SCALE), seen.rank, moments=moments, given=ROTATES)


@pytest.mark.parametrize("tile", [1, 5 * 4 * 4 * HEADS * GROUP * DIM, 16 << 20])
@pytest.mark.parametrize("skip", [0, 3])
def test_moments(skip: int, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvpress.evidence.moments._TILE_BYTES", tile)
    block, seen = padded((37, 19, 30, 4), HEADS)
    q = queries(block) + 30  # far from zero: sums of squares would cancel
    moments = with_moments(block, seen, q, skip).moments
    assert moments is not None and moments.shape == (4, HEADS * GROUP, DIM + 2, DIM)
    mean, cov = read_moments(moments)
    for row, length in enumerate((37, 19, 30, 4)):
        for head in range(HEADS * GROUP):
            wanted = moments_by_hand(q[row, head, 37 - length + skip :])
            assert (mean[row, head] - wanted[0]).abs().max() < 2e-5
            assert (cov[row, head] - wanted[1]).abs().max() < 2e-4


def test_moments_of_nothing_are_zero() -> None:
    block, seen = padded((3, 9), HEADS)
    mean, cov = with_moments(block, seen, queries(block), 4).query_moments()
    assert not mean[0].any() and not cov[0].any() and mean[1].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("future", "sinks", "epsilon"), [(1, 0, 0.0), (9, 2, 0.02), (70, 4, 0.0)])
def test_formula(future: int, sinks: int, epsilon: float, dtype: torch.dtype) -> None:
    block, seen = padded((37, 19, 30, 6), HEADS, dtype=dtype)
    block = Block(block.k * 0.7, block.v, block.pos)
    q = queries(block)
    scores = ExpectedAttention(future, sinks, epsilon)(block, with_moments(block, seen, q, sinks))
    for row, length in enumerate((37, 19, 30, 6)):
        for head in range(HEADS):
            own = [moments_by_hand(x[-length:][sinks:]) for x in q[row, head * GROUP : (head + 1) * GROUP]]
            k, v = block.k[row, head, -length:], block.v[row, head, -length:]
            args = ([m for m, _ in own], [c for _, c in own], k, v, SCALE, future, sinks, epsilon)
            wanted = torch.tensor(by_hand(*args))
            assert (scores[row, head, -length:] - wanted).abs().max() < 1e-4 * wanted.max()


def test_without_covariance_and_without_values() -> None:
    block, seen = padded((30,), HEADS)
    seen = with_moments(block, seen, queries(block), 2)
    plain = ExpectedAttention(9, 2, covariance=False, values=False)(block, seen)
    mean, _ = seen.query_moments()
    average = sum(turn(30 + t) for t in range(9)) / 9
    logits = SCALE * torch.einsum(
        "hgd,hnd->hgn", (mean[0].double() @ average.T).view(HEADS, GROUP, DIM), block.k[0].double()
    )
    wanted = logits[..., 2:].softmax(-1).mean(1)
    assert (plain[0, :, 2:] - wanted).abs().max() < 1e-5 and not plain[0, :, :2].any()


def test_closed_form_is_the_expectation() -> None:
    """E[exp(scale q k)] of a Gaussian sample, for keys at one future position (where rotating is no average)."""
    block, seen = padded((40,), 1)
    block = Block(block.k * 0.4, block.v, block.pos)
    seen = with_moments(block, seen, queries(block)[:, :1], 0)
    scores = ExpectedAttention(1, 0, values=False)(block, seen)[0, 0].double()
    mean, cov = (x[0, 0].double() for x in seen.query_moments())
    factor = torch.linalg.cholesky(cov + 1e-9 * torch.eye(DIM, dtype=torch.float64))
    noise = torch.randn(400_000, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sample = (mean + noise @ factor.T) @ turn(40).T
    wanted = (SCALE * sample @ block.k[0, 0].double().T).exp().mean(0)
    assert ((scores / (wanted / wanted.sum())) - 1).abs().max() < 0.02


@contextmanager
def projected(model: PreTrainedModel) -> Iterator[dict[int, list[Tensor]]]:
    """layer -> queries (B, n, Hq, D) as they leave the projection (and its norm), one a forward."""
    found: dict[int, list[Tensor]] = {}
    hooks = []
    for index, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        module = getattr(attention, "q_norm", attention.q_proj)

        def catch(m: object, a: object, out: Tensor, index: int = index, dim: int = attention.head_dim) -> None:
            found.setdefault(index, []).append(out.unflatten(-1, (-1, dim)) if out.dim() == 3 else out)

        hooks.append(module.register_forward_hook(catch))
    yield found
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("chunk", [None, 10])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_kept_sets_of_a_model(family: str, chunk: int | None) -> None:
    """Padded rows, whole and in chunks: moments from the model's own projections, scores by hand, sets from both."""
    model, lengths = shared(family), (41, 27)
    ids, mask = left_padded([tokens(1, n)[0] for n in lengths])
    press = expected_attention(keep=0.4, sinks=3, future=20, epsilon=0.01)
    with press(model) as session, projected(model) as found:
        cache = session.prefill(ids, mask, chunk=chunk, compress=False)
        blocks = [layer.block() for layer in cache.stores]
        bytes_held = cache.ledger().by_kind()["evidence"]
        session.compress(cache)
        sets = kept(cache)
    dim = blocks[0].k.shape[3]
    assert bytes_held == 3 * 2 * 4 * (dim + 2) * dim * 4  # no copy of the queries
    assert "evidence" not in cache.ledger().by_kind()
    for layer, block in enumerate(blocks):
        q = torch.cat(found[layer], 1).transpose(1, 2)
        heads = block.k.shape[1]
        for row, length in enumerate(lengths):
            for head in range(heads):
                mine = q[row].unflatten(0, (heads, -1))[head][:, -length:][:, 3:]
                own = [moments_by_hand(x) for x in mine]
                k, v = block.k[row, head, -length:], block.v[row, head, -length:]
                score = by_hand([m for m, _ in own], [c for _, c in own], k, v, dim**-0.5, 20, 3, 0.01)
                order = sorted(range(3, length), key=lambda i: (-score[i], i))[: int(0.4 * length) - 3]
                pad = ids.shape[1] - length
                assert set(sets[layer][row][head]) == {pad + i for i in (0, 1, 2, *order)}


def test_a_prompt_of_sinks_only() -> None:
    with expected_attention(keep=0.5, sinks=4)(shared("llama")) as session:
        assert kept(session.prefill(tokens(1, 3)))[0][0][0] == [0, 1, 2]
        assert kept(session.prefill(tokens(1, 6)))[0][0][0][:4] == [0, 1, 2, 3]


def test_half_precision_moments_are_those_of_the_queries() -> None:
    model, ids = build("llama").to(torch.bfloat16), tokens(1, 50)
    with expected_attention(keep=0.5)(model) as session, projected(model) as found:
        layer = session.prefill(ids, compress=False).stores[1]
    mean, _ = layer.evidence(layer.block()).query_moments()
    wanted = found[1][0][0, 4:].double().mean(0)
    assert mean.dtype == torch.float32 and (mean[0] - wanted).abs().max() < 1e-2 * wanted.abs().max()


def test_a_scorer_that_does_not_say_what_it_needs() -> None:
    _, seen = padded()
    with pytest.raises(KVPressError, match="moments=True"):
        seen.query_moments()
    with pytest.raises(KVPressError, match="was not bound"):
        Evidence(0, seen.rule, seen.rank).of(ExpectedAttention())


def test_variant_and_chunks() -> None:
    assert Press.parse("expected_attention@leaderboard").recipe.scorer == ExpectedAttention(epsilon=0.01)
    block, seen = padded((40,), HEADS)
    q = queries(block)
    whole = add_queries(None, rotate(q, seen.rank[:, 0]), seen.rank[:, 0], rotate)
    chunks = with_moments(block, seen, q, 0).moments
    assert chunks is not None and gap(chunks, whole) < 1e-3
