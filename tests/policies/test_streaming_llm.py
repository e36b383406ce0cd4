"""StreamingLLM with positions of cache slots: sinks move along, by the model's own rotary embedding."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from kvpress import Press, kivi, streaming_llm
from kvpress.errors import PressConflictError, UnsupportedError
from tests.helpers import decode, kept
from tests.models import build, tokens

THETA, DIM = 10_000.0, 16


def llama(**rope: object) -> PreTrainedModel:
    return build("llama", num_hidden_layers=2, rope_parameters={"rope_type": "default", "rope_theta": THETA, **rope})


def rotate_half_split(x: torch.Tensor, by: int) -> torch.Tensor:
    """RoPE written out in fp64, independent of the library and of transformers."""
    angle = by / THETA ** (torch.arange(0, DIM, 2).double() / DIM)
    a, b = x.double().chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def test_sinks_stand_where_their_slots_are() -> None:
    model, ids = llama(), torch.arange(2, 43)[None]
    before = model(ids).past_key_values.layers[0].keys
    with streaming_llm(keep=16, sinks=3)(model) as session, torch.no_grad():
        cache = session.prefill(ids)
        for step in range(5):
            model(torch.tensor([[50 + step]]), past_key_values=cache)
            evicted = ids.shape[1] + step + 1 - 16
            stored = cache.stores[0].tail.keys[0, :, :3]
            wanted = rotate_half_split(before[0, :, :3], evicted)
            assert (stored - wanted).abs().max() < 1e-5


def test_logits_equal_those_of_a_cache_rebuilt_at_slot_positions() -> None:
    """The same keys un-rotated, gathered and rotated anew to 0..N-1, with the query at slot N."""
    model, ids = llama(), torch.arange(2, 43)[None]
    token = torch.tensor([[77]])
    with streaming_llm(keep=16)(model) as session, torch.no_grad():
        got = model(token, past_key_values=session.prefill(ids)).logits
    with torch.no_grad():
        dense = model(ids).past_key_values
        kept = torch.cat([torch.arange(4), torch.arange(41 - 12, 41)])
        for layer in dense.layers:
            rows = [rotate_half_split(layer.keys[:, :, at], slot - int(at)) for slot, at in enumerate(kept)]
            layer.keys = torch.stack(rows, 2).float()
            layer.values = layer.values[:, :, kept]
        wanted = model(token, past_key_values=dense, position_ids=torch.tensor([[16]])).logits
    assert (got - wanted).abs().max() < 1e-4


def test_keep_leaves_keys_alone() -> None:
    model, ids = llama(), torch.arange(2, 43)[None]
    before = model(ids).past_key_values.layers[0].keys
    with streaming_llm(keep=16, positions="keep")(model) as session:
        cache = session.prefill(ids)
    assert torch.equal(cache.stores[0].tail.keys[:, :, :4], before[:, :, :4])


def test_no_rotary_embedding_is_refused_with_the_way_out() -> None:
    with pytest.raises(UnsupportedError, match='positions="keep"'), streaming_llm()(build("opt")):
        pass


def test_length_dependent_rope_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="dynamic"), streaming_llm()(llama(rope_type="dynamic", factor=2.0)):
        pass


def test_packed_storage_cannot_be_moved() -> None:
    with pytest.raises(PressConflictError, match="positions"):
        streaming_llm() | kivi()
    assert str(streaming_llm(positions="keep") | kivi()) == 'streaming_llm(positions="keep") | kivi'
    assert Press.parse('streaming_llm(positions="keep") | kivi') == streaming_llm(positions="keep") | kivi()


def test_once_after_the_prompt_as_in_kvpress() -> None:
    model, ids = llama(), torch.arange(2, 43)[None]
    before = model(ids).past_key_values.layers[0].keys
    with Press.parse("streaming_llm@kvpress(keep=16)")(model) as session:
        cache = session.prefill(ids)
        assert kept(cache)[0][0] == [[*range(4), *range(29, 41)]] * 2
        decode(model, cache, tokens(1, 7))
    assert kept(cache)[1][0] == [[*range(4), *range(29, 48)]] * 2
    block = cache.stores[0].block()
    assert torch.equal(block.k[:, :, :16], before[:, :, [*range(4), *range(29, 41)]])


def test_once_and_by_slots_is_a_cache_at_slot_positions() -> None:
    """After the prompt the sinks move next to the window, and stay there as it grows."""
    model, ids, follow = llama(), torch.arange(2, 43)[None], tokens(1, 6, 1)
    with streaming_llm(keep=16, schedule="after_prefill")(model) as session:
        got = decode(model, session.prefill(ids), follow)
    dense = model(ids).past_key_values
    slots = torch.cat([torch.arange(4), torch.arange(41 - 12, 41)])
    for layer in dense.layers:
        rows = [rotate_half_split(layer.keys[:, :, at], slot - int(at)) for slot, at in enumerate(slots)]
        layer.keys, layer.values = torch.stack(rows, 2).float(), layer.values[:, :, slots]
    wanted = model(follow, past_key_values=dense, position_ids=torch.arange(16, 22)[None]).logits
    assert (got - wanted).abs().max() < 1e-4


SCALED = {
    "default": {},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64},
}


@pytest.mark.parametrize("kind", SCALED)
def test_moved_keys_are_those_rotated_at_their_slots_from_before_rope(kind: str) -> None:
    """By the model's own frequencies and YaRN's factor, which a move must not apply again; after many evictions."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    model, ids, plain = llama(**SCALED[kind]), torch.arange(2, 43)[None], []
    with streaming_llm(keep=16, sinks=3)(model) as session:
        hook = model.model.layers[0].self_attn.k_proj.register_forward_hook(lambda m, a, out: plain.append(out))
        cache = session.prefill(ids)
        decode(model, cache, tokens(1, 9))
    hook.remove()
    keys = torch.cat(plain, 1).unflatten(-1, (2, DIM)).transpose(1, 2)
    held = [*range(3), *range(50 - 13, 50)]
    # Slots count from 0, or from any number: here the window stands still and the sinks come to it.
    at = torch.tensor([[34, 35, 36, *held[3:]]])
    cos, sin = model.model.rotary_emb(keys, at)
    wanted = apply_rotary_pos_emb(keys[:, :, held], keys[:, :, held], cos, sin)[1]
    block = cache.stores[0].block()
    order = block.pos[0, 0].argsort()[(block.pos[0, 0] < 0).sum() :]
    assert block.pos[0, 0][order].tolist() == held
    assert (block.k[:, :, order] - wanted).abs().max() < 2e-5
