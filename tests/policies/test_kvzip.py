"""KVzip's scores against attention weights of the eager model, and a repetition that leaves no trace."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from kvpress import Press, kvzip, snapkv
from kvpress.errors import SessionError, UnsupportedError
from kvpress.evidence.evidence import Repeat
from kvpress.policies.kvzip import Reconstruction, instructions
from kvpress.policies.pooled import Pooled
from kvpress.recipe.kinds import EveryStep
from kvpress.recipe.recipe import Recipe
from kvpress.session.second_reading import parts, read_again
from tests.helpers import forward, gap, kept, positions_of
from tests.models import build, left_padded, shared, tokens

PRESS = kvzip(keep=0.4, sinks=2, chunk=6, overlap=3)
TOLD = ([7, 9, 11], [13])


def by_hand(eager: PreTrainedModel, ids: Tensor, told: tuple[list[int], list[int]]) -> list[Tensor]:
    """(Hq, n) scores of every layer for one row of tokens (n,), each part repeated after a dense cache of its own."""
    n, skip, chunk, overlap = len(ids), 2, 6, 3
    dense = DynamicCache(config=eager.config)
    eager(ids[None], past_key_values=dense)
    scores: list[Tensor] = []
    for start in range(skip, n, chunk):
        lead = ids[max(0, start - overlap) : start] if start > skip else ids[:0]
        part = ids[start : start + chunk]
        fed = torch.cat([torch.tensor(told[start > skip], dtype=torch.long), lead, part])
        out = eager(fed[None], past_key_values=copy.deepcopy(dense), output_attentions=True)
        for layer, weights in enumerate(out.attentions):
            weights = weights[0].double()
            columns = [*range(skip), *range(start, start + len(part)), *range(n, n + len(fed))]
            seen = weights[:, :, columns] / weights[:, :, columns].sum(-1, keepdim=True)
            if len(scores) <= layer:
                scores.append(torch.zeros(weights.shape[0], n, dtype=torch.float64))
            scores[layer][:, start : start + len(part)] = seen[:, :, skip : skip + len(part)].amax(1)
    return scores


@pytest.mark.parametrize("told", [((), ()), TOLD], ids=["alone", "told"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3", "gpt_neox"])
def test_scores_are_the_renormalized_attention_of_a_repetition(family: str, told: Any) -> None:
    """A softmax over some of the slots is the softmax over all, by its sum over them."""
    lengths = (29, 14, 3)
    ids, mask = left_padded([tokens(1, n)[0] for n in lengths])
    with PRESS(shared(family)) as session:
        session.instructions = told
        cache = session.prefill(ids, mask, compress=False)
        read_again(session, cache)
        found = [layer.repeated for layer in cache.stores]
    for row, length in enumerate(lengths):
        wanted = by_hand(shared(family, "eager"), ids[row, -length:], (list(told[0]), list(told[1])))
        for layer, scores in zip(cache.stores, found, strict=True):
            assert scores is not None
            best = wanted[layer.index].unflatten(0, (scores.shape[1], -1)).amax(1)
            assert (scores[row, :, -length:].double() - best).abs().max() < 2e-5
            assert not scores[row, :, : ids.shape[1] - length].any()
            if length > 2:
                assert best[:, 2:].min() > 0


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_repetition_leaves_the_cache_as_it_was(family: str) -> None:
    model = shared(family)
    ids, mask = left_padded([tokens(1, 31)[0], tokens(1, 12)[0]])

    def state(cache: Any) -> list[tuple[str, Any]]:
        found = []
        for layer in cache.stores:
            tail = layer.tail
            found += [("k", tail.keys.clone()), ("v", tail.values.clone()), ("pos", tail.positions().clone())]
            found += [("mask", layer.seen_mask), ("logical", torch.tensor([layer.logical, tail.count]))]
        return found + [(n, t.clone()) for _, n, _, kind, t in cache.tensors() if kind == "other"]

    with PRESS(model) as session:
        cache = session.prefill(ids, mask, compress=False)
        logits = cache.next_logits
        before = state(cache)
        read_again(session, cache)
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(before, state(cache), strict=True))
        assert cache.next_logits is logits
        session.compress(cache)
        assert all(layer.repeated is None and layer.prompt is None for layer in cache.stores)


@pytest.mark.parametrize("spread", ["all", "layer", "even"])
def test_the_best_slots_of_all_heads_and_layers_stay(spread: str) -> None:
    model, ids = shared("llama"), tokens(1, 41)
    press = kvzip(keep=0.4, sinks=2, chunk=6, overlap=3, spread=spread)
    with press(model) as session:
        cache = session.prefill(ids, compress=False)
        read_again(session, cache)
        scores = torch.stack([layer.repeated[0] for layer in cache.stores])  # (L, H, n)
        session.compress(cache)
        sets = kept(cache)
    layers, heads, _ = scores.shape
    scores[..., :2] = torch.inf
    counts = [[len(head) for head in rows[0]] for rows in sets]
    assert sum(map(sum, counts)) == 16 * layers * heads  # floor(0.4 * 41)
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    for layer, rows in enumerate(sets):
        for head, slots in enumerate(rows[0]):
            chosen[layer, head, slots] = True
    if spread == "even":
        assert all(count == 16 for row in counts for count in row)
        groups = scores.flatten(0, 1), chosen.flatten(0, 1)
    elif spread == "layer":
        assert all(sum(row) == 16 * heads for row in counts) and len({tuple(row) for row in counts}) > 1
        groups = scores.flatten(1), chosen.flatten(1)
    else:
        best = scores.flatten().argsort(descending=True)[: 16 * layers * heads]
        wanted = torch.zeros(scores.numel()).index_fill_(0, best, 1).view(layers, -1).sum(1) / heads
        got = torch.tensor(counts).sum(1) / heads
        assert (got - wanted).abs().max() <= 1 and len(set(got.tolist())) > 1  # but for whole slots a head
        groups = scores.flatten(1), chosen.flatten(1)
    for values, mine in zip(*groups, strict=True):
        assert values[mine].min() >= values[~mine].max()


def test_pooled_counts_the_best_of_all_layers() -> None:
    a = torch.tensor([[[9.0, 8.0, 7.0], [1.0, 2.0, 6.0]]])
    b = torch.tensor([[[0.0, 3.0, -torch.inf], [torch.inf, 4.0, 0.5]]])
    weights = Pooled().weights([a, b], torch.tensor([1]), torch.tensor([0]), torch.tensor([3]))
    assert weights.tolist() == [[1.5], [0.5]]  # inf, 9, 8, 7: three of layer a, one of layer b, by two heads
    weights = Pooled().weights([a, b], torch.tensor([2]), torch.tensor([0]), torch.tensor([3]))
    assert weights.tolist() == [[2.5], [1.5]]  # then 6, 4, 3, 2


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_every_way_to_read_a_prompt_repeats_it(family: str) -> None:
    model, ids, new = shared(family), tokens(1, 33), tokens(1, 1, 1)
    with PRESS(model) as session:
        wanted = forward(model, new, session.prefill(ids))
        assert gap(forward(model, new, session.prefill(ids, chunk=7)), wanted) < 3e-5
        plain = session.new_cache()
        forward(model, ids[:, :20], plain)
        forward(model, ids[:, 20:], plain)
        assert gap(forward(model, new, plain), wanted) < 3e-5  # fired by the first decode step
        assert plain.stores[0].fired == 1
        ledger = session.new_cache()
        forward(model, ids, ledger)
        assert ledger.nbytes() < 0.8 * ledger.dense_nbytes() or family == "gemma3"  # fired by asking
        assert ledger.stores[0].fired == 1
        for size in (None, 8):
            out = model.generate(
                ids, max_new_tokens=3, do_sample=False, prefill_chunk_size=size, return_dict_in_generate=True
            )
            assert out.past_key_values.stores[0].fired == 1
            assert kept(out.past_key_values)[0][0][0][:-2] == kept(plain)[0][0][0][:-1]
        # A later turn is read once and kept.
        slots = plain.stores[0].counts().clone()
        session.prefill(tokens(1, 9, 4), cache=plain)
        assert torch.equal(plain.stores[0].counts(), slots + 9) and plain.stores[0].prompt is None


def test_what_cannot_be_repeated_is_refused() -> None:
    model, ids = shared("llama"), tokens(1, 20)
    with PRESS(model) as session:
        with pytest.raises(UnsupportedError, match="needs input_ids"):
            model(inputs_embeds=model.get_input_embeddings()(ids))
        cache = session.new_cache()
        forward(model, ids, cache)
    with pytest.raises(SessionError, match="reads the prompt a second time"):
        cache.nbytes()
    with Press.parse(str(PRESS))(model) as session:
        session.compress(cache)
        assert cache.nbytes() < cache.dense_nbytes()


def test_a_dense_cache_of_rows_is_repeated_row_by_row() -> None:
    model, ids = shared("llama"), tokens(3, 25)
    with PRESS(model) as session:
        cache = session.prefill(ids, compress=False).fork(torch.tensor([2, 0]))
        session.compress(cache)
        alone = session.prefill(ids[[2, 0]])
        assert kept(cache) == kept(alone)


def test_the_other_budgets_take_its_scores() -> None:
    even = kvzip(keep=0.4, spread="even")
    for text in (f"ada | {even}", f"pyramid | {even}", f"pooled | {even}", f"zigzag(window=5) | ada | {even}"):
        with Press.parse(text)(shared("llama")) as session:
            cache = session.prefill(tokens(1, 40))
            assert sum(int(layer.counts().sum()) for layer in cache.stores) == 16 * 2 * len(cache.stores)
    with pytest.raises(ValueError, match="both decide"):
        kvzip() | Press.parse("pooled")
    with pytest.raises(ValueError, match="pooled cannot compare heads"):
        Press.parse("pooled | streaming_llm")
    with pytest.raises(ValueError, match="second reading of the prompt"):
        Recipe(keep=0.5, scorer=Reconstruction(), schedule=EveryStep()).check()
    with pytest.raises(ValueError, match="nothing scores slots"):
        Press.parse("pooled").ready()
    assert not snapkv().recipe.together


class Tokenizer:
    """Tokens are words; a chat template of one turn."""

    chat_template = "yes"

    def apply_chat_template(self, turns: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool) -> str:
        assert not tokenize and add_generation_prompt
        return f"<user> {turns[0]['content']} <end> <model>"

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[str]]:
        assert not add_special_tokens
        return {"input_ids": text.split()}


def test_instructions_close_the_turn_of_the_user() -> None:
    first, later, end = instructions(Tokenizer())
    assert first[0] == "Repeat" and "part" in later and end == ["<end>", "<model>"]
    plain = Tokenizer()
    plain.chat_template = ""
    assert instructions(plain)[0][-1] == "exactly." and instructions(plain)[2] == []


def test_the_turn_ends_after_the_tokens_that_lead_into_a_part() -> None:
    """As in the authors' code: words, the end of the part before, the end of the turn, the part."""
    told = ([91], [92, 93], [94])
    found = [part.ids.tolist() for part in parts(torch.arange(10, 19)[None], None, Repeat(3, 2, 2), told)]
    assert found == [
        [[91, 94, 12, 13, 14]],
        [[92, 93, 13, 14, 94, 15, 16, 17]],
        [[92, 93, 16, 17, 94, 18]],
    ]
    whole = list(parts(torch.arange(10, 17)[None], None, Repeat(4, 2, 3, whole=True), told))
    assert [part.ids.tolist() for part in whole] == [[[91, 94, 10, 11, 12, 13]], [[92, 93, 12, 13, 94, 14, 15, 16]]]
    assert [part.before[0].tolist() for part in whole] == [[], [0, 1, 2]]
    assert [part.columns[0].tolist() for part in whole] == [[0, 1, 2, 3], [4, 5, 6]]


def test_positions_of_a_repetition_follow_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    model = shared("llama")
    ids, mask = left_padded([tokens(1, 20)[0], tokens(1, 9)[0]])
    seen: list[tuple[Tensor, Tensor]] = []

    def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["past_key_values"].state.part is not None:
            seen.append((kwargs["input_ids"], kwargs["position_ids"]))

    handle = model.model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with PRESS(model) as session:
            session.prefill(ids, mask)
    finally:
        handle.remove()
    assert len(seen) == 3
    assert all(at[0, 0] == 20 and at[1, 0] == 9 for _, at in seen)
    assert seen[0][0][1].tolist() == ids[1, -7:-1].tolist()
    assert seen[1][0][0].tolist() == ids[0, 5:14].tolist()
    assert positions_of(mask)[1, -1] == 8


@pytest.mark.parametrize("length", range(1, 24))
@pytest.mark.parametrize("size", [None, 1, 5])
def test_parts_of_any_width_are_repeated_by_generate_too(length: int, size: int | None) -> None:
    model, ids = shared("llama"), tokens(1, length)
    press = kvzip(keep=0.4, sinks=2, chunk=5, overlap=0)
    with press(model) as session:
        out = model.generate(
            ids, max_new_tokens=2, do_sample=False, prefill_chunk_size=size, return_dict_in_generate=True
        ).past_key_values
        wanted = session.prefill(ids)
        assert [head[:-1] for head in kept(out)[0][0]] == kept(wanted)[0][0]


def test_a_prompt_read_before_generate_is_repeated_when_it_is_complete() -> None:
    model, ids = shared("llama"), tokens(1, 30)
    with PRESS(model) as session:
        cache = session.prefill(ids[:, :-1], compress=False)
        model.generate(ids, past_key_values=cache, max_new_tokens=3, do_sample=False)
        slots = sum(int(layer.counts().sum()) for layer in cache.stores) / (2 * len(cache.stores))
        assert cache.stores[0].fired == 1 and slots == 11 + 3  # floor(0.4 * 29), the last of the prompt, two decoded


def test_what_is_refused_leaves_the_prompt_as_it_was() -> None:
    model, ids = shared("llama"), tokens(1, 30)
    with PRESS(model) as session:
        cache = session.prefill(ids, compress=False)
        with pytest.raises(UnsupportedError, match="pixel_values"):
            model(ids[:, :4], past_key_values=cache, pixel_values=torch.zeros(1))
    with snapkv(keep=0.5, window=4)(model) as other:
        with pytest.raises(SessionError, match="was made by"):
            model(ids[:, :4], past_key_values=cache)
        with pytest.raises(SessionError, match="was made by"):
            other.compress(cache)
    with PRESS(model) as session:
        assert cache.stores[0].prompt is not None and cache.stores[0].prompt.shape == ids.shape
        session.instructions = ([10**6], [3])
        with pytest.raises(IndexError):
            session.compress(cache)
        assert cache.stores[0].repeated is None and not cache.broken and cache.stores[0].staged is None
        session.instructions = ([], [])
        session.compress(cache)
        assert kept(cache) == kept(session.prefill(ids))
        with pytest.raises(SessionError, match="lists of token ids"):
            session.instructions = [7, 9]  # type: ignore[assignment]


def test_a_prompt_that_fits_is_read_once_and_buffers_are_given_back() -> None:
    model, ids = shared("llama"), tokens(1, 40)
    with kvzip(keep=512, chunk=6)(model) as session:
        held = session.prefill(ids).nbytes()
    assert held <= 1.02 * full_bytes(model, ids)
    with PRESS(model) as session:
        cache = session.prefill(ids, compress=False)
        before = cache.nbytes()
        read_again(session, cache)
        assert cache.nbytes() == before


def full_bytes(model: PreTrainedModel, ids: Tensor) -> int:
    with Press.parse("full")(model) as session:
        return session.prefill(ids).nbytes()


def test_positions_that_change_a_model_are_refused() -> None:
    dynamic = build("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0})
    with pytest.raises(UnsupportedError, match="dynamic RoPE"), PRESS(dynamic):
        pass


def test_crop_needs_its_session_before_it_takes_anything_away() -> None:
    model, ids = shared("llama"), tokens(1, 30)
    with PRESS(model) as session:
        cache = session.new_cache()
        forward(model, ids, cache)
    with pytest.raises(SessionError, match="second time"):
        cache.crop(-3)
    assert cache.get_seq_length() == 30
