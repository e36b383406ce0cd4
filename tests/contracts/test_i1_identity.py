"""I1: keep=1 with dense storage gives the tokens of no press."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from kvpress import Press, full
from tests.helpers import ALL, KEEP_ALL, forward, gap, over, rollout
from tests.models import FAMILIES, SPECIAL, left_padded, shared, tokens

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 1.3, "top_k": 40},
    "beams": {"do_sample": False, "num_beams": 3},
    "beam-sampling": {"do_sample": True, "num_beams": 2, "num_return_sequences": 2},
    "chunked-prompt": {"do_sample": False, "prefill_chunk_size": 7},
    "lookup": {"do_sample": False, "prompt_lookup_num_tokens": 3},
}


def run(model: PreTrainedModel, ids: Tensor, mask: Tensor | None, **how: Any) -> Tensor:
    torch.manual_seed(5)
    return model.generate(ids, attention_mask=mask, max_new_tokens=14, **how)


@pytest.mark.parametrize("impl", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES + SPECIAL)
def test_greedy_tokens_of_every_family(family: str, impl: str) -> None:
    model = shared(family, impl)
    ids, mask = left_padded([tokens(1, 23)[0], tokens(1, 11)[0]])
    for prompt, padding in ((tokens(2, 21), None), (ids, mask)):
        wanted = run(model, prompt, padding, do_sample=False)
        with full()(model):
            assert torch.equal(run(model, prompt, padding, do_sample=False), wanted)


@over(KEEP_ALL)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_greedy_tokens_of_every_press(press: Press, family: str) -> None:
    model = shared(family)
    ids, mask = left_padded([tokens(1, 23)[0], tokens(1, 11)[0]])
    wanted = run(model, ids, mask, do_sample=False)
    with press(model):
        assert torch.equal(run(model, ids, mask, do_sample=False), wanted)


@pytest.mark.parametrize("padded", [False, True], ids=["even", "padded"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "gpt_neox", "opt", "gpt_oss", "phi3"])
def test_every_way_to_generate(family: str, way: str, padded: bool) -> None:
    model, mask = shared(family), None
    ids = tokens(1 if way == "lookup" else 2, 24)
    if padded:
        ids, mask = left_padded([ids[0], *(row[:13] for row in ids[1:])])
    wanted = run(model, ids, mask, **WAYS[way])
    for press in (full(), Press.parse(KEEP_ALL["h2o"])):
        with press(model):
            assert torch.equal(run(model, ids, mask, **WAYS[way]), wanted)


@pytest.mark.parametrize("chunk", [1, 5, 8, 40])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_oss", "qwen3_next"])
def test_session_prefill_in_chunks(family: str, chunk: int) -> None:
    model, (ids, mask), follow = shared(family), left_padded([tokens(1, 25)[0], tokens(1, 9)[0]]), tokens(2, 4, 1)
    if family == "qwen3_next":  # linear layers read padding; transformers itself is exact for them unpadded only
        ids, mask = tokens(2, 25), torch.ones(2, 25, dtype=torch.long)
    everything = torch.cat([ids, follow], 1)
    full_mask = torch.cat([mask, torch.ones(2, 4, dtype=torch.long)], 1)
    wanted = forward(model, everything, None, full_mask)[:, 24:]
    most = 3e-5
    if family == "qwen3_next":  # in chunks its linear layers round otherwise without any press: that much, and no more
        wanted = in_chunks(model, everything, full_mask, [*range(0, 25, chunk), *range(25, 30)])[:, -5:]
        most = 3e-6
    for press in map(Press.parse, KEEP_ALL.values()):
        with press(model) as session:
            got, cache = rollout(session, ids, follow, mask, chunk)
        assert gap(got, wanted) < most, press
        assert cache.get_seq_length() == 29


def in_chunks(model: PreTrainedModel, ids: Tensor, mask: Tensor, edges: list[int]) -> Tensor:
    """Logits of ids, read without a press from each edge to the next."""
    cache, parts = DynamicCache(config=model.config), []
    for start, stop in pairwise(edges):
        parts.append(forward(model, ids[:, start:stop], cache, mask[:, :stop]))
    return torch.cat(parts, 1)


def test_logits_and_not_only_tokens() -> None:
    model, ids = shared("llama"), tokens(2, 33)
    how = {"do_sample": False, "max_new_tokens": 8, "return_dict_in_generate": True, "output_logits": True}
    wanted = model.generate(ids, **how)
    with full()(model):
        got = model.generate(ids, **how)
    assert gap(torch.stack(got.logits), torch.stack(wanted.logits)) < 3e-5


def test_arguments_by_position() -> None:
    model, ids = shared("llama"), tokens(2, 20)
    wanted = model(torch.cat([ids, ids[:, :1]], 1)).logits[:, -1]
    with full()(model) as session:
        for cache in (None, session.new_cache()):
            cache = model(ids, None, None, cache, use_cache=True).past_key_values
            assert gap(model(ids[:, :1], None, None, cache).logits[:, -1], wanted) < 3e-5


def test_without_a_cache_nothing_is_pressed() -> None:
    model, ids = shared("llama"), tokens(2, 33)
    wanted = model(ids, use_cache=False).logits
    with Press.parse("snapkv(keep=0.3, window=4)")(model):
        assert torch.equal(model(ids, use_cache=False).logits, wanted)


@over({name: ALL[name] for name in ("h2o", "snapkv", "kivi", "snapkv|kivi")})
@pytest.mark.parametrize("family", ["llama", "gemma3", "opt"])
def test_the_inner_model_called_directly_is_under_the_press(press: Press, family: str) -> None:
    model, ids = shared(family), tokens(2, 33)
    with press(model) as session:
        wanted = model(ids, use_cache=True).past_key_values
        cache = model.base_model(ids, use_cache=True).past_key_values
        for at in range(3):
            ours = model.base_model(ids[:, at : at + 1], past_key_values=cache).last_hidden_state
            logits = forward(model, ids[:, at : at + 1], wanted)
            assert gap(model.get_output_embeddings()(ours), logits) < 3e-5
        assert session.report(cache) == session.report(wanted)
        assert session.report(cache).fired == 1


@pytest.mark.parametrize("press", ["full", "kivi(bits=8, group=4, residual=8)"])
def test_prompt_lookup_under_presses_that_keep_every_token(press: str) -> None:
    model = shared("llama")
    ids = tokens(1, 12).repeat(1, 3)
    with Press.parse(press)(model) as session:
        plain = model.generate(ids, do_sample=False, max_new_tokens=12, return_dict_in_generate=True)
        guessed = model.generate(
            ids, do_sample=False, max_new_tokens=12, prompt_lookup_num_tokens=3, return_dict_in_generate=True
        )
    assert torch.equal(guessed.sequences, plain.sequences)
    assert session.report(guessed.past_key_values).fired == 1
