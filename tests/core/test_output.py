"""What a slot adds to a layer's output: against the model's own attention, and the models that do not tell."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from kvpress import criticalkv, h2o, snapkv
from kvpress.errors import KVPressError, SessionError, UnsupportedError
from kvpress.evidence.evidence import Evidence
from kvpress.evidence.output import completed, projected_norms, projections
from tests.models import build, shared, tokens
from tests.policies.scoring import padded


def norms_by_hand(v: Tensor, weight: Tensor, group: int) -> Tensor:
    """v (H, n, D), weight (hidden, H * group * D) -> (H, n) fp64, one slot and query head at a time."""
    heads, total, dim = v.shape
    out = torch.zeros(heads, total, dtype=torch.float64)
    for query in range(heads * group):
        mine = weight[:, query * dim : (query + 1) * dim].double()
        for slot in range(total):
            out[query // group, slot] += (mine @ v[query // group, slot].double()).abs().sum() / group
    return out


@pytest.mark.parametrize("tile", [1, 4 * 3 * 23 * 5, 16 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms(tile: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvpress.evidence.output._TILE_BYTES", tile)
    generator = torch.Generator().manual_seed(1)
    v = torch.randn(3, 2, 37, 6, generator=generator).to(dtype)
    weight = torch.randn(23, 2 * 3 * 6, generator=generator).to(dtype)
    found = projected_norms(v, weight)
    assert found.dtype == torch.float32
    for row in range(3):
        assert (found[row] - norms_by_hand(v[row], weight, 3)).abs().max() < 1e-5 * found.max()


def write(model: PreTrainedModel, layer: int, query: int, value: Tensor) -> Tensor:
    """(hidden,): what the attention of a layer gives when query head `query` puts all its weight on `value` (D,)."""
    attention = next(m for m in model.modules() if getattr(m, "layer_idx", None) == layer and hasattr(m, "scaling"))
    heads = model.config.num_attention_heads

    def one_slot(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, **kwargs: Any) -> tuple[Tensor, None]:
        out = torch.zeros(1, q.shape[2], heads, value.shape[0])
        out[:, :, query] = value
        return out, None

    found: list[Tensor] = []
    hook = attention.register_forward_hook(lambda m, a, out: found.append(out[0][0, -1]))
    AttentionInterface.register("tests_one_slot", one_slot)
    AttentionMaskInterface.register("tests_one_slot", lambda **kwargs: None)
    before = model.config._attn_implementation
    try:
        model.config._attn_implementation_internal = "tests_one_slot"
        model(tokens(1, 3), use_cache=False)
    finally:
        model.config._attn_implementation_internal = before
        hook.remove()
        AttentionInterface._global_mapping.pop("tests_one_slot")
        AttentionMaskInterface._global_mapping.pop("tests_one_slot")
    return found[0]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "phi3", "gpt_neox"])
def test_norms_are_what_attention_writes(family: str) -> None:
    """The module's own output where all attention is on one slot, less its output where there is nothing."""
    model = build(family)
    with (criticalkv() | snapkv(keep=0.4, window=5))(model) as session:
        layer = session.prefill(tokens(2, 19), compress=False).stores[1]
        block = layer.block()
        added = layer.evidence(block).of(session.press.recipe.refine)(block.v)
    heads, dim = block.v.shape[1], block.v.shape[3]
    group = model.config.num_attention_heads // heads
    for row, head, slot in ((0, 0, 3), (1, heads - 1, 17)):
        value = block.v[row, head, slot]
        nothing = write(model, layer.index, 0, torch.zeros(dim))
        wrote = [write(model, layer.index, head * group + g, value) - nothing for g in range(group)]
        wanted = sum(float(w.double().abs().sum()) for w in wrote) / group
        assert float(added[row, head, slot]) == pytest.approx(wanted, rel=1e-5)


def test_only_slots_that_are_not_known_are_worked_out() -> None:
    generator = torch.Generator().manual_seed(2)
    v = torch.rand(2, 3, 7, 4, generator=generator)
    known = torch.arange(42.0).view(2, 3, 7).masked_fill(torch.tensor([0, 1, 1, 0, 1, 0, 0]).bool(), torch.nan)
    valid = torch.tensor([1, 1, 0, 1, 1, 1, 1]).bool().expand(2, 3, -1)
    asked: list[int] = []

    def output(rows: Tensor) -> Tensor:
        asked.append(rows.shape[2])
        return rows.sum(-1)

    out = completed(v, valid, output, known)
    assert asked == [2]
    for number in (0, 1, 3, 4, 5, 6):
        wanted = v[:, :, number].sum(-1) if number in (1, 4) else known[..., number]
        assert torch.equal(out[..., number], wanted)
    assert torch.equal(completed(v[:, :, :1], valid[..., :1], output, known[..., :1])[..., 0], known[..., 0])
    assert asked == [2]


def swapped(model: PreTrainedModel, make: Any) -> PreTrainedModel:
    """The model with another module in place of the output projection of its last layer."""
    attention = model.model.layers[-1].self_attn
    make(attention)
    return model


class Low(torch.nn.Linear):
    """Stands for a linear layer with quantized weights, or with an adapter."""


def offload(attention: Any) -> None:
    attention.o_proj.to("meta")


def replace(attention: Any) -> None:
    attention.o_proj = Low(64, 64)


def narrow(attention: Any) -> None:
    attention.o_proj = torch.nn.Linear(48, 64)


def rename(attention: Any) -> None:
    attention.last = attention.o_proj
    del attention.o_proj


def double(attention: Any) -> None:
    attention.out_proj = torch.nn.Linear(64, 64)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (offload, "offloaded.*without offloading"),
        (replace, "is a Low.*quantized.*merge"),
        (narrow, "takes 48 channels.*64"),
        (rename, "layer 2 has no linear layer called o_proj"),
        (double, "several output projections of layer 2"),
    ],
)
def test_models_are_refused_on_entering(make: Any, words: str) -> None:
    model = swapped(build("llama"), make)
    with pytest.raises(UnsupportedError, match=words), (criticalkv() | snapkv())(model):
        raise AssertionError("not reached")
    with snapkv()(model):
        pass
    with (criticalkv() | snapkv(keep=1.0))(model):  # nothing is evicted, so nothing is asked
        pass


def test_something_between_attention_and_projection_is_refused() -> None:
    model = build("llama")
    linear = model.model.layers[1].self_attn.o_proj
    hook = linear.register_forward_pre_hook(lambda m, given: (3 * given[0],))
    with (criticalkv() | snapkv(window=3))(model) as session:
        with pytest.raises(UnsupportedError, match=r"layers.1.self_attn.o_proj takes something else"):
            session.prefill(tokens(1, 20))
        hook.remove()
        session.prefill(tokens(1, 20))
    assert not linear._forward_pre_hooks


def test_a_gate_is_taken_as_open() -> None:
    """qwen3_next scales what attention gives by a sigmoid; its slots are weighed all the same."""
    with (criticalkv() | snapkv(keep=0.5, window=4))(shared("qwen3_next")) as session:
        assert session.report(session.prefill(tokens(1, 20))).layers[0].slots == 10


def test_no_weights_are_kept_alive() -> None:
    model = build("llama")
    with (criticalkv() | h2o())(model) as session:
        cache = session.prefill(tokens(1, 20))
        layer = cache.stores[0]
        block, refine = layer.block(), session.press.recipe.refine
    del model, session
    gc.collect()
    with pytest.raises(SessionError, match="model of this cache is gone"):
        layer.evidence(block).of(refine)(block.v)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(UnsupportedError, match="no linear layer"):
        projections(torch.nn.Linear(2, 2), None, {0: 2})
    _, seen = padded()
    with pytest.raises(KVPressError, match="was not bound"):
        Evidence(0, seen.rule, seen.rank).of(criticalkv().recipe.refine)
