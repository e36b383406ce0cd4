"""The cache of one full-attention layer: frozen segments and a dense tail that compute their own attention."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from kvpress.attention import backends
from kvpress.attention.partial import Partial, fold_queries, merge
from kvpress.cache.meter import Meter
from kvpress.errors import CropError, SessionError, UnsupportedError
from kvpress.evidence.evidence import Evidence, Rule, dense_mass, received_mass
from kvpress.evidence.output import Projection
from kvpress.evidence.premise import Survey
from kvpress.evidence.rope import Rotate
from kvpress.evidence.witness import Witness
from kvpress.pipeline import compact
from kvpress.recipe.recipe import Recipe
from kvpress.session.repeat import Repetition, strongest
from kvpress.storage.block import Block
from kvpress.storage.columns import BIAS, MASS
from kvpress.storage.held import Held
from kvpress.storage.modes import steady
from kvpress.storage.tail import Tail

TAG = "_kvpress_layer"
# Tensors (B, ...) of a layer besides its slots, with their side and kind in the ledger.
STATE = {
    "seen_mask": ("-", "masks"),
    "prompt": ("-", "evidence"),
    "total": ("-", "indices"),
    "shift": ("-", "indices"),
    "sink_keys": ("k", "window"),
}


@dataclass(frozen=True)
class Reading:
    """A prompt that is read in chunks, with the press applied after each.

    lengths: (B,) int64 real tokens of each row when it is complete, which budgets are taken from. chooses: slots are
    chosen at this prompt; otherwise (a later one, by the schedule) they are only packed.
    """

    lengths: Tensor
    chooses: bool


@dataclass
class State:
    """Shared by the layers of one cache.

    live: a forward of a session that knows this cache is running. part: what of the prompt it repeats, if it does.
    meter: measures while a prompt is read. reading: a prompt that is compressed between its chunks. survey: what
    the press takes for granted is measured when it fires, None = it is known or there is nothing to know. owner: the
    thread that works on the cache, and how many of its calls do. before: logical length when the forward began.
    """

    live: bool = False
    part: Repetition | None = None
    meter: Meter | None = None
    reading: Reading | None = None
    survey: Survey | None = None
    layers: list[StoreLayer] = field(default_factory=list)
    owner: threading.Thread | None = None
    claims: int = 0
    before: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def check_free(self) -> None:
        """Raise SessionError while another thread works on the cache."""
        owner = self.owner
        if owner is not None and owner is not threading.current_thread() and owner.is_alive():
            raise SessionError(
                f"Another thread ({owner.name}) runs the model on this cache, and a cache serves one thread at a time. "
                "Wait for it, or give each thread a cache of its own: session.new_cache(), or cache.fork() beforehand."
            )

    def claim(self) -> None:
        """The calling thread works on the cache until as many `release`. SessionError where another one does."""
        with self.lock:
            self.check_free()
            me = threading.current_thread()
            self.owner, self.claims = me, self.claims + 1 if self.owner is me else 1

    def release(self) -> None:
        """Undo one `claim`."""
        with self.lock:
            self.claims -= 1
            if self.claims <= 0:
                self.owner = None

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Within, the calling thread works on the cache."""
        self.claim()
        try:
            yield
        finally:
            self.release()


class StoreLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's slots.

    To Hugging Face it has the *logical* length (tokens seen), whatever it stores. `update` stages the new
    keys and tags them with this layer; the attention function finds the tag and calls `attend`, which
    stores the slots, computes attention over everything held, gathers evidence and evicts or packs when due.
    """

    is_sliding = False
    is_compileable = False

    def __init__(self, recipe: Recipe, index: int) -> None:
        super().__init__()
        self.recipe, self.index = recipe, index
        self.logical = 0
        self.held: list[Held] = []
        self.seen_mask: Tensor | None = None  # (B, logical) bool, only once padding was seen
        self.prompt: Tensor | None = None  # (B, logical) int64 in the first layer, for presses that read it twice
        self.repeated: Tensor | None = None  # (B, H, logical) fp32, by logical index, while such a press fires
        self.staged: tuple[Tensor, Tensor] | None = None
        self.rule: Rule | None = None
        self.witness = Witness(recipe.needs)
        self.state = State()
        self.pending = False  # a prompt was read and the press has not fired on it yet
        self.eager = False  # fire as soon as the attention of this forward is computed
        self.hold = False  # do not fire by itself (explicit compress)
        self.upper: StoreLayer | None = None  # the layer that shares this one's directions
        self.follows = False  # this is such a layer: the lower one evicts and packs for both
        self.shared = False  # later layers attend to these slots, so nothing goes before the forward ends
        self.due = False  # a decode step's eviction or packing waits for that end
        self.rotate: Rotate | None = None  # moves keys to other positions, for recipes that need it
        self.output: Projection | None = None  # of this layer, for recipes that need it
        self.shift: Tensor | None = None  # (B,) positions the sinks were moved by
        self.sink_keys: Tensor | None = None  # (B, H, sinks, D) keys of the sinks as they were given, before any move
        self.total: Tensor | None = None  # (B,) slots per head since the press fired
        self.own: dict[str, Tensor] = {}  # (B, H, ...) by name, what the form of storage keeps for the layer
        self.channels_chosen = False
        self.fired = 0  # how often the press has fired
        self.fixed = 0  # tokens before this logical index cannot be cropped any more

    # What transformers asks for

    @property
    def is_croppable(self) -> bool:
        return not self.recipe.schedule.continuous

    @steady
    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.tail = Tail(key_states, value_states, self.logical, self.recipe.columns)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.state.live:
            raise SessionError(
                "This cache belongs to a press whose session has ended, and the model now runs without it. "
                "Enter the press again (with press(model): ...) before you continue with the cache."
            )
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.staged is not None:
            raise UnsupportedError(
                f"Layer {self.index} was given keys twice without its attention running through kvpress. "
                "Its attention changes keys after they are cached; use the model without a press."
            )
        if self.due_now and key_states.shape[2] == 1:
            self.fire()
        self.staged = (key_states, value_states)
        # Both carry the tag: attention must get the very tensors that were given here, which is what is stored.
        tagged = key_states.view(key_states.shape), value_states.view(value_states.shape)
        for tensor in tagged:
            setattr(tensor, TAG, self)
        return tagged

    def get_seq_length(self) -> int:
        return self.logical

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.logical + int(query_length), 0

    def get_max_length(self) -> int:
        return -1

    def get_max_cache_shape(self) -> int:
        return -1

    @property
    def due_now(self) -> bool:
        """The press waits to be applied, and nobody holds it back."""
        return self.pending and not self.hold and self.state.part is None

    # Attention

    @property
    def empty(self) -> bool:
        """No slot is stored yet."""
        return self.logical == 0

    def commit(self, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store the staged slots; returns k, v (B, H, n, D) and the validity (B, n) of the new tokens."""
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
        self._measure()
        return k, v, valid

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
        parts = [item.attend(folded, rule.scale, rule.cap) for item in self.held]
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
        parts = [item.segment.parts() for item in self.held]
        known = [part for some in parts if some is not None for part in some]
        if None in parts or BIAS in self.tail.columns:
            return None
        return backends.attend([*known, self.tail.part()], folded, rule.scale, rule.cap)

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
        tail.used()[MASS].add_(dense_mass(q, tail.keys, lse, self.rule, tail.there(tail.count)))

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
        over = self.fired and not self.recipe.schedule.every_prompt and not self._chooses
        if not (needs.window or needs.moments) or over:
            return
        at = torch.arange(self.logical - new, self.logical, device=q.device, dtype=torch.int32).expand(len(q), -1)
        if self.seen_mask is not None:
            at = torch.where(self.seen_mask[:, -new:], at, -1)
        self.witness.see(q, at, self._ranks()[:, -new:], self.rotate)

    def after_forward(self, new: int) -> None:
        """Decide what is due after the attention of `new` tokens: fire on a prompt, evict or pack while decoding."""
        schedule = self.recipe.schedule
        if new > 1 or self.fired == 0 or self.hold:  # hold: session.prefill reads a prompt, in chunks of any size
            self.pending = self.pending or self.fired == 0 or schedule.every_prompt or self._chooses
            self.due = self.state.reading is not None and not self.pending
            if self.eager and not self.recipe.together:
                if self.pending:
                    self.fire()
                self.finish()
        elif not self.pending:
            self.due = True
            if not self.shared and self.recipe.sharer is None:
                self.finish()

    def finish(self) -> None:
        """The forward, or as much of it as reads these slots, is over: evict or pack what a decode step made due."""
        if self.due:
            self._finish()

    @steady
    def _finish(self) -> None:
        self.due = False
        self._decode_step()
        if self.state.reading is not None:
            compact.drop_padding(self)
        self._measure()

    def _decode_step(self) -> None:
        recipe = self.recipe
        if self.follows:  # the lower layer packs for both
            return
        if self.total is not None and recipe.schedule.continuous and not compact.evict_one(self, self.total):
            total = self.total
            if not recipe.in_place:  # packed slots go in blocks; each row at its own time, as if it were alone
                dense = (self.tail.positions() >= 0).sum(-1).amax(1)
                due = dense - recipe.residual >= recipe.block
                if not bool(due.any()):  # the common step: nothing is decoded to find that nothing is to be done
                    return
                total = torch.where(due, total, torch.iinfo(torch.int64).max)
            compact.evict(self, total)
        compact.pack(self, freeze=False)

    @steady
    def fire(self) -> None:
        """Apply the press now to everything stored, and to all layers where they share one budget."""
        layers = self.state.layers if self.recipe.together else [self]
        if self.logical == 0:
            self.pending = False
            return
        for layer in layers:  # before anything is dropped or packed in any of them
            layer._survey()
        reading, totals = self.state.reading, list[Tensor | None]([None] * len(layers))
        if self.recipe.evicts and reading is None:
            totals = [*compact.totals(layers)]
        elif self.recipe.evicts and reading is not None:  # the whole prompt's budget, whatever part of it was read
            totals = [compact.budget(self.recipe, reading.lengths.to(layer.device)) for layer in layers]
        for layer, total in zip(layers, totals, strict=True):
            layer._fire(total)

    def _survey(self) -> None:
        """Show what a premise is measured on, the first time the press fires here."""
        if self.state.survey is not None and self.fired == 0 and self.rule is not None:
            block = self.block()
            self.state.survey.see(self.state.layers.index(self), block, self.evidence(block))

    def _fire(self, total: Tensor | None) -> None:
        self.pending = False
        self.fired += 1
        self.total = total
        if not self.follows:
            evicted = total is not None and compact.evict(self, total)
            pruned = compact.prune(self)
            compact.pack(self, freeze=evicted or pruned)
        if self.state.reading is not None:
            compact.drop_padding(self)
        elif not self.recipe.schedule.every_prompt:
            self.forget()
        self._measure()

    def forget(self) -> None:
        """Let go of what the press scored with: it will not choose again."""
        self.witness.forget()
        if self.is_initialized:
            self.tail.columns = self.tail.columns.without(MASS)
        self.held = [Held(item.segment, item.rows, item.columns.without(MASS)) for item in self.held]
        self.prompt = self.repeated = None

    @property
    def _chooses(self) -> bool:
        """A prompt is being read whose slots are chosen after every chunk."""
        return self.state.reading is not None and self.state.reading.chooses

    def _measure(self) -> None:
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
        if not keys:
            return Block(self.tail.keys, self.tail.values, self.tail.positions())
        return Block(
            torch.cat([*keys, self.tail.keys], 2),
            torch.cat([*values, self.tail.values], 2),
            torch.cat([*pos, self.tail.positions()], 2),
        )

    def evidence(self, block: Block) -> Evidence:
        """What a scorer may look at, aligned with `block`."""
        assert self.rule is not None
        rank = block.pos
        if self.seen_mask is not None:
            at = block.pos.clamp(min=0).long()
            rank = self._ranks().unsqueeze(1).expand(-1, at.shape[1], -1).gather(2, at)
            rank = torch.where(block.pos >= 0, rank, -1)
        received = None
        if MASS in self.tail.columns:
            received = torch.cat([*(item.columns[MASS] for item in self.held), self.tail.used()[MASS]], 2)
        known = dict(self.witness.tensors())
        if self.repeated is not None:
            known["repeated"] = self.repeated.gather(2, block.pos.clamp(min=0).long())
        return Evidence(self.index, self.rule, rank, received=received, rotate=self.rotate, output=self.output, **known)

    def _ranks(self) -> Tensor:
        """(B or 1, logical) int32 number of each token among the real tokens of its row, -1 = padding."""
        if self.seen_mask is None:
            return torch.arange(self.logical, device=self.device, dtype=torch.int32)[None]
        return torch.where(self.seen_mask, self.seen_mask.cumsum(1, dtype=torch.int32) - 1, -1)

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

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.take_rows(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.is_initialized:
            rows = torch.arange(self.tail.k.shape[0], dtype=torch.int64, device=self.device)
            self.take_rows(rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.is_initialized:
            rows = torch.arange(self.tail.k.shape[0], dtype=torch.int64, device=self.device)
            self.take_rows(rows[indices.to(self.device)])

    @property
    def batch_size(self) -> int:
        return self.tail.k.shape[0] if self.is_initialized else -1

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
        if self.seen_mask is not None:
            self.seen_mask = self.seen_mask[:, : self.logical].clone()
        if self.prompt is not None:
            self.prompt = self.prompt[:, : self.logical].clone()

    def reset(self) -> None:
        """Back to a layer that has seen nothing."""
        state = self.state
        self.__init__(self.recipe, self.index)  # type: ignore[misc]
        self.state = state

    @steady
    def fork(self) -> StoreLayer:
        """An independent layer that shares the segments and copies the tail."""
        other = StoreLayer(self.recipe, self.index)
        shared = {k: v for k, v in self.__dict__.items() if k not in ("tail", "held", "state", "upper")}
        other.__dict__.update(shared)
        other.witness = copy(self.witness)
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
