"""H2O against a plain simulator: which tokens it holds, at every one of a hundred steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kvpress import Press, h2o
from kvpress.storage.columns import MASS
from tests.helpers import decode, forward, kept, positions_of, rollout
from tests.models import build, left_padded, shared, tokens

STEPS = 100


class Simulator:
    """One row of one layer: lists of tokens and their mass, for every KV head."""

    def __init__(self, heads: int, keep: int, recent: int, sinks: int) -> None:
        self.held: list[list[int]] = [[] for _ in range(heads)]
        self.mass: list[dict[int, float]] = [{} for _ in range(heads)]
        self.keep, self.recent, self.sinks, self.seen = keep, recent, sinks, 0

    def read(self, weights: np.ndarray) -> None:
        """weights (H, G, m, n): attention of m new queries on the tokens held, then on the m new tokens."""
        new = weights.shape[2]
        for head, w in enumerate(weights):
            slots = self.held[head] + list(range(self.seen, self.seen + new))
            for slot, gained in zip(slots, w.sum((0, 1)), strict=True):
                self.mass[head][slot] = self.mass[head].get(slot, 0.0) + float(gained)
            self.held[head] = slots
        self.seen += new

    def evict(self) -> None:
        for head, slots in enumerate(self.held):
            safe = {s for s in slots if s >= self.seen - self.recent or s < self.sinks}
            order = sorted(set(slots) - safe, key=lambda s: (-self.mass[head][s], s))
            self.held[head] = sorted(safe | set(order[: self.keep - len(safe)]))


class Attention:
    """What a layer saw: q and k of every forward, by a hook on the press's own attention function."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from kvpress.cache.layer import StoreLayer

        self.q: torch.Tensor | None = None
        self.keys: torch.Tensor | None = None
        observe, commit = StoreLayer.observe, StoreLayer.commit

        def watch_commit(layer: StoreLayer, mask: torch.Tensor | None) -> object:
            assert layer.staged is not None
            new = layer.staged[0].double()
            self.keys = new if self.keys is None else torch.cat([self.keys, new], 2)
            return commit(layer, mask)

        def watch_observe(layer: StoreLayer, q: torch.Tensor, *args: object) -> None:
            self.q = q.double()
            observe(layer, q, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(StoreLayer, "commit", watch_commit)
        monkeypatch.setattr(StoreLayer, "observe", watch_observe)

    def weights(self, row: int, held: list[list[int]], scale: float, pad: int) -> np.ndarray:
        """(H, G, m, n) softmax of the last queries over the tokens held and the new ones, causal, from true keys."""
        assert self.q is not None and self.keys is not None
        new, total = self.q.shape[2], self.keys.shape[2]
        out = []
        group = self.q.shape[1] // self.keys.shape[1]
        first = max(0, pad - (total - new)) if total == new else 0
        for head, slots in enumerate(held):
            columns = [s + pad for s in slots] + list(range(total - new + first, total))
            keys = self.keys[row, head, columns]
            q = self.q[row, head * group : (head + 1) * group, first:]
            logits = (q @ keys.T * scale).numpy()
            late = np.array(columns)[None] > np.arange(total - new + first, total)[:, None]
            logits = np.where(late, -np.inf, logits)
            e = np.exp(logits - logits.max(-1, keepdims=True))
            out.append(e / e.sum(-1, keepdims=True))
        return np.stack(out)


@pytest.mark.parametrize(
    ("text", "keep", "recent", "sinks"),
    [
        ("h2o(keep=0.5)", 18, 9, 0),
        ("h2o(keep=0.3, recent=3, sinks=2)", 11, 3, 2),
        ("h2o(keep=14, recent=0.25)", 14, 3, 0),
        ("h2o(keep=60, recent=0.5)", 60, 30, 0),  # full only after 23 steps
    ],
)
@pytest.mark.parametrize("heads", [1, 2, 4], ids=["mqa", "gqa", "mha"])
def test_kept_tokens_at_every_step(
    text: str, keep: int, recent: int, sinks: int, heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("llama", num_hidden_layers=1, num_key_value_heads=heads)
    scale, ids = model.model.layers[0].self_attn.scaling, tokens(1, 37)
    watch, simulator = Attention(monkeypatch), Simulator(heads, keep, recent, sinks)
    with Press.parse(text)(model) as session:
        cache = session.prefill(ids)
        for step in range(STEPS):
            simulator.read(watch.weights(0, simulator.held, scale, 0))
            simulator.evict()
            assert kept(cache)[0][0] == simulator.held, f"step {step}"
            forward(model, tokens(1, 1, step), cache)
    assert max(len(h) for h in simulator.held) == keep


def test_padded_rows_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama", num_hidden_layers=1)
    scale = model.model.layers[0].self_attn.scaling
    rows = [tokens(1, n)[0] for n in (37, 22)]
    ids, mask = left_padded(rows)
    watch = Attention(monkeypatch)
    simulators = [Simulator(2, 18, 9, 0), Simulator(2, 11, 5, 0)]
    with h2o(keep=0.5)(model) as session:
        cache = session.prefill(ids, mask)
        for step in range(40):
            for row, simulator in enumerate(simulators):
                pad = 37 - len(rows[row])
                simulator.read(watch.weights(row, simulator.held, scale, pad))
                simulator.evict()
                assert kept(cache)[0][row] == [[s + pad for s in head] for head in simulator.held], f"step {step}"
            mask = torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], 1)
            forward(model, tokens(2, 1, step), cache, mask)


def test_one_token_at_a_time_gives_the_mass_of_the_whole_prompt() -> None:
    model, ids = shared("llama"), tokens(2, 23)
    masses = []
    for chunk in (None, 1):
        with h2o(keep=400)(model) as session:
            cache = session.prefill(ids, chunk=chunk)
            masses.append(torch.stack([s.tail.used()[MASS] for s in cache.stores]))
    assert (masses[0] - masses[1]).abs().max() < 1e-4
    assert abs(float(masses[0].sum()) - 3 * 2 * 4 * 23) < 1e-2


def test_evicted_tokens_never_return_and_the_window_stays() -> None:
    model = shared("llama")
    gone: set[tuple[int, int, int]] = set()
    with h2o(keep=0.4)(model) as session:
        cache = rollout(session, tokens(1, 30), tokens(1, 1))[1]
        for step in range(30):
            forward(model, tokens(1, 1, step), cache)
            seen = cache.get_seq_length()
            for number, layer in enumerate(kept(cache)):
                for head, slots in enumerate(layer[0]):
                    assert set(range(seen - 6, seen)) <= set(slots)  # half of floor(0.4 * 30)
                    now = {(number, head, s) for s in range(seen) if s not in slots}
                    assert gone & {(number, head, s) for s in slots} == set()
                    gone |= now


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt_oss"])
def test_once_after_the_prompt_as_in_kvcache_factory(family: str) -> None:
    """The largest column sums of the whole prompt before a window of 8, from output_attentions; then nothing goes."""
    model, eager, lengths = shared(family), shared(family, "eager"), (61, 40, 53)
    ids, mask = left_padded([tokens(1, n)[0] for n in lengths])
    with Press.parse("h2o@factory(keep=21)")(model) as session:
        cache = session.prefill(ids, mask)
        sets = kept(cache)
        decode(model, cache, tokens(3, 6, 1), mask)
        later = kept(cache)
    weights = eager(ids, attention_mask=mask, position_ids=positions_of(mask), output_attentions=True).attentions
    for layer, before, after in zip(cache.stores, sets, later, strict=True):
        heads = layer.tail.k.shape[1]
        for row, n in enumerate(lengths):
            pad = 61 - n
            mass = weights[layer.index][row, :, pad:, pad:].double().unflatten(0, (heads, -1)).sum((1, 2))
            for head in range(heads):
                heavy = mass[head, : n - 8].argsort(descending=True)[:13].tolist()
                wanted = sorted(pad + slot for slot in [*heavy, *range(n - 8, n)])
                assert before[row][head] == wanted
                assert after[row][head] == [*wanted, *range(61, 67)]


def test_a_press_that_chooses_once_lets_the_mass_go() -> None:
    model = shared("llama")
    with Press.parse("h2o@factory(keep=13)")(model) as session:
        cache = session.prefill(tokens(1, 30))
        assert not any(layer.tail.columns for layer in cache.stores)
        decode(model, cache, tokens(1, 4, 1))
        assert "evidence" not in cache.ledger().by_kind()
        cache.crop(-2)
        assert cache.get_seq_length() == 32
