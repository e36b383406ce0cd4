"""Rows of a batch are picked, repeated and reordered without a trace of the others."""

from __future__ import annotations

import pytest
import torch

from kvpress import Press
from kvpress.errors import SessionError
from tests.helpers import ALL, decode, forward, gap, kept, over, rollout
from tests.models import left_padded, shared, tokens


@over(ALL)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_reordered_rows_continue_as_the_rows_they_are(family: str, press: Press) -> None:
    model, (ids, mask) = shared(family), left_padded([tokens(1, n)[0] for n in (29, 13, 22)])
    order = torch.tensor([2, 0, 0])
    with press(model) as session:
        cache = rollout(session, ids, tokens(3, 6, 1), mask)[1]
        mask = torch.cat([mask, torch.ones(3, 6, dtype=torch.long)], 1)
        fork = cache.fork()
        for step in range(7):
            follow = tokens(3, 1, 10 + step)
            wanted = decode(model, cache, follow, mask)
            mask = torch.cat([mask, torch.ones(3, 1, dtype=torch.long)], 1)
            if step == 0:
                fork.reorder_cache(order)
            got = decode(model, fork, follow[order], mask[order, :-1])
            assert gap(got, wanted[order]) < (3e-5 if press.recipe.block == 0 else 2e-2)
        assert kept(fork) == [[rows[i] for i in order] for rows in kept(cache)]


@over(ALL)
def test_the_three_row_operations_agree(press: Press) -> None:
    model = shared("llama")
    with press(model) as session:
        cache = rollout(session, tokens(2, 31), tokens(2, 5, 1))[1]
        repeated, selected = cache.fork(), cache.fork()
        repeated.batch_repeat_interleave(2)
        selected.batch_select_indices(torch.tensor([0, 0, 1, 1]))
        forked, follow = cache.fork(torch.tensor([0, 0, 1, 1])), tokens(4, 6, 3)
        wanted = decode(model, forked, follow)
        for other in (repeated, selected):
            assert torch.equal(decode(model, other, follow), wanted)
            assert other.batch_size == 4


SEARCHED = {
    name: ALL[name] for name in ("h2o", "snapkv|kivi", "ada", "zigzag", "tova", "fp8", "gear", "think", "minicache")
}


@over(SEARCHED)
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_oss"])
def test_beams_of_a_press_are_its_own_scores(family: str, press: Press) -> None:
    """The score of a beam is the sum of the log-probabilities the press gives to that very sequence."""
    model, ids = shared(family), tokens(1, 30)
    with press(model) as session:
        out = model.generate(
            ids, num_beams=3, max_new_tokens=6, do_sample=False, length_penalty=0.0,
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        follow = out.sequences[:, 30:]
        logits = rollout(session, ids, follow[:, :-1])[0]
    summed = logits.log_softmax(-1).gather(-1, follow.unsqueeze(-1)).sum()
    assert abs(float(summed - out.sequences_scores[0])) < (5e-2 if press.recipe.block else 1e-3)


def test_fork_of_a_batch_cannot_be_repeated() -> None:
    model = shared("llama")
    with Press.parse("full")(model) as session, pytest.raises(SessionError, match="one row; this one has 2"):
        session.prefill(tokens(2, 9)).fork(rows=3)


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3_next", "gemma3n"])
def test_fork_repeats_every_kind_of_layer(family: str) -> None:
    model, ids, follow = shared(family), tokens(1, 23), tokens(3, 5, 1)
    with Press.parse("snapkv(keep=0.5, window=4)")(model) as session:
        cache = session.prefill(ids)
        got = decode(model, cache.fork(rows=3), follow)
        for row in range(3):
            assert gap(got[row : row + 1], decode(model, cache.fork(), follow[row : row + 1])) < 3e-5


def test_reset_forgets_everything() -> None:
    model, ids = shared("llama"), tokens(1, 23)
    with Press.parse("h2o(keep=0.4)")(model) as session:
        wanted, cache = rollout(session, ids, tokens(1, 3, 1))
        cache.reset()
        assert cache.get_seq_length() == 0 and cache.nbytes() == 0
        assert gap(session.prefill(ids, cache=cache).next_logits, wanted[:, 0]) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["full", "snapkv(keep=0.5, window=4)", "tova(keep=9)", ALL["snapkv|kivi"]])
def test_to_dense_holds_the_slots_in_order(text: str) -> None:
    model = shared("gemma3")
    with Press.parse(text)(model) as session:
        cache = session.prefill(tokens(2, 26))
    dense = cache.to_dense()
    for layer in cache.stores:
        block = layer.block()
        order = torch.where(block.valid, block.pos, 999).argsort(-1)[..., : int(block.valid[0, 0].sum())]
        at = order.unsqueeze(-1).expand(-1, -1, -1, 16)
        assert torch.equal(dense.layers[layer.index].keys, block.k.gather(2, at))
        assert torch.equal(dense.layers[layer.index].values, block.v.gather(2, at))


def test_deferred_compression_is_compression() -> None:
    model, ids, follow = shared("llama"), tokens(2, 30), tokens(2, 5, 1)
    for name, text in ALL.items():
        with Press.parse(text)(model) as session:
            wanted, one = rollout(session, ids, follow)
            cache = session.prefill(ids, compress=False)
            assert session.report(cache).fired == 0 and cache.stores[0].counts().min() == 30
            session.compress(cache)
            session.compress(cache)  # idempotent
            assert session.report(cache).fired == 1
            assert torch.equal(decode(model, cache, follow), wanted[:, 1:]), name
            assert kept(cache) == kept(one)


def test_without_compression_nothing_is_lost() -> None:
    model, ids, follow = shared("llama"), tokens(2, 30), tokens(2, 5, 1)
    wanted = forward(model, torch.cat([ids, follow], 1), None)[:, 30:]
    with Press.parse("tova(keep=0.2)")(model) as session:
        cache = session.prefill(ids, compress=False)
        assert gap(decode(model, cache, follow), wanted) < 3e-5
