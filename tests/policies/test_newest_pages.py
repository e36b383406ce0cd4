"""Pages: all of them are the whole cache, some are a window; what is read is counted, nothing is dropped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kvpress import Press, PressCache
from kvpress.attention.partial import attend_reference, fold_queries
from kvpress.cache.layer import StoreLayer
from kvpress.errors import PressConflictError, PressSyntaxError
from tests.helpers import decode, gap, kept, rollout
from tests.models import left_padded, shared, tokens

SNAPKV = "snapkv(keep=0.7, window=4) | "
STORED = ("", "kivi(bits=8, group=4, residual=0) | ", SNAPKV, f"ada | {SNAPKV}")


@pytest.mark.parametrize("under", STORED)
def test_all_pages_are_the_whole_cache(under: str) -> None:
    """As the same press without a selector, where both store the same slots in the same form."""
    model, follow = shared("llama"), tokens(2, 21, 1)
    ids, mask = left_padded([tokens(1, 57)[0], tokens(1, 38, 5)[0]])
    with Press.parse(f"{under}newest_pages(pages=0, page=4, recent=5)")(model) as session:
        logits, cache = rollout(session, ids, follow, mask)
        slabs = [slab for layer in cache.stores for item in layer.held for slab in item.segment.slabs]
        assert slabs and all(slab.pages is not None for slab in slabs)
        number = sum(x.nbytes for slab in slabs for *_, x in slab.pair.tensors())
        number += sum(x.numel() * x.element_size() for t in cache.stores for x in (t.tail.keys, t.tail.values))
        assert cache.bytes_read() == pytest.approx(number, rel=0.01)  # the last token read what was packed after it
    if "kivi" not in under:
        with Press.parse(under.rstrip(" |") or "full")(model) as session:
            wanted, other = rollout(session, ids, follow, mask)
        assert gap(logits, wanted) < 3e-5 and kept(cache) == kept(other)


def allowed(layer: StoreLayer, count: int, page: int) -> Tensor:
    """(B, H, n) bool of the block: the slots of the last `count` whole pages of every slab, and all that is in none."""
    masks = []
    for item in layer.held:
        slots = torch.zeros_like(item.segment.positions(), dtype=torch.bool).flatten(0, 1)
        for slab in item.segment.slabs:
            whole = slab.slots // page
            first = max(0, whole - count) * page
            slots[slab.runs, first : slab.slots] = True
        masks.append(item.per_row(slots.unflatten(0, (item.segment.rows, item.segment.heads))))
    return torch.cat([*masks, torch.ones_like(layer.tail.positions(), dtype=torch.bool)], 2)


@pytest.mark.parametrize("under", STORED)
def test_the_newest_pages_are_a_window(under: str) -> None:
    model, page = shared("llama"), 4
    ids, mask = left_padded([tokens(1, 57)[0], tokens(1, 38, 5)[0]])
    with Press.parse(f"{under}newest_pages(pages=2, page={page}, recent=5)")(model) as session:
        cache = rollout(session, ids, tokens(2, 21, 1), mask)[1]
    for stores in (cache.stores, cache.fork(torch.tensor([1, 0, 1])).stores):
        for layer in stores:
            assert layer.rule is not None
            block = layer.block()
            q = torch.randn(len(block.k), 6, 1, 16, generator=torch.Generator().manual_seed(1))
            got = layer._attend(q, layer.rule)[0].out
            see = (allowed(layer, 2, page) & block.valid).unsqueeze(2)
            wanted = attend_reference(fold_queries(q, block.k.shape[1]), block.k, block.v, layer.rule.scale, see).out
            assert gap(got, wanted) < 1e-5
            assert bool((see.squeeze(2) != block.valid).any())


def test_what_is_read_is_counted_and_nothing_is_dropped() -> None:
    model, read = shared("llama"), []
    for pages in (0, 8, 2):
        with Press.parse(f"newest_pages(pages={pages}, page=4, recent=5)")(model) as session:
            cache = session.prefill(tokens(1, 85))
            decode(model, cache, tokens(1, 1, 1))
            read.append(cache.bytes_read())
            assert all(head == [*range(86)] for layer in kept(cache) for row in layer for head in row)
    slot = 2 * 2 * 16 * 4 * 3  # keys and values of two heads of 16 fp32 channels in three layers
    assert read == [86 * slot, (8 * 4 + 6) * slot, (2 * 4 + 6) * slot]


def test_saved_and_continued(tmp_path: Path) -> None:
    model, follow = shared("llama"), tokens(1, 9, 2)
    with Press.parse(f"{SNAPKV}newest_pages(pages=2, page=4, recent=5)")(model) as session:
        cache = session.prefill(tokens(1, 60))
        decode(model, cache, tokens(1, 7, 1))
        cache.save(tmp_path / "cache", model)
        loaded, fork = PressCache.load(tmp_path / "cache", model), cache.fork()
        assert loaded.bytes_read() == fork.bytes_read() == cache.bytes_read() < cache.nbytes() // 2
        assert cache.fork(torch.tensor([0, 0, 0])).bytes_read() == 3 * cache.bytes_read()
        wanted = decode(model, cache, follow)
        assert torch.equal(decode(model, loaded, follow), wanted) and torch.equal(decode(model, fork, follow), wanted)


def test_prompts_read_everything_in_chunks_of_any_size() -> None:
    model, ids = shared("llama"), tokens(1, 49)
    for chunk in (48, 47):
        out = []
        for pages in (0, 1):
            with Press.parse(f"newest_pages(pages={pages}, page=4, recent=5)")(model) as session:
                cache = session.prefill(ids, chunk=chunk, between=True)
                session.prefill(tokens(1, 1, 2), cache=cache)
                out.append(cache.next_logits)
        assert out[0] is not None and out[1] is not None and gap(out[0], out[1]) < 1e-5


def test_refused() -> None:
    with pytest.raises(PressConflictError, match="attention slots get"):
        Press.parse("h2o | newest_pages")
    with pytest.raises(PressConflictError, match="which pages are read"):
        Press.parse("minicache | newest_pages")
    with pytest.raises(PressSyntaxError, match="page=0"):
        Press.parse("newest_pages(page=0)")
    Press.parse('h2o(schedule="after_prefill") | newest_pages')
