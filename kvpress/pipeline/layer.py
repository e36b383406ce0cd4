"""The slots of one full-attention layer: frozen segments and a dense tail, which compute their own attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any, Self

import torch
from torch import Tensor

from kvpress.attention import backends
from kvpress.attention.partial import Partial, fold_queries, merge
from kvpress.errors import CropError, UnsupportedError
from kvpress.evidence.bind import MOMENTS
from kvpress.evidence.evidence import Evidence, Rule, dense_mass, received_mass
from kvpress.evidence.output import Projection
from kvpress.evidence.repetition import strongest
from kvpress.evidence.witness import Witness
from kvpress.pipeline.phase import Phase
from kvpress.pipeline.state import State
from kvpress.recipe.recipe import Recipe
from kvpress.storage.block import Block
from kvpress.storage.columns import BIAS, MASS, POSITION, Columns
from kvpress.storage.held import Held
from kvpress.storage.modes import steady
from kvpress.storage.tail import Tail

# Tensors (B, ...) of a layer besides its slots, with their side and kind in the ledger.
STATE = {
    "seen_mask": ("-", "masks"),
    "prompt": ("-", "evidence"),
    "total": ("-", "indices"),
    "shift": ("-", "indices"),
    "sink_keys": ("k", "window"),
    "asked": ("-", "evidence"),
}


class Layer:
    """One layer's slots.

    It has a *logical* length (tokens seen), whatever it stores. Keys and values of new tokens are staged, committed
    with their mask, and attended to with everything that is held; evidence is gathered on the way. When something is
    evicted or packed is decided by `phase`, and done in kvpress/pipeline/fire.py.
    """

    tail: Tail
    dtype: torch.dtype
    device: torch.device

    def __init__(self, recipe: Recipe, index: int) -> None:
        self.recipe, self.index = recipe, index
        self.is_initialized = False
        self.logical = 0
        self.held: list[Held] = []
        self.seen_mask: Tensor | None = None  # (B, logical) bool, only once padding was seen
        self.prompt: Tensor | None = None  # (B, logical) int64 in the first layer, for presses that read it twice
        self.repeated: Tensor | None = None  # (B, H, logical) fp32, by logical index, while such a press fires
        self.staged: tuple[Tensor, Tensor] | None = None
        self.rule: Rule | None = None
        self.witness = Witness(recipe.needs)
        self.state: State[Layer] = State()
        self.phase = Phase()
        self.upper: Layer | None = None  # the layer that shares this one's directions
        self.follows = False  # this is such a layer: the lower one evicts and packs for both
        self.shared = False  # later layers attend to these slots, so nothing goes before the forward ends
        self.given: Mapping[Any, Any] = {}  # what the decisions were bound to in this layer
        self.watch: Projection | None = None  # the output projection among that, which the first forward checks
        self.shift: Tensor | None = None  # (B,) positions the sinks were moved by
        self.sink_keys: Tensor | None = None  # (B, H, sinks, D) keys of the sinks as they were given, before any move
        self.total: Tensor | None = None  # (B,) slots per head since the press fired
        self.own: dict[str, Tensor] = {}  # (B, H, ...) by name, what the form of storage keeps for the layer
        self.own_chosen = False
        self.read: tuple[tuple[int, int], ...] = ()  # where prompts began and ended, for schedules that tell them apart
        self.asked: Tensor | None = None  # (B, H, G, D) last decoded token's queries, where a selector goes by them
        self.fixed = 0  # tokens before this logical index cannot be cropped any more

    @property
    def fired(self) -> int:
        """How often the press was applied."""
        return self.phase.fired

    @property
    def due_now(self) -> bool:
        """The press waits to be applied, and nobody holds it back."""
        return self.phase.may_fire and self.state.part is None

    @steady
    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take dtype, device and widths from the first keys and values."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.tail = Tail(key_states, value_states, self.logical, self.recipe.columns)
        self.is_initialized = True

    # Attention

    @property
    def empty(self) -> bool:
        """No slot is stored yet."""
        return self.logical == 0

    def commit(self, mask: Tensor | None) -> None:
        """Store the staged slots. mask: (B, logical + n) bool, False = padding; None = there is none."""
        assert self.staged is not None
        k, v = self.staged
        new = k.shape[2]
        valid = None
        if mask is not None:
            if mask.dim() != 2 or mask.shape[1] != self.logical + new:
                raise UnsupportedError(
                    f"The attention mask has shape {tuple(mask.shape)}; a press needs a 2-D mask over all "
                    f"{self.logical + new} tokens (those in the cache and the new ones). Give one, or none; a layer "
                    "that makes a mask of its own (doge) cannot be served."
                )
            mask = mask.to(k.device)  # a model on several devices may keep one mask
            valid = mask[:, -new:]
            if self.seen_mask is not None or not bool(valid.all()):
                self.seen_mask = mask
        elif self.seen_mask is not None:
            valid = self.seen_mask.new_ones(k.shape[0], new)
            self.seen_mask = torch.cat([self.seen_mask, valid], 1)
        self.tail.append(k, v, self.logical, valid)
        self.logical += new
        self.staged = None
        self.measure()

    def attend(self, q: Tensor, rule: Rule) -> Tensor:
        """q (B, Hq, n, D), queries of the tokens committed last -> (B, Hq, n, D), exact over all slots held."""
        part, folded = self._attend(q, rule)
        if MASS in self.tail.columns and self.state.part is None:
            self._add_mass(q, folded, part)
        return part.out.reshape(*q.shape[:3], -1).to(q.dtype)

    def _attend(self, q: Tensor, rule: Rule) -> tuple[Partial, Tensor]:
        heads = self.tail.k.shape[1]
        folded = fold_queries(q, heads)
        fused = self._attend_fused(folded, rule) if q.shape[2] == 1 and rule.sink is None else None
        if fused is not None:
            return fused, folded
        reading = self.phase.reads(q.shape[2]) or self.phase.reader.eager
        select = self.recipe.selector is not None and not reading
        if select:
            self.asked = folded.clone(memory_format=torch.contiguous_format)
        parts = [item.attend(folded, rule.scale, rule.cap, select) for item in self.held]
        if self.tail.count:
            parts.append(self.tail.attend(q, rule.scale, rule.cap))
        sink = None
        if rule.sink is not None:
            sink = rule.sink.view(1, heads, -1, 1).expand(-1, -1, -1, q.shape[2]).flatten(2)
        return merge(parts, sink), folded

    def _attend_fused(self, folded: Tensor, rule: Rule) -> Partial | None:
        """One token, all segments and the tail in one kernel call; None where the parts must be taken one by one."""
        if any(item.rows is not None for item in self.held):
            return None  # rows that share a prefix are answered together, in one pass over it
        if BIAS in self.tail.columns or self.recipe.selector is not None:
            return None
        known: list[backends.Part] = []
        for item in self.held:
            if item.segment.parts is None:
                return None
            known += item.segment.parts
        return backends.attend([*known, self.tail.part()], folded, rule.scale, rule.cap)

    def bytes_read(self) -> int:
        """Bytes of keys and values that a decoded token reads: by the queries of the last one, or of all slots."""
        asked = self.asked
        read = sum(x.numel() * x.element_size() for x in (self.tail.keys, self.tail.values))
        for item in self.held:
            segment = item.own().segment if asked is not None else item.segment
            read += segment.bytes_read(asked)
        return read

    def reread(self, q: Tensor, rule: Rule) -> Tensor:
        """Attention of a layer that shares these slots (KV sharing) and stores none of its own."""
        return self._attend(q, rule)[0].out.reshape(*q.shape[:3], -1).to(q.dtype)

    def _add_mass(self, q: Tensor, folded: Tensor, part: Partial) -> None:
        assert self.rule is not None
        lse = part.lse
        if self.seen_mask is not None:  # queries of padding give no mass: exp(x - inf) = 0
            real = self.seen_mask[:, -q.shape[2] :].repeat(1, q.shape[1] // self.tail.k.shape[1])
            lse = lse.masked_fill(~real.unsqueeze(1), torch.inf)
        lse = lse.masked_fill(lse == -torch.inf, torch.inf)
        for item in self.held:
            if MASS in item.columns:
                gained = Held(item.segment, item.rows).own().segment.mass(folded, lse, self.rule.scale, self.rule.cap)
                item.columns = item.columns.put(MASS, item.columns[MASS] + gained)
        tail = self.tail
        there, bias = tail.there(tail.count), tail.used().get(BIAS)
        tail.used()[MASS].add_(dense_mass(q, tail.keys, lse, self.rule, there, bias))

    def observe(self, q: Tensor, rule: Rule, first: bool) -> None:
        """Remember what the press needs of the queries q (B, Hq, n, D) of the tokens committed last."""
        self.rule = rule
        needs, new = self.recipe.needs, q.shape[2]
        if self.state.part is not None:
            assert self.repeated is not None
            strongest(q, self.tail.keys, rule, self.state.part, self.repeated)
            return
        if MASS in self.tail.columns and first and new > 1:  # `attend` counts the others
            self.tail.used()[MASS].copy_(received_mass(q, self.tail.keys, rule, 0, self.seen_mask))
        over = self.phase.fired and not self.recipe.asks_again and not self.chooses
        if not (needs.window or needs.moments) or over:
            return
        at = torch.arange(self.logical - new, self.logical, device=q.device, dtype=torch.int32).expand(len(q), -1)
        if self.seen_mask is not None:
            at = torch.where(self.seen_mask[:, -new:], at, -1)
        self.witness.see(q, at, self._ranks()[:, -new:], self.given.get(MOMENTS))

    def forget(self) -> None:
        """Let go of what the press scored with: it will not choose again."""
        self.witness.forget()
        if self.is_initialized:
            self.tail.columns = self.tail.columns.without(MASS)
        self.held = [Held(item.segment, item.rows, item.columns.without(MASS)) for item in self.held]
        self.prompt = self.repeated = None

    @property
    def chooses(self) -> bool:
        """A prompt is being read whose slots are chosen after every chunk."""
        return self.state.reading is not None and self.state.reading.chooses

    def measure(self) -> None:
        """Tell the meter that what is held has changed."""
        if self.state.meter is not None:
            self.state.meter.read(self, self.upper)

    # What the press sees

    def lengths(self) -> Tensor:
        """(B,) int64 real tokens of each row."""
        if self.seen_mask is None:
            return torch.full((self.tail.k.shape[0],), self.logical, dtype=torch.long, device=self.device)
        return self.seen_mask.sum(1)

    def block(self) -> Block:
        """Everything stored, dense: the segments in order, then the tail."""
        keys, values, pos = [], [], []
        for item in self.held:
            k, v = item.segment.decode()
            keys.append(item.per_row(k))
            values.append(item.per_row(v))
            pos.append(item.per_row(item.segment.positions()))
        columns = self.tail.used().without(POSITION)
        if not keys:
            return Block(self.tail.keys, self.tail.values, self.tail.positions(), columns)
        joined = {}
        for column, mine in columns.items():
            joined[column] = torch.cat([*(item.column(column) for item in self.held), mine], 2)
        return Block(
            torch.cat([*keys, self.tail.keys], 2),
            torch.cat([*values, self.tail.values], 2),
            torch.cat([*pos, self.tail.positions()], 2),
            Columns(joined),
        )

    def evidence(self, block: Block) -> Evidence:
        """What a scorer may look at, aligned with `block`."""
        assert self.rule is not None
        rank = block.pos
        if self.seen_mask is not None:
            at = block.pos.clamp(min=0).long()
            rank = self._ranks().unsqueeze(1).expand(-1, at.shape[1], -1).gather(2, at)
            rank = torch.where(block.pos >= 0, rank, -1)
        received = block.columns.get(MASS)
        known = dict(self.witness.tensors())
        if self.repeated is not None:
            known["repeated"] = self.repeated.gather(2, block.pos.clamp(min=0).long())
        return Evidence(self.index, self.rule, rank, received=received, given=self.given, **known)

    def _ranks(self) -> Tensor:
        """(B or 1, logical) int32 number of each token among the real tokens of its row, -1 = padding."""
        if self.seen_mask is None:
            return torch.arange(self.logical, device=self.device, dtype=torch.int32)[None]
        return torch.where(self.seen_mask, self.seen_mask.cumsum(1, dtype=torch.int32) - 1, -1)

    def positions(self) -> Tensor:
        """(B, H, n) int32 positions of the slots of `block()`, without decoding any."""
        return torch.cat([*(item.per_row(item.segment.positions()) for item in self.held), self.tail.positions()], 2)

    def decoded(self, pos: Tensor) -> Tensor:
        """Which of the slots at pos (B, H, n) int32, -1 = none, were decoded, and are no part of a prompt."""
        out = pos >= 0
        for start, stop in self.read:
            out = out & ((pos < start) | (pos >= stop))
        return out

    def counts(self) -> Tensor:
        """(B, H) int64 slots held by every row and KV head."""
        out = (self.tail.positions() >= 0).sum(-1).cpu()
        for item in self.held:
            out = out + item.per_row(item.segment.counts())
        return out

    @property
    def width(self) -> int:
        """Slots that one KV head of one row holds, at most."""
        return self.tail.count + sum(item.segment.width for item in self.held) if self.is_initialized else 0

    # Batch operations

    @steady
    def take_rows(self, rows: Tensor) -> None:
        """Batch row i becomes what row rows[i] was; segments are shared, not copied."""
        if not self.is_initialized:
            return
        rows = rows.to(self.device, torch.long)
        self.held = [item.reread(rows) for item in self.held]
        self.tail.take_rows(rows)
        for name in STATE:
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, value.index_select(0, rows))
        self.own = {name: value.index_select(0, rows) for name, value in self.own.items()}
        self.witness.take_rows(rows)

    def check_crop(self, tokens_to_remove: int) -> None:
        """Raise CropError unless the last -tokens_to_remove tokens are all still dense."""
        remove = -int(tokens_to_remove)
        if remove < 0:
            raise CropError(
                f"crop({tokens_to_remove}): give minus the number of tokens to remove, for example crop(-5)."
            )
        reserve = self.logical - self.fixed
        counted = self.is_initialized and MASS in self.tail.columns
        if remove and (counted or not self.witness.empty):
            raise CropError(
                f"Cannot remove {remove} tokens: the press scores with the attention of their queries, which is "
                "counted already. Fork the cache before reading what you may want to undo."
            )
        if remove > reserve:
            raise CropError(
                f"Cannot remove {remove} tokens: the last {reserve} are still dense, older ones were compressed. "
                "Fork the cache before decoding what you may want to undo, or remove fewer."
            )

    @steady
    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last -tokens_to_remove tokens, which must still be dense."""
        self.check_crop(tokens_to_remove)
        remove = -int(tokens_to_remove)
        if remove == 0:
            return
        self.tail.trim(self.tail.count - remove)
        self.logical -= remove
        self.phase.since = max(0, self.phase.since - remove)
        self.read = tuple((start, min(stop, self.logical)) for start, stop in self.read if start < self.logical)
        if self.seen_mask is not None:
            self.seen_mask = self.seen_mask[:, : self.logical].clone()
        if self.prompt is not None:
            self.prompt = self.prompt[:, : self.logical].clone()

    @steady
    def fork(self) -> Self:
        """An independent layer that shares the segments and copies the tail."""
        other = type(self)(self.recipe, self.index)
        shared = {k: v for k, v in self.__dict__.items() if k not in ("tail", "held", "state", "upper")}
        other.__dict__.update(shared)
        other.witness, other.phase = copy(self.witness), copy(self.phase)
        other.held = [Held(item.segment, item.rows, item.columns) for item in self.held]
        if self.is_initialized:
            other.tail = self.tail.clone()
        return other

    def tensors(self) -> Iterator[tuple[str, str, str, Tensor]]:
        """(name, 'k' | 'v' | '-', ledger kind, tensor) of everything held."""
        if not self.is_initialized:
            return
        for number, item in enumerate(self.held):
            for name, side, kind, tensor in item.segment.tensors():
                yield f"segment{number}.{name}", side, kind, tensor
            if item.rows is not None:
                yield f"segment{number}.rows", "-", "indices", item.rows
            for name, side, kind, tensor in item.columns.tensors():
                yield f"segment{number}.{name}", side, kind, tensor
        for name, side, kind, tensor in self.tail.tensors():
            yield f"tail.{name}", side, kind, tensor
        for name, (side, kind) in STATE.items():
            value = getattr(self, name)
            if value is not None:
                yield name, side, kind, value
        for name, value in self.own.items():
            yield name, "-", "indices", value
        for name, value in self.witness.tensors():
            yield name, "-", "evidence", value
