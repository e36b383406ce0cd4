"""How much memory reading a prompt takes at its worst moment, worked out before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from kvpress.pipeline.budget import budget
from kvpress.recipe.recipe import Recipe
from kvpress.storage.codec import Packed, joinable
from kvpress.storage.columns import POSITION
from kvpress.storage.modes import steady
from kvpress.storage.tail import capacity

_WORKSPACE = 64 << 20  # of attention, see `partial.TILE_BYTES` and the tiles of `storage.pair`
_SAMPLE = 4096  # slots that a codec is asked to pack to learn its bytes
_POSITION = POSITION.dtype.itemsize  # bytes a slot
_INSTRUCTION = 256  # tokens that tell a model to repeat its prompt, at most


@dataclass(frozen=True)
class Shape:
    """One layer: KV heads, query heads, channels of a key and of a value, and the type they are cached in."""

    heads: int
    queries: int
    key: int
    value: int
    dtype: torch.dtype

    @property
    def slot(self) -> int:
        """Bytes of a dense slot of one KV head."""
        return (self.key + self.value) * self.dtype.itemsize


@dataclass(frozen=True)
class Plan:
    """How a prompt is read.

    tokens: columns of one row, padding included. chunk: tokens of a forward. between: the press is applied after every
    chunk, otherwise once at the end; eager: in a layer as soon as its attention is done. compress: it is applied at
    all. chooses: slots are chosen at this prompt. past: slots a KV head holds already, at most; total: tokens with
    those read before.
    """

    tokens: int
    rows: int
    chunk: int
    between: bool = False
    eager: bool = True
    compress: bool = True
    chooses: bool = True
    past: int = 0
    total: int = 0


@dataclass(frozen=True)
class Peak:
    """Bytes at the worst moment of reading a prompt.

    held: what the cache holds, as its ledger would count it: an upper bound. work: temporaries of attention and of
    compressing one layer, an estimate. What the model computes besides (activations, logits, the first chunk's own
    attention) is in neither, nor are layers left to transformers (sliding, linear), which do not grow.
    """

    held: int
    work: int

    @property
    def total(self) -> int:
        return self.held + self.work


def estimate(recipe: Recipe, shapes: list[Shape], plan: Plan) -> Peak:
    """The worst moment of `plan` over layers of these shapes.

    With n = the slots a KV head keeps (all of them where nothing is evicted), c = the tokens of a chunk and spare
    room s(x) = x + max(64, x / 32) of a tail that grows, a layer holds, for each row and KV head,

    - stored: n slots in the codec's bytes (measured by packing random rows; where slots of packed groups may be
      evicted later, as if every group kept some), `residual` + a block of them dense, and 4 bytes a slot
      for its position after an eviction and for its other columns;
    - reading: the same with c more dense slots in the tail; without `between`, s(all tokens) dense slots.

    held = the sum of stored over the layers + the largest (reading - stored), or + the sum of those where layers are
    compressed together. work = the largest of: a tile of attention (64 MiB at most), the copy of a growing tail, the
    dense copies of a layer's slots while some are chosen (2 to 4, in fp32), those of what is packed at once (4).
    """
    layers = [_Layer(recipe, shape, plan) for shape in shapes]
    stored, reading = [layer.stored() for layer in layers], [layer.reading() for layer in layers]
    once = plan.compress and plan.eager and (plan.between or plan.chunk >= plan.tokens)
    more = [max(0, most - least) for least, most in zip(stored, reading, strict=True)]
    held = sum(stored) + (max(more) if once else sum(more))
    held += 2 * plan.rows * (plan.total or plan.tokens)  # the padding mask, and the one of the forward before
    return Peak(held, max(layer.work() for layer in layers))


@dataclass(frozen=True)
class _Layer:
    recipe: Recipe
    shape: Shape
    plan: Plan

    @property
    def _evicts(self) -> bool:
        return self.recipe.evicts and self.plan.chooses and self.plan.compress

    @property
    def _slots(self) -> int:
        """Slots of a KV head after the prompt."""
        tokens = self.plan.tokens
        if not self._evicts:
            return tokens
        most = int(budget(self.recipe, torch.tensor([self.plan.total or tokens], dtype=torch.int64, device="cpu")))
        if self.recipe.layers is not None:  # one layer may get what the others give up
            return tokens
        if self.recipe.heads.compares and self.recipe.in_place:  # a rectangle as wide as the widest head
            most *= self.shape.heads
        return min(tokens, most)

    def _bytes(self, slots: float, each: float) -> int:
        return int(self.plan.rows * self.shape.heads * slots * each)

    @property
    def _dense(self) -> int:
        """Bytes of a slot of the tail."""
        return self.shape.slot + _POSITION + self._columns

    @property
    def _columns(self) -> int:
        """Bytes of what is known of a slot, besides its position."""
        return sum(column.dtype.itemsize for column in self.recipe.columns)

    @property
    def _window(self) -> int:
        """Slots that stay dense where others are packed, until a block is full."""
        return self.recipe.residual + max(1, self.recipe.block) - 1

    def _small(self) -> int:
        """Which runs a slab holds, budgets, and what is remembered of queries and of sinks."""
        needs, shape, rows = self.recipe.needs, self.shape, self.plan.rows
        chunks = -(-self.plan.tokens // self.plan.chunk)
        witness = needs.window * (shape.queries * shape.key * shape.dtype.itemsize + _POSITION)
        witness += 4 * shape.queries * (shape.key + 2) * shape.key if needs.moments else 0
        if needs.repeat is not None:  # the prompt, what its slots got, and a part of it once more
            part = min(needs.repeat.chunk, self.plan.tokens) + needs.repeat.overlap + _INSTRUCTION
            witness += self.plan.tokens * (8 + 4 * shape.heads)
            witness += shape.heads * (part + capacity(self.plan.tokens + part) - self.plan.tokens) * self._dense
        if self.recipe.positions == "slots":  # the sinks' keys as they were given
            witness += shape.heads * self.recipe.sinks * shape.key * shape.dtype.itemsize
        return rows * (witness + 64 + 8 * shape.heads * (chunks + 16))

    def stored(self) -> int:
        """Bytes when the prompt is read and the press applied."""
        small, slots = self._small(), self._slots
        if self.recipe.block == 0:
            room = capacity(slots) if self.plan.between else slots
            return small + self._bytes(room, self._dense)
        window = min(slots, self._window)
        return small + self._bytes(capacity(window), self._dense) + self._bytes(slots - window, self._packed())

    def reading(self) -> int:
        """Bytes before the press is applied."""
        tokens, chunk = self.plan.tokens, self.plan.chunk
        if not (self.plan.between and self.plan.compress):
            return self._small() + self._bytes(tokens if chunk >= tokens else capacity(tokens), self._dense)
        if self.recipe.block == 0:
            return self._small() + self._bytes(capacity(min(tokens, self._slots + chunk)), self._dense)
        window = min(self._slots, self._window)
        tail = capacity(min(tokens, window + chunk)) - capacity(window)
        return self.stored() + self._bytes(tail, self._dense)

    def _packed(self) -> float:
        """Bytes of a packed slot of one KV head."""
        recipe, shape, plan = self.recipe, self.shape, self.plan
        block, chunk = max(1, recipe.block), min(plan.chunk, plan.tokens)
        share = 1.0
        if not plan.between:
            sizes: tuple[int, ...] = (max(block, min(_SAMPLE, self._slots) // block * block),)
        elif self._evicts:  # packs of any size, and in the end a share of the slots of each group
            base = -(-32 // block) * block
            sizes, share = (base, 2 * base) * 8, self._slots / plan.tokens
        else:
            ends = (chunk - recipe.residual, chunk + block - 1)
            sizes = tuple(max(block, min(_SAMPLE, end) // block * block) for end in (*ends, ends[1]))
        each = 0.0
        widths = shape.key, shape.value
        if recipe.channels is not None:
            widths = recipe.channels.widths(*widths)
        codecs: tuple[Any, ...] = recipe.key, recipe.value
        for codec, dim in zip(codecs, widths, strict=True):
            each += _coded(codec, dim, shape.dtype, sizes, share)
        if recipe.selector is not None:
            selector: Any = recipe.selector
            each += _indexed(selector, shape.key, shape.value, shape.dtype)
        if recipe.sharer is not None:  # each layer of a pair, whether its slots are shared or stay whole
            each = max(each + 4, 1.04 * shape.slot)
        gaps = self._evicts or recipe.sharer is not None
        return each + (_POSITION if gaps else 0) + self._columns

    def work(self) -> int:
        """Bytes of temporaries."""
        recipe, shape, plan = self.recipe, self.shape, self.plan
        chunk = min(plan.chunk, plan.tokens)
        wide = 4 * (shape.key + shape.value)
        most = plan.past + min(plan.tokens, self._slots + chunk if plan.between else plan.tokens)
        queries = plan.rows * shape.queries * chunk
        attention = min(_WORKSPACE, 16 * queries * most) + 16 * queries * shape.value
        tail = min(most, self._window + chunk) if plan.between and recipe.block else most
        moments = [attention, self._bytes(tail, max(shape.key, shape.value) * shape.dtype.itemsize)]
        if plan.compress and self._evicts:
            copies = 2 if recipe.in_place or not (plan.between or plan.past) else 3 if recipe.block == 0 else 4
            moments.append(self._bytes(most, copies * wide))
        if plan.compress and recipe.block:
            packed = min(plan.tokens, chunk + self._window + 1) if plan.between else self._slots
            moments.append(self._bytes(packed, 4 * wide) + self.stored())
        return max(moments)


@lru_cache(maxsize=1024)
@steady
def _indexed(selector: Any, key: int, value: int, dtype: torch.dtype) -> float:
    """Bytes a slot that a selector keeps of its page."""
    k, v = (torch.zeros(1, 1, selector.page, dim, dtype=dtype, device="cpu") for dim in (key, value))
    index = selector.index(k, v, torch.zeros(1, 1, selector.page, dtype=torch.int32, device="cpu"))
    return sum(tensor.nbytes for tensor in index.values()) / selector.page


@lru_cache(maxsize=1024)
@steady
def _coded(codec: Any, dim: int, dtype: torch.dtype, sizes: tuple[int, ...], share: float) -> float:
    """Bytes a slot of one run that a Codec packs `sizes` slots at a time, an evenly spread `share` of which is kept."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1, max(sizes), dim, generator=generator, dtype=torch.float32, device="cpu").to(dtype)
    packs: list[Packed] = []
    for size in sizes:
        new = codec.encode(rows[:, :size].clone())
        if packs and joinable(packs[-1], new):
            new = packs.pop().cat([new])
        packs.append(new)
    count = total = 0
    for pack in packs:
        if share < 1:
            kept = max(1, int(pack.slots * share))
            index = torch.linspace(0, pack.slots - 1, kept, dtype=torch.float32, device="cpu").long()[None]
            pack = pack.take(torch.zeros(1, dtype=torch.long, device="cpu"), index)
        count += pack.slots
        total += sum(tensor.untyped_storage().nbytes() for _, tensor in pack.tensors().values())
    return total / count


def chunk_sizes(tokens: int) -> list[int]:
    """Chunks a prompt of `tokens` may be read in: all of it, then powers of two down to 16."""
    powers = [1 << power for power in range((tokens - 1).bit_length() - 1, 3, -1)]
    return [tokens, *(size for size in powers if size < tokens)]
