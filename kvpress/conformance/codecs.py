"""Checks of a storage format alone: its operations against what it decodes to, and its bytes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvpress.cache.storages import storages
from kvpress.conformance.case import digest, gap
from kvpress.conformance.trial import BrokenError, DoubtfulError, InapplicableError, Trial
from kvpress.storage.codec import Codec, Packed, joinable

_RUNS = 5
_DIMS = (16, 20, 24, 64, 80, 96, 128)
_CLOSE = 1e-4  # of the largest product: sums in another order round differently


@dataclass(frozen=True)
class Format:
    """A codec under check, and the head dimension it is checked with."""

    codec: Codec
    head_dim: int

    def rows(self, blocks: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        """(R, n, D) slots in whole blocks; runs are of very different size, so that what they share is noticed."""
        block = self.codec.block
        count = blocks * block if block > 4 else blocks * max(1, block) * 7
        x = torch.randn(
            _RUNS,
            count,
            self.head_dim,
            generator=torch.Generator().manual_seed(seed),
            dtype=torch.float32,
            device="cpu",
        )
        return (x * torch.logspace(-2, 2, _RUNS, dtype=torch.float32, device="cpu")[:, None, None] + 0.5).to(dtype)

    def packed(self, blocks: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32) -> Packed:
        return self.codec.encode(self.rows(blocks, seed, dtype))


def _digests(packed: Packed) -> dict[str, str]:
    return {name: digest(tensor) for name, (_, tensor) in packed.tensors().items()}


def _decodes(case: Format) -> str:
    told = []
    for dtype in (torch.float32, torch.bfloat16):
        x = case.rows(dtype=dtype)
        before = digest(x)
        packed = case.codec.encode(x)
        if digest(x) != before:
            raise BrokenError("encode writes into the slots it is given")
        if (packed.runs, packed.slots) != tuple(x.shape[:2]):
            raise BrokenError(f"runs, slots = {packed.runs}, {packed.slots}, expected {tuple(x.shape[:2])}")
        y = packed.decode()
        if y.shape != x.shape or y.dtype != x.dtype:
            raise BrokenError(f"decode gives {y.dtype} {tuple(y.shape)}, expected {x.dtype} {tuple(x.shape)}")
        if not torch.isfinite(y).all():
            raise BrokenError(f"decoded slots hold NaN or inf ({x.dtype})")
        error = float(((y.float() - x.float()).norm(dim=(1, 2)) / x.float().norm(dim=(1, 2))).max())
        if error >= 1:
            raise BrokenError(f"the error is {100 * error:.0f} % of the slots: storing zeros would be better")
        told.append(f"{100 * error:.2g} %")
    return f"error {told[0]} of the slots in fp32, {told[1]} in bf16"


def _products(case: Format) -> str:
    packed, generator = case.packed(), torch.Generator().manual_seed(4)
    rows = packed.decode().double()
    for count in (1, 3):
        q = torch.randn(_RUNS, count, case.head_dim, generator=generator, dtype=torch.float32, device="cpu")
        weights = torch.rand(
            _RUNS, count, packed.slots, generator=generator, dtype=torch.float32, device="cpu"
        ).softmax(-1)
        for name, mine, wanted in (
            ("logits", packed.logits(q), q.double() @ rows.mT),
            ("mix", packed.mix(weights), weights.double() @ rows),
        ):
            if mine.shape != wanted.shape or mine.dtype != torch.float32:
                raise BrokenError(f"{name} gives {mine.dtype} {tuple(mine.shape)}, expected fp32 {tuple(wanted.shape)}")
            size = wanted.abs().amax((1, 2)).clamp(min=1e-6)
            away = float(((mine.double() - wanted).abs().amax((1, 2)) / size).nan_to_num(nan=torch.inf).max())
            if away > _CLOSE:
                raise BrokenError(f"{name} differs from products with what decode gives by {100 * away:.2g} %")
    return "logits and mix are products with the decoded slots"


def _taken(case: Format) -> str:
    packed = case.packed()
    rows, many = packed.decode(), packed.slots
    runs = torch.tensor([3, 0, 3], dtype=torch.int64, device="cpu")
    count = torch.arange(many // 2 - 1, dtype=torch.int64, device="cpu")
    index = torch.stack([2 * count, 2 * count + 1, count + 1])
    some = packed.take(runs, index)
    if gap(some.decode(), rows[runs[:, None], index]) or (some.runs, some.slots) != tuple(index.shape):
        raise BrokenError("slots that were taken out decode to something else than before")
    again = some.take(
        torch.tensor([2], dtype=torch.int64, device="cpu"), torch.tensor([[0, 2]], dtype=torch.int64, device="cpu")
    )
    if gap(again.decode(), rows[3, index[2]][None, [0, 2]]):
        raise BrokenError("slots that were taken out twice decode to something else than before")
    none = packed.take(
        torch.zeros(0, dtype=torch.long, device="cpu"), torch.zeros(0, 3, dtype=torch.long, device="cpu")
    )
    if none.runs != 0:
        raise BrokenError("taking no run at all must give a Packed of 0 runs")
    return "slots taken out decode as before, bit by bit"


def _joined(case: Format) -> str:
    first, second = case.packed(1, 1), case.packed(2, 2)
    every = torch.arange(second.slots - 1, dtype=torch.int64, device="cpu").expand(_RUNS, -1)
    partial = second.take(torch.arange(_RUNS, dtype=torch.int64, device="cpu"), every)
    pairs = [(a, b) for a, b in ((first, second), (first, partial), (partial, first)) if joinable(a, b)]
    if not pairs:
        raise InapplicableError("it says of all its packed slots that they do not join")
    for a, b in pairs:
        whole = a.cat([b])
        if gap(whole.decode(), torch.cat([a.decode(), b.decode()], 1)) or whole.slots != a.slots + b.slots:
            raise BrokenError("joined slots decode to something else than before")
        at = torch.tensor([[0, a.slots, a.slots + b.slots - 1]], dtype=torch.int64, device="cpu")
        if gap(
            whole.take(torch.tensor([1], dtype=torch.int64, device="cpu"), at).decode(), whole.decode()[1, at[0]][None]
        ):
            raise BrokenError("slots taken out of joined ones decode to something else than before")
    return f"{len(pairs)} ways to join, each decodes as before"


def _runs_alone(case: Format) -> str:
    x = case.rows()
    together = case.codec.encode(x).decode()
    for run in range(_RUNS):
        alone = case.codec.encode(x[run : run + 1].clone()).decode()[0]
        away = gap(alone, together[run]) / float(x[run].abs().max())
        if away > 0.02:
            raise BrokenError(
                f"run {run} (a head of a row) decodes otherwise when it is packed alone, by {100 * away:.2g} %"
            )
    return "a run is packed as it is alone"


def _odd_numbers(case: Format) -> str:
    x = case.rows()
    kinds = {"zeros": torch.zeros_like(x), "equal numbers": torch.full_like(x, 3.0), "large numbers": x.sign() * 3e4}
    for name, rows in kinds.items():
        y = case.codec.encode(rows).decode()
        if not torch.isfinite(y).all():
            raise BrokenError(f"{name} decode to NaN or inf")
    return "zeros, equal and large numbers decode to finite ones"


def _same_twice(case: Format) -> str:
    state = torch.get_rng_state()
    first = _digests(case.packed())
    case.packed(2, 7)
    if _digests(case.packed()) != first:
        raise BrokenError("the same slots are packed otherwise after others: something is kept, or drawn at random")
    if not torch.equal(torch.get_rng_state(), state):
        torch.set_rng_state(state)
        raise BrokenError("packing draws from the global random numbers")
    return "the same slots, the same bytes"


def _frozen(case: Format) -> str:
    packed = case.packed()
    before = _digests(packed)
    every = torch.arange(packed.slots, dtype=torch.int64, device="cpu").expand(_RUNS, -1)
    packed.decode().clone()
    packed.logits(torch.ones(_RUNS, 2, case.head_dim, dtype=torch.float32, device="cpu"))
    packed.mix(torch.ones(_RUNS, 2, packed.slots, dtype=torch.float32, device="cpu"))
    packed.take(torch.arange(_RUNS, dtype=torch.int64, device="cpu"), every)
    if joinable(packed, other := case.packed(1, 3)):
        packed.cat([other])
    if _digests(packed) != before:
        raise BrokenError("reading, taking or joining wrote into packed slots")
    return "no operation writes into packed slots"


def _owned(case: Format) -> str:
    packed = case.packed()
    found = {
        "encode": packed,
        "take": packed.take(
            torch.tensor([1], dtype=torch.int64, device="cpu"), torch.tensor([[0, 2]], dtype=torch.int64, device="cpu")
        ),
    }
    if joinable(packed, other := case.packed(1, 3)):
        found["cat"] = packed.cat([other])
    for made, each in found.items():
        named = 0
        for name, (kind, tensor) in each.tensors().items():
            if not isinstance(kind, str) or not isinstance(tensor, Tensor):
                raise BrokenError(f"tensors() gives {name!r}: expected (ledger kind, tensor)")
            if tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
                raise BrokenError(f"{name} is a view after {made}: a larger storage stays in memory behind it")
            named += tensor.untyped_storage().nbytes()
        held = sum(storages(each).values())
        if held != named:
            raise BrokenError(f"{held:,} bytes are held after {made}, and tensors() names {named:,}")
    return "every tensor is named, and a whole storage"


def _shrinks(case: Format) -> str:
    if case.codec.block == 0:
        raise InapplicableError("block = 0 says that the format is exact")
    blocks = max(1, 256 // case.codec.block)
    told: list[str] = []
    for dtype in (torch.float32, torch.bfloat16):
        x = case.rows(blocks, dtype=dtype)
        packed = case.codec.encode(x)
        held = sum(tensor.untyped_storage().nbytes() for _, tensor in packed.tensors().values())
        dense = x.numel() * x.element_size()
        if held >= dense:
            fact = f"{held:,} bytes for {packed.slots} slots of {x.dtype}, which take {dense:,} as they are"
            raise DoubtfulError(f"{fact}; in fp32 it is {told[0]}") if told else BrokenError(fact)
        told.append(f"{100 * held / dense:.0f} %")
    return f"{told[0]} of the bytes of fp32 slots, {told[1]} of bf16 ones"


def _loads(case: Format) -> str:
    packed = case.packed()
    tensors = {name: tensor.clone() for name, (_, tensor) in packed.tensors().items()}
    back = case.codec.load(tensors, torch.float32, case.head_dim)
    if gap(back.decode(), packed.decode()) or _digests(back) != _digests(packed):
        raise BrokenError("load(tensors()) gives other slots than were saved")
    return "tensors() reads back through load()"


def _checks_dims(case: Format) -> str:
    taken = []
    for dim in _DIMS:
        try:
            case.codec.check(dim)
        except Exception:  # refused, as it should be where the format cannot store it
            continue
        x = Format(case.codec, dim).rows(1)
        if case.codec.encode(x).decode().shape != x.shape:
            raise BrokenError(f"check accepts {dim} channels, which decode to another shape")
        taken.append(str(dim))
    return f"head dimensions {', '.join(taken)} work, others are refused by check"


TRIALS = [
    Trial(
        "decode(encode(x))",
        _decodes,
        "decode gives (R, n, D) in the dtype encode was given, close to what it was given.",
        gate=True,
    ),
    Trial(
        "I3 logits and mix",
        _products,
        "logits(q) is q @ decode().mT and mix(w) is w @ decode(), in fp32: the same numbers, faster.",
    ),
    Trial("I9 take", _taken, "take moves codes and their scales as they are; nothing is decoded and encoded again."),
    Trial("I9 cat", _joined, "cat joins codes; where that is impossible say so with a method joins(other) -> bool."),
    Trial("I9 packed slots are frozen", _frozen, "Never write into the tensors of a Packed; make new ones."),
    Trial(
        "I2 runs alone",
        _runs_alone,
        "Ranges, scales and factors belong to one run (a KV head of a row), never to several.",
    ),
    Trial(
        "I7 the same bytes twice",
        _same_twice,
        "Encode from the slots alone; a random projection gets a generator with its own seed.",
    ),
    Trial("finite numbers", _odd_numbers, "Guard what is divided by (a range of 0), and clamp what overflows fp16."),
    Trial(
        "I5 tensors are whole and named",
        _owned,
        "tensors() names every tensor a Packed holds; .clone() or .contiguous() what is a view.",
    ),
    Trial(
        "I5 bytes shrink",
        _shrinks,
        "Pack codes into bytes, and keep few numbers of more than one byte.",
    ),
    Trial(
        "I10 tensors and load",
        _loads,
        "load rebuilds a Packed from the tensors that tensors() names, and nothing else.",
    ),
    Trial(
        "I8 head dimensions", _checks_dims, "check(head_dim) raises PressConflictError for what encode cannot store."
    ),
]
