"""I3: attention over the store is dense attention over the decoded slots, and eviction is masking in a full cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, DynamicCache

from kvpress import Press
from kvpress.cache.layer import StoreLayer
from kvpress.evidence.evidence import Rule
from kvpress.storage.columns import BIAS
from tests.helpers import (
    ALL,
    EVICTING,
    decode,
    dense_attention,
    forward,
    gap,
    kept,
    over,
    positions_of,
    rollout,
)
from tests.models import left_padded, shared, tokens

Recorded = list[tuple[int, int, float]]  # queries, slots, error


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """Compare every attention the stores compute with plain attention over `block()`."""
    found: Recorded = []
    attend = StoreLayer.attend

    def checked(self: StoreLayer, q: Tensor, rule: Rule) -> Tensor:
        out = attend(self, q, rule)
        block, new = self.block(), q.shape[2]
        at = torch.arange(self.logical - new, self.logical)
        see = block.valid[:, :, None] & (block.pos[:, :, None] <= at[:, None])
        wanted = dense_attention(q, block.k, block.v, see, rule.scale, rule.cap, rule.sink, block.columns.get(BIAS))[0]
        real = torch.ones(q.shape[0], new, dtype=torch.bool)
        if self.seen_mask is not None:
            real = self.seen_mask[:, -new:]
        error = (out.double() - wanted).abs().amax((1, 3))[real].max()
        found.append((new, block.k.shape[2], float(error)))
        return out

    monkeypatch.setattr(StoreLayer, "attend", checked)
    return found


def exact(recorded: Recorded, *queries: int) -> bool:
    """Attention of forwards of so many queries was compared, and none was off."""
    return set(queries) <= {new for new, _, _ in recorded} and max(error for _, _, error in recorded) <= 1e-5


@over(ALL)
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss", "mimo_v2_flash"])
def test_one_query_and_many_after_a_turn_and_after_a_fork(family: str, press: Press, recorded: Recorded) -> None:
    model, (ids, mask) = shared(family), left_padded([tokens(1, 31)[0], tokens(1, 18)[0]])
    question = tokens(2, 5, 1)
    with press(model) as session:
        _, cache = rollout(session, ids, tokens(2, 13, 2), mask)
        assert exact(recorded, 1)
        session.prefill(question, cache=cache)
        assert exact(recorded, 5)
        fork = cache.fork(torch.tensor([1, 0, 1]))
        seen = cache.stores[0].seen_mask
        assert seen is not None
        decode(model, fork, tokens(3, 6, 3), seen[[1, 0, 1]].long())
        session.prefill(tokens(3, 7, 4), cache=fork)
    assert exact(recorded, 1, 5, 7)


@over(ALL)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox"])
def test_unpadded_batches_take_other_paths(family: str, press: Press, recorded: Recorded) -> None:
    model = shared(family)
    with press(model) as session:
        cache = session.prefill(tokens(1, 29), chunk=10)
        session.prefill(tokens(1, 6, 1), cache=cache)
        decode(model, cache, tokens(1, 9, 2))
        fork = cache.fork(rows=3)
        session.prefill(tokens(3, 3, 3), cache=fork)
        decode(model, fork, tokens(3, 6, 4))
    assert exact(recorded, 1, 3, 6, 9, 10)


def test_half_precision_stays_close(recorded: Recorded) -> None:
    from tests.models import build

    model = build("llama").to(torch.bfloat16)
    for text in ("h2o(keep=0.4)", ALL["snapkv|kivi"]):
        with Press.parse(text)(model) as session:
            rollout(session, tokens(2, 31), tokens(2, 9, 1))
    assert 0 < max(error for _, _, error in recorded) < 2e-2


FORMATS = ("kivi", "kivi-token", "fp8", "fp8-token", "int8", "gear", "gear-kcvt", "gear_l", "minicache", "h2o|kivi")


@over({name: ALL[name] for name in (*FORMATS, "h2o|think", "h2o", "ada")})
@pytest.mark.parametrize("group", [1, 4, 7, 8, 16, 24])
def test_query_heads_of_a_group(group: int, press: Press, recorded: Recorded) -> None:
    """From a prompt shorter than what stays dense, through the first packed block, and after a longer prompt."""
    from tests.models import build

    heads, size = {"num_attention_heads": 2 * group, "num_key_value_heads": 2}, 32 * group
    # Logits of one size for all widths, or the rounding of wide models would be what is measured.
    model = build("llama", num_hidden_layers=2, hidden_size=size, initializer_range=0.64 / size**0.5, **heads)
    with press(model) as session:
        cache = rollout(session, tokens(2, 3), tokens(2, 17, 1))[1]
        session.prefill(tokens(2, 29, 2), cache=cache)
        decode(model, cache, tokens(2, 3, 3))
        assert bool(press.recipe.block) <= all(layer.held for layer in cache.stores)
    assert exact(recorded, 1, 29)


# Eviction = masking. A model without a press, with an attention that hides the slots a press has dropped.

_HIDE: dict[int, Tensor] = {}  # layer -> (B, H, n) bool, slots that are seen


def _masked_attention(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, scaling: float, **kwargs: Any) -> Any:
    stop, new = k.shape[2], q.shape[2]
    at = torch.arange(stop - new, stop)
    see = torch.arange(stop) <= at[:, None]
    see = see.expand(q.shape[0], k.shape[1], new, stop).clone()
    shown = _HIDE[module.layer_idx]
    see[..., : shown.shape[-1]] &= shown[:, :, None]
    out, _ = dense_attention(q, k, v, see, scaling, kwargs.get("softcap"), kwargs.get("s_aux"))
    return out.to(q.dtype).transpose(1, 2), None


@pytest.fixture(scope="module", autouse=True)
def masked_attention() -> Iterator[None]:
    AttentionInterface.register("tests_masked", _masked_attention)
    yield
    AttentionInterface._global_mapping.pop("tests_masked")


@over({**EVICTING, **{name: ALL[name] for name in ("ada", "zigzag", "pyramid", "h2o-slots")}})
@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize("padded", [False, True], ids=["even", "padded"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "qwen3"])
def test_eviction_is_masking_in_a_full_cache(family: str, padded: bool, queries: int, press: Press) -> None:
    from tests.models import build

    model, mask = shared(family), torch.ones(2, 33, dtype=torch.long)
    ids, new = tokens(2, 33), tokens(2, queries, 1)
    if padded:
        ids, mask = left_padded([ids[0], ids[1, :20]])
    seen = torch.cat([mask, torch.ones_like(new)], 1)
    with press(model) as session:
        cache = session.prefill(ids, mask)
        sets = kept(cache)
        got = forward(model, new, cache, seen)
    counts = [len(head) for rows in sets for head in rows[0]]
    assert sum(counts) == 13 * len(counts)  # floor(0.4 * 33): something was dropped
    dense = DynamicCache(config=model.config)
    model(ids, attention_mask=mask, position_ids=positions_of(mask), past_key_values=dense)
    for layer, rows in enumerate(sets):
        _HIDE[layer] = torch.zeros(2, len(rows[0]), 33, dtype=torch.bool)
        for row, heads in enumerate(rows):
            for head, slots in enumerate(heads):
                _HIDE[layer][row, head, slots] = True
    other = build(family)
    other.config._attn_implementation_internal = "tests_masked"
    assert gap(got, forward(other, new, dense, seen)) < 3e-5


@over({name: ALL[name] for name in ("h2o", "tova", "h2o|kivi")})
def test_layers_that_share_keys_read_what_their_owner_read(press: Press, monkeypatch: pytest.MonkeyPatch) -> None:
    """gemma3n: a decode step's eviction waits until the later layers have attended too."""
    slots: dict[str, list[int]] = {"attend": [], "reread": []}

    def watch(name: str) -> None:
        method = getattr(StoreLayer, name)

        def watched(self: StoreLayer, q: Tensor, rule: Rule) -> Tensor:
            slots[name].append(int(self.counts().sum()))
            out: Tensor = method(self, q, rule)
            return out

        monkeypatch.setattr(StoreLayer, name, watched)

    with press(shared("gemma3n")) as session:
        cache = session.prefill(tokens(1, 30))
        for name in slots:
            watch(name)
        decode(session.model, cache, tokens(1, 20, 1))
    assert slots["attend"] == slots["reread"] and len(slots["attend"]) == 20
