"""I9: a segment never changes. Forks share it; decoding, cropping and compressing never write into it."""

from __future__ import annotations

import pytest
import torch

from kvpress import Press, PressCache
from kvpress.errors import CropError
from tests.helpers import ALL, COMPOSED, QUANTIZED, decode, digest, gap, over, rollout, segment_digests
from tests.models import shared, tokens

WITH_SEGMENTS = {**QUANTIZED, **{k: ALL[k] for k in ("snapkv", "random", "snapkv-again")}}


def everything(cache: PressCache) -> list[str]:
    return [digest(tensor) for *_, tensor in cache.tensors()]


@over(WITH_SEGMENTS)
def test_segments_stand_while_forks_decode(press: Press) -> None:
    model = shared("llama")
    with press(model) as session:
        _, cache = rollout(session, tokens(1, 45), tokens(1, 12, 1))
        segments = [item.segment for layer in cache.stores for item in layer.held]
        assert segments
        before, whole = segment_digests(cache), everything(cache)
        for rows in (None, 3):
            fork = cache.fork(rows)
            assert [item.segment for layer in fork.stores for item in layer.held] == segments  # shared, not copied
            batch = rows or 1
            session.prefill(tokens(batch, 6, 2), cache=fork)
            decode(model, fork, tokens(batch, 14, 3))
            fork.reorder_cache(torch.zeros(batch, dtype=torch.long))
            decode(model, fork, tokens(batch, 3, 4))
        assert segment_digests(cache) == before
        assert everything(cache) == whole
        del fork
        decode(model, cache, tokens(1, 16, 5))
        # The old segment objects are as they were, whatever the cache now holds in their place.
        now = [{name: digest(tensor) for name, _, _, tensor in segment.tensors()} for segment in segments]
        assert now == before


@over(ALL)
def test_a_fork_is_worth_its_original(press: Press) -> None:
    model, follow = shared("llama"), tokens(2, 14, 1)
    with press(model) as session:
        cache = rollout(session, tokens(2, 33), tokens(2, 5, 9))[1]
        fork, grandchild = cache.fork(), cache.fork().fork()
        shared_by_both = addresses(fork) & addresses(cache)
        assert shared_by_both == segment_addresses(cache) | replaced_not_written(cache)
        wanted = decode(model, cache, follow)
        assert torch.equal(decode(model, fork, follow), wanted)
        assert torch.equal(decode(model, grandchild, follow), wanted)


def addresses(cache: PressCache) -> set[int]:
    return {tensor.data_ptr() for *_, tensor in cache.tensors() if tensor.numel()}


def segment_addresses(cache: PressCache) -> set[int]:
    items = [item for layer in cache.stores for item in layer.held]
    return {tensor.data_ptr() for item in items for *_, tensor in item.segment.tensors()}


def replaced_not_written(cache: PressCache) -> set[int]:
    """Tensors that are replaced and never written: forks may share them too."""
    names = ("seen_mask", "total", "shift", "sink_keys", "asked")
    found = [getattr(layer, name) for layer in cache.stores for name in names]
    found += [tensor for layer in cache.stores for tensor in layer.own.values()]
    found += [tensor for layer in cache.stores for _, tensor in layer.witness.tensors()]
    columns = [values for layer in cache.stores for item in layer.held for values in item.columns.values()]
    return {t.data_ptr() for t in [*found, *columns] if t is not None}


TRIMMED = ("full", "random", "snapkv", "kivi", "fp8", "int8", "gear")


@over({k: v for k, v in ALL.items() if k.split("|")[0] in TRIMMED and "think" not in k})
def test_crop_takes_back_exactly_the_last_tokens(press: Press) -> None:
    model, follow = shared("llama"), tokens(2, 5, 1)
    with press(model) as session:
        cache = session.prefill(tokens(2, 36))
        wanted = decode(model, cache.fork(), follow)
        decode(model, cache, tokens(2, 3, 7))
        before = segment_digests(cache)
        cache.crop(-3)
        assert segment_digests(cache) == before
        assert cache.get_seq_length() == 36
        got = decode(model, cache, follow)
        # With a codec the three tokens may have made an older block due earlier, which crop does not undo.
        assert gap(got, wanted) < (3e-5 if press.recipe.block == 0 else 1.0)


@over({**COMPOSED, "snapkv": ALL["snapkv"], "h2o": ALL["h2o"], "tova": ALL["tova"]})
def test_crop_never_cuts_into_what_was_compressed(press: Press) -> None:
    model = shared("llama")
    with press(model) as session:
        cache = rollout(session, tokens(2, 36), tokens(2, 4, 1))[1]
        before = everything(cache)
        for count in (5, 30, 41):
            with pytest.raises(CropError, match="Fork the cache before"):
                cache.crop(-count)
        with pytest.raises(CropError, match="minus"):
            cache.crop(5)
        assert everything(cache) == before and cache.get_seq_length() == 40
        cache.crop(0)


@over({k: ALL[k] for k in ("h2o", "tova", "snapkv", "snapkv-again", "snapkv|kivi", "expected_attention")})
def test_crop_cannot_take_back_attention_that_was_counted(press: Press) -> None:
    """Between reading and compressing everything is dense, but the press has seen the queries of the tokens."""
    with press(shared("llama")) as session:
        cache = session.prefill(tokens(1, 36), compress=False)
        with pytest.raises(CropError, match="attention of their queries"):
            cache.crop(-6)
        cache.crop(0)
        session.compress(cache)
        assert session.report(cache).fired == 1


@over({k: ALL[k] for k in ("full", "random", "streaming_llm", "kivi", "kivi-token", "lagkv", "leverage")})
def test_crop_before_compressing_is_reading_less(press: Press) -> None:
    model, ids, follow = shared("llama"), tokens(1, 36), tokens(1, 5, 1)
    with press(model) as session:
        wanted = rollout(session, ids[:, :30], follow)[0][:, 1:]
        cache = session.prefill(ids, compress=False)
        cache.crop(-6)
        session.compress(cache)
        assert gap(decode(model, cache, follow), wanted) < 3e-5


@over({k: v for k, v in QUANTIZED.items() if k.split("|")[0] not in ("tova", "streaming_llm", "think")})
def test_codes_are_append_only(press: Press) -> None:
    """Decoded values of a packed slot are bit-identical for ever after."""
    model = shared("llama")
    with press(model) as session:
        cache = rollout(session, tokens(1, 40), tokens(1, 1, 1))[1]
        first: dict[tuple[int, int, int], tuple[list[float], list[float]]] = {}
        for step in range(60):
            decode(model, cache, tokens(1, 1, step))
            for number, layer in enumerate(cache.stores):
                for item in layer.held:
                    k, v = item.segment.decode()
                    for head in range(k.shape[1]):
                        for slot, at in enumerate(item.segment.positions()[0, head].tolist()):
                            if at >= 0:
                                values = (k[0, head, slot].tolist(), v[0, head, slot].tolist())
                                assert first.setdefault((number, head, at), values) == values
    seen = {at for _, _, at in first}
    assert len(seen) > 15 and (press.recipe.schedule.interval or max(seen) > 80)
