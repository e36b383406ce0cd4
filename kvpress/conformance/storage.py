"""Checks of what a whole press holds: attention over it, its bytes, that it stays, and its file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from kvpress.cache.cache import PressCache
from kvpress.cache.layer import StoreLayer
from kvpress.cache.storages import storages
from kvpress.conformance.case import Case, decode, digest, gap, kept, rollout, tokens
from kvpress.conformance.trial import BrokenError, InapplicableError, Trial
from kvpress.storage.columns import BIAS

_EXACT = 1e-4


def _dense(q: Tensor, layer: StoreLayer) -> Tensor:
    """Textbook attention in fp64 of q (B, Hq, m, D), the last m tokens, over the decoded slots of a layer."""
    block, count = layer.block(), q.shape[2]
    group = q.shape[1] // block.k.shape[1]
    at = torch.arange(layer.logical - count, layer.logical, dtype=torch.int64, device="cpu")
    see = block.valid[:, :, None] & (block.pos[:, :, None] <= at[:, None])
    k, v, see = (x.repeat_interleave(group, 1) for x in (block.k.double(), block.v.double(), see))
    assert layer.rule is not None
    logits = q.double() @ k.mT * layer.rule.scale
    if BIAS in block.columns:
        logits = logits + block.columns[BIAS].double().repeat_interleave(group, 1).unsqueeze(2)
    return logits.masked_fill(~see, -torch.inf).softmax(-1) @ v


def _compare(cache: PressCache, count: int, when: str) -> float:
    worst = 0.0
    generator = torch.Generator().manual_seed(6)
    for layer in cache.stores:
        batch, heads, _, dim = layer.block().k.shape
        q = 2 * torch.randn(batch, 3 * heads, count, dim, generator=generator, dtype=torch.float32, device="cpu")
        assert layer.rule is not None
        wanted = _dense(q, layer)
        worst = max(worst, gap(layer.reread(q, layer.rule), wanted) / max(1.0, float(wanted.abs().max())))
    if worst > _EXACT:
        raise BrokenError(f"attention over the store is off by {worst:.2g} {when}")
    return worst


def attends(case: Case) -> str:
    """Attention over what is stored is attention over what it decodes to, for one query and for many."""
    ids, mask = case.batch
    with case.press(case.model) as session:
        _, cache = rollout(session, ids, tokens(3, case.steps, 2), mask)
        worst = _compare(cache, 1, "after decoding")
        fork = cache.fork(torch.tensor([1, 0, 1], dtype=torch.int64, device="cpu"))
        worst = max(worst, _compare(fork, 1, "after a fork"))
        session.prefill(tokens(3, 5, 1), cache=fork, compress=False)
        worst = max(worst, _compare(fork, 5, "for the five tokens of a second turn"))
    return f"one query and many, after a fork and a turn; within {worst:.0e}"


def _honest(cache: PressCache, when: str) -> None:
    ledger, held = cache.ledger(), sum(storages(cache).values())
    if ledger.total != held:
        raise BrokenError(f"{when} the ledger says {ledger.total:,} bytes, and {held:,} are held")
    for layer, name, _, _, tensor in cache.tensors():
        if tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
            raise BrokenError(f"{when} {name} of layer {layer} is a view of a larger storage")


def ledger(case: Case) -> str:
    """The ledger is the sum of the storages held, after a prompt, after decoding, after a fork."""
    ids, mask = case.batch
    with case.press(case.model) as session:
        cache = session.prefill(ids, mask)
        _honest(cache, "after a prompt")
        decode(case.model, cache, tokens(3, case.steps, 2), mask)
        _honest(cache, "after decoding")
        _honest(cache.fork(torch.tensor([2, 0], dtype=torch.int64, device="cpu")), "after a fork of some rows")
    return f"{cache.nbytes():,} bytes held, by kind: {', '.join(cache.ledger().by_kind())}"


def _frozen(case: Case) -> str:
    model = case.model
    with case.press(model) as session:
        _, cache = rollout(session, case.rows[0][None], tokens(1, case.steps, 1))
        segments = [item.segment for layer in cache.stores for item in layer.held]
        if not segments:
            raise InapplicableError("nothing is packed: what it keeps stays in the dense tail")
        before = [{name: digest(t) for name, _, _, t in segment.tensors()} for segment in segments]
        for rows in (None, 2):
            fork = session.prefill(tokens(rows or 1, 5, 2), cache=cache.fork(rows))
            decode(model, fork, tokens(rows or 1, case.steps, 3))
        decode(model, cache, tokens(1, case.steps, 5))
        after = [{name: digest(t) for name, _, _, t in segment.tensors()} for segment in segments]
    if before != after:
        raise BrokenError("packed slots were written to while forks or the cache itself went on")
    return f"{len(segments)} segments, untouched by forks, turns and decoding"


def round_trip(case: Case) -> str:
    """A saved cache reads back exactly and goes on exactly."""
    (ids, mask), follow = case.batch, tokens(3, 3, 2)
    with tempfile.TemporaryDirectory() as folder, case.press(case.model) as session:
        path = Path(folder) / "cache.safetensors"
        _, cache = rollout(session, ids, tokens(3, case.steps, 1), mask)
        cache.save(path, case.model)
        other = PressCache.load(path, case.model)
        if kept(other) != kept(cache) or other.ledger().by_kind() != cache.ledger().by_kind():
            raise BrokenError("a cache that was saved and loaded holds other slots or bytes")
        seen = torch.cat([mask, mask.new_ones(3, case.steps)], 1)
        if gap(decode(case.model, other, follow, seen), decode(case.model, cache, follow, seen)):
            raise BrokenError("a cache that was saved and loaded continues otherwise")
        return f"{path.stat().st_size:,} bytes written, read back exactly"


TRIALS = [
    Trial(
        "I3 attention over the store", attends, "What logits, mix and decode of a Packed say must be one and the same."
    ),
    Trial(
        "I5 the ledger is what is held",
        ledger,
        "tensors() names every tensor a Packed holds, each a whole storage of its own.",
    ),
    Trial("I9 segments never change", _frozen, "Never write into the tensors of a Packed."),
    Trial(
        "I10 save and load",
        round_trip,
        "load rebuilds a Packed from what tensors() names; a press parses from its text.",
    ),
]
