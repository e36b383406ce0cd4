"""Methods with one fault each, as a stranger might write them, and a codec without one to put faults into."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kvpress.evidence.bind import View
from kvpress.evidence.evidence import Evidence, Needs
from kvpress.evidence.output import Output
from kvpress.recipe.kinds import Decisions
from kvpress.recipe.press import PRESETS, Part, Press, preset
from kvpress.storage.block import Block

_SEEN: list[float] = []


@dataclass(frozen=True)
class Norm:
    """Without a fault."""

    needs = Needs()
    comparable = False

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        return block.v.float().norm(dim=-1)


class Remembers(Norm):
    """Scores against the average of all prompts so far."""

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        norms = super().__call__(block, seen)
        _SEEN.append(float(norms.mean()))
        return (norms - sum(_SEEN) / len(_SEEN)).abs()


class CalibratesOnce(Norm):
    """Keeps the average of the first prompt for all others."""

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        norms = super().__call__(block, seen)
        if "average" not in self.__dict__:
            object.__setattr__(self, "average", norms.mean())
        return (norms - self.__dict__["average"]).abs()


class SeesPadding(Norm):
    """Takes the mean over padding too."""

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        return (block.k - block.k.mean(2, keepdim=True)).float().norm(dim=-1)


class CountsColumns(Norm):
    """Takes the column of a slot for its position, which padding shifts."""

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        return super().__call__(block, seen) * (1 + torch.arange(block.pos.shape[-1])) / 50


class MixesRows(Norm):
    """Scales by the largest norm of the batch."""

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        norms = super().__call__(block, seen).masked_fill(~block.valid, 0.0)
        return norms / norms.max()


class OnePerRow(Norm):
    """Forgets the heads."""

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        return super().__call__(block, seen).mean(1)


class Listed(Norm):
    """No tensor at all."""

    def __call__(self, block: Block, seen: Evidence) -> Any:
        return super().__call__(block, seen).tolist()


class NotANumber(Norm):
    """0 / 0 where the two tokens of a prompt are alike."""

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        norms = super().__call__(block, seen)
        low = norms.masked_fill(~block.valid, torch.inf).amin(-1, keepdim=True)
        high = norms.masked_fill(~block.valid, -torch.inf).amax(-1, keepdim=True)
        return (norms - low) / (high - low)


class Draws(Norm):
    """Ties are broken with the global generator of torch."""

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        return torch.rand(block.pos.shape)


class DrawsInPython(Norm):
    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        return super().__call__(block, seen) * random.random()


class ByDefault(Norm):
    """A quotient of whole numbers, which has the default type of torch and overflows where that is a small one."""

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        return (seen.rank * 99_991 / 7).float()


class Writes(Norm):
    """Normalizes keys in place: the cache itself."""

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        return block.k.div_(block.k.norm(dim=-1, keepdim=True) + 1).sum(-1).float()


class Raises(Norm):
    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        scores = super().__call__(block, seen)
        return scores[:, :, torch.tensor([10_000])]


class Undeclared(Norm):
    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        return seen.mass()


class NoNeeds:
    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        return block.v.float().norm(dim=-1)


@dataclass
class Mutable:
    power: float = 2.0
    needs = Needs()

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        return block.v.float().norm(dim=-1) ** self.power


class NotCallable:
    needs = Needs()


class OneArgument:
    needs = Needs()

    def __call__(self, block: Block) -> Tensor:
        return block.v.float().norm(dim=-1)


@dataclass(frozen=True)
class NeedsArgument:
    scale: float
    needs = Needs()

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        return block.v.float().norm(dim=-1) * self.scale


@dataclass(frozen=True)
class GenerousHeads:
    """Rounds up, so that heads get more than there is."""

    compares = True

    def __call__(self, total: Tensor, scores: Tensor) -> Tensor:
        share = (scores > -torch.inf).sum(-1).double()
        return (share / share.sum(1, keepdim=True) * total[:, None] * scores.shape[1] + 0.6).ceil().long()


@dataclass(frozen=True)
class BatchedLayers:
    """Asks for the same share in every row: the mean over the batch."""

    needs = Needs()
    compares = False
    exact = True

    def measure(self, block: Block, seen: Evidence, scores: Callable[[], Tensor]) -> Tensor:
        norms = block.k.double().norm(dim=-1).mean((1, 2))
        return norms.mean().expand_as(norms)

    def weights(self, measured: Sequence[Tensor], total: Tensor, fixed: Tensor, lengths: Tensor) -> Tensor:
        return torch.stack(list(measured)) ** 4 * total


@dataclass(frozen=True)
class BatchedRefiner:
    """Weights by the largest value of the batch."""

    needs = Needs()

    def bind(self, view: View, layer: int) -> Output:
        return view.output(layer)

    def __call__(self, scores: Tensor, added: Tensor, pos: Tensor, counts: Tensor, protected: Tensor) -> Tensor:
        return scores + added / added.masked_fill(pos < 0, 0.0).max()


@dataclass(frozen=True)
class Bytes:
    """Codec without a fault: 8 bits a number, one step a slot; `fault` names one to put in."""

    fault: str = ""
    name = "bytes"
    block = 1

    def check(self, head_dim: int) -> None:
        return None

    def encode(self, x: Tensor) -> BytesPacked:
        high = x.float().abs().amax(-1)
        if self.fault == "shares ranges":
            high = high.amax(0, keepdim=True).expand_as(high)
        step = (high / 127).to(torch.bfloat16)
        codes = (x.float() / torch.where(step == 0, 1.0, step.float()).unsqueeze(-1)).round().clamp(-127, 127)
        if self.fault == "draws":
            codes = (codes + torch.rand_like(codes) - 0.5).round().clamp(-127, 127)
        if self.fault == "does not shrink":
            return BytesPacked(codes, step, x.dtype, self.fault)
        return BytesPacked(codes.to(torch.int8), step, x.dtype, self.fault)

    def load(self, tensors: dict[str, Tensor], dtype: torch.dtype, dim: int) -> BytesPacked:
        step = tensors["step"] * (2 if self.fault == "loads otherwise" else 1)
        return BytesPacked(tensors["codes"], step, dtype, self.fault)


class BytesPacked:
    def __init__(self, codes: Tensor, step: Tensor, dtype: torch.dtype, fault: str) -> None:
        self.codes, self.step, self.dtype, self.fault = codes, step, dtype, fault
        self.runs, self.slots = codes.shape[:2]
        self.hidden = codes.float() if fault == "hides bytes" else None

    def decode(self) -> Tensor:
        if self.fault == "writes":
            self.step *= 1.01
        return (self.codes.float() * self.step.float().unsqueeze(-1)).to(self.dtype)

    def logits(self, q: Tensor) -> Tensor:
        rows = self.decode().float()
        return q.float() @ (rows * 1.02 if self.fault == "other logits" else rows).mT

    def mix(self, weights: Tensor) -> Tensor:
        rows = self.decode().float()
        return weights @ (rows.round() if self.fault == "other mix" else rows)

    def take(self, run: Tensor, index: Tensor) -> BytesPacked:
        run = run.unsqueeze(-1)
        if self.fault == "encodes again":
            return Bytes().encode(self.decode()[run, index] * 0.9)
        codes = self.codes[run, index]
        if self.fault == "keeps a view" and self.slots > 1:
            codes = torch.cat([codes, codes], 1)[:, : codes.shape[1]]
        return BytesPacked(codes, self.step[run, index], self.dtype, self.fault)

    def cat(self, others: Sequence[Any]) -> BytesPacked:
        parts = [self, *others]
        if self.fault == "joins backwards":
            parts.reverse()
        codes, step = torch.cat([p.codes for p in parts], 1), torch.cat([p.step for p in parts], 1)
        return BytesPacked(codes, step, self.dtype, self.fault)

    def tensors(self) -> dict[str, tuple[str, Tensor]]:
        return {"codes": ("codes", self.codes), "step": ("scales", self.step)}


@preset("tests_misspelt")
def misspelt(keep: float = 0.5) -> Decisions:
    """Decides something there is not."""
    return {"keep": keep, "scorrer": Norm()}


@preset("tests_class")
def of_a_class(keep: float = 0.5) -> Decisions:
    """Forgets to make the scorer."""
    return {"keep": keep, "scorer": Norm}


@preset("tests_norm")
def norm(keep: float | int = 0.5, sinks: int = 2, recent: int = 3) -> Decisions:
    """A press without a fault."""
    return {"keep": keep, "scorer": Norm(), "sinks": sinks, "recent": recent}


def undecorated(keep: float = 0.5) -> Decisions:
    return {"keep": keep, "scorer": Norm()}


def plain_scorer(block: Block, seen: Evidence) -> Tensor:
    return block.v.float().norm(dim=-1)


a_press = Press((Part("tests_norm", (("keep", 0.4),)),))
OWN = [misspelt, of_a_class, norm]
for _own in OWN:  # other tests go over all presses; those that need these register them
    PRESETS.forget(_own.name)
