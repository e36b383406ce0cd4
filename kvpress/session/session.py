"""What `with press(model) as session:` does: attach, hand out caches, and leave the model as it was."""

from __future__ import annotations

import contextlib
import inspect
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from kvpress.cache.cache import PressCache
from kvpress.errors import SessionError, UnsupportedError, short
from kvpress.evidence.premise import Finding, Survey, warn
from kvpress.hf.attention import attention_of, check_call, set_pressed
from kvpress.hf.generation import generation_of
from kvpress.hf.inputs import check_text
from kvpress.hf.model import (
    check_model,
    fingerprint,
    full_layers,
    layer_types,
    learned_positions,
    shares_keys,
    takes_cache,
    widths,
)
from kvpress.pipeline.budget import fits
from kvpress.pipeline.layer import Layer
from kvpress.pipeline.meter import Meter
from kvpress.pipeline.phase import Reader
from kvpress.pipeline.state import Reading
from kvpress.plan.forecast import Forecast, chooses
from kvpress.plan.peak import Peak
from kvpress.recipe.press import Press, like, opens
from kvpress.session.masks import check_mask, check_prompt_mask, seen_mask
from kvpress.session.report import Report, report_of
from kvpress.session.running import Call, Gate, runs
from kvpress.session.second_reading import check_repeats, checked_instructions, read_again
from kvpress.session.view import ModelView
from kvpress.storage.modes import undisturbed


class Session:
    """A press at work on a model. Made by `with press(model) as session`.

    positions: how many the model has learned, None = any. premises: what the press takes for granted of a model, as
    measured on the first prompt of at least kvpress.evidence.premise.SLOTS tokens that it fired on; None until then.
    """

    def __init__(self, press: Press, model: PreTrainedModel, gate: Gate, forget_masks: Callable[[], None]) -> None:
        self.press, self.model = press, model
        self._types, self._arguments = layer_types(model)
        self._shares = shares_keys(model)
        self._accepts = set(inspect.signature(model.forward).parameters)
        self.view = ModelView(model, lambda: _instead(press))
        self._given = {index: press.recipe.bind(self.view, index) for index in full_layers(model)}
        self._call, self._gate, self._forget_masks = Call(), gate, forget_masks
        # Models within models, which run as parts of a forward: of the language model, its decoder.
        takers = [module for module in model.modules() if takes_cache(module)]
        self._parts = {id(m): {id(part) for part in m.modules() if part is not m} for m in takers}
        self._instructions: tuple[Sequence[int], ...] = ((), (), ())
        self.positions = learned_positions(model)
        self.premises: tuple[Finding, ...] | None = None if press.recipe.premises else ()
        if press.recipe.needs.repeat is not None:
            check_repeats(self)
        self._forecast = Forecast(press, model, self._shares, self._probe)
        self.open = True

    @property
    def instructions(self) -> Sequence[Sequence[int]]:
        """Token ids around the parts of a prompt that a press makes the model repeat, without a begin token.

        Three lists: what comes before the first part, what comes before each later one and the last tokens of the part
        before it, and what comes after either (the end of the user's turn; may be left out). See
        kvpress.policies.kvzip.instructions. Empty unless they are set.
        """
        return self._instructions

    @instructions.setter
    def instructions(self, value: Sequence[Sequence[int]]) -> None:
        self._instructions = checked_instructions(value)

    def new_cache(self) -> PressCache:
        """An empty cache for `past_key_values=`."""
        cache = PressCache(self.press, self._types, self._arguments, self.model)
        if self.premises is None:
            cache.state.survey = Survey(self.press.recipe.premises, len(cache.stores))
        return cache

    def _conclude(self, cache: PressCache) -> None:
        """Take in what was measured of the press's premises, and warn where one does not hold."""
        if cache.state.survey is None or any(layer.fired == 0 for layer in cache.stores):
            return
        found, cache.state.survey = cache.state.survey.findings(), None
        if found is not None and self.premises is None:
            self.premises = found
            warn(found)

    @torch.no_grad()
    def prefill(
        self,
        ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: PressCache | None = None,
        chunk: int | None = None,
        compress: bool = True,
        between: bool = False,
        peak: int | str | None = None,
    ) -> PressCache:
        """Read a prompt, or one more turn into `cache`, and compress.

        ids: (B, n) int64 new tokens. attention_mask: (B, n) or (B, logical + n), 0 = padding. chunk: tokens per
        forward (the press fires once, after the last). compress: fire now, layer by layer as soon as a layer's
        attention is done; False leaves everything dense until `session.compress`.

        between: apply the press after every chunk, so that the prompt never stands dense: slots are reduced to the
        budget of the whole prompt (at most that many and one chunk are held) and whole blocks are packed. Later
        chunks attend to what is left, so from the second layer on the keys are not those of a prompt read whole.
        Scores that are a token's own (knorm, random) choose the same slots as at the end, others may not, and gear
        packs each chunk for itself. Chunks are cut by column: a row of a left-padded batch gives what it gives alone
        where its padding is a multiple of `chunk`. Presses that need the whole prompt are refused.

        peak: bytes ("512MiB", an int, "25%" of the dense prompt) that `session.peak` must not exceed, which is checked
        before anything is read; without `chunk` the largest that fits is taken. What the cache really holds is
        checked against its bound in every layer, and is in `cache.peak` afterwards.

        Returns the cache, with `cache.next_logits` (B, V) set. Raises SessionError when the session is closed,
        UnsupportedError for a press that cannot be applied between chunks, BudgetError when `peak` is too small.
        """
        self._check_open()
        if ids.dim() != 2 or ids.shape[1] == 0:
            raise SessionError(f"ids has shape {tuple(ids.shape)}; give (batch, tokens) with at least one token.")
        if chunk is not None and chunk < 1:
            raise SessionError(f"chunk={chunk} must be a positive number of tokens.")
        if between:
            self._check_between(compress)
        cache = self.new_cache() if cache is None else _ours(cache)
        cache.state.check_free()
        past, new = cache.get_seq_length(), ids.shape[1]
        self._check_rows(cache, ids.shape[0])
        if attention_mask is not None:
            check_prompt_mask(attention_mask, ids, past)
        if attention_mask is None and past and cache.stores[0].seen_mask is not None:
            attention_mask = torch.ones_like(ids)  # earlier turns were padded, and positions count from there
        if attention_mask is not None and attention_mask.shape[1] == new and past:
            before = seen_mask(cache, ids.shape[0])
            attention_mask = torch.cat([before.to(attention_mask), attention_mask], 1)
        limit = None
        if peak is not None:
            chunk, limit = self._forecast.within(peak, cache, ids.shape, chunk, compress, between)
        with cache.state.claimed(), self._measured(cache, limit):
            if between:
                if attention_mask is None:
                    lengths = torch.full((ids.shape[0],), past + new, dtype=torch.int64, device=ids.device)
                else:
                    lengths = attention_mask.sum(1, dtype=torch.int64)
                cache.state.reading = Reading(lengths, chooses(cache))
            self._read_chunks(cache, ids, attention_mask, new if chunk is None else chunk, compress)
            self._when(cache, Reader.CHUNK)
            if compress:
                self.compress(cache)
        return cache

    def _read_chunks(self, cache: PressCache, ids: Tensor, mask: Tensor | None, step: int, compress: bool) -> None:
        past, new = cache.get_seq_length(), ids.shape[1]
        between = cache.state.reading is not None
        for start in range(0, new, step):
            stop = min(start + step, new)
            self._when(cache, Reader.LAST if compress and (between or stop == new) else Reader.CHUNK)
            seen = None if mask is None else mask[:, : past + stop]
            cache.next_logits = self.forward(ids[:, start:stop], seen, cache)
            if between:  # layers that share something are compressed when all of them have read the chunk
                _fire(cache)

    @contextlib.contextmanager
    def _measured(self, cache: PressCache, limit: int | None) -> Iterator[None]:
        """Around the reading of a prompt: count what the cache holds, against `limit` where there is one."""
        meter = cache.state.meter = Meter(cache.stores, limit)
        try:
            yield
        finally:
            reading, cache.state.reading, cache.state.meter = cache.state.reading, None, None
            cache.peak = meter.high
            if reading is not None and not self.press.recipe.asks_again:
                for layer in cache.stores:
                    layer.forget()

    def _check_between(self, compress: bool) -> None:
        if not compress:
            raise SessionError(
                "between=True compresses while the prompt is read, compress=False keeps it dense. Give one of them."
            )
        if why := self.press.recipe.waits:
            raise UnsupportedError(
                f"{short(self.press)} cannot be applied between the chunks of a prompt: {why}. Read it "
                f"with between=False, or use another press ({like(lambda recipe: recipe.waits is None)})."
            )

    def peak(self, tokens: int, rows: int = 1, chunk: int | None = None, between: bool = False) -> Peak:
        """What reading a prompt takes at its worst moment, as `prefill` would read it; nothing is read for it.

        tokens, rows: shape of the prompt. chunk, between: as for `prefill`. The parts and the formula are in
        `kvpress.plan.peak`. One token goes through the model once, to learn what its layers cache.
        """
        self._check_open()
        return self._forecast.bound(self.new_cache(), (rows, tokens), chunk or tokens, True, between)

    def peak_nbytes(self, tokens: int, rows: int = 1, chunk: int | None = None, between: bool = False) -> int:
        """`session.peak(...)` as one number: bytes held at most, and temporaries."""
        return self.peak(tokens, rows, chunk, between).total

    @torch.no_grad()
    def _probe(self) -> PressCache:
        """A cache of one token."""
        cache = self.new_cache()
        self.forward(torch.zeros(1, 1, dtype=torch.long, device=self.model.device), None, cache)
        return cache

    def _when(self, cache: PressCache, reader: Reader) -> None:
        for layer in cache.stores:
            layer.phase.reader = reader.patient if self._shares else reader

    @contextlib.contextmanager
    def _reading(self, chunked: bool) -> Iterator[None]:
        """Around the reading of a prompt by `generate`: fire layer by layer, or once after the last chunk."""
        call = self._call
        call.chunked = chunked
        try:
            yield
            read, call.chunked, call.read = call.read, None, None
            if read is not None:
                self._when(read, Reader.NOBODY)
                self.compress(read)
        finally:
            call.chunked = call.read = None

    def _guessing(self) -> None:
        if self.press.recipe.evicts:
            raise UnsupportedError(
                "Assisted generation and prompt lookup take guessed tokens back, and what "
                f"{short(self.press)} evicted for their sake cannot come back. Generate without them, or use a press "
                f"that keeps every token ({like(lambda recipe: not recipe.evicts)})."
            )

    def forward(self, ids: Tensor, mask: Tensor | None, cache: PressCache) -> Tensor:
        """(B, V) logits after the tokens ids (B, n), read into the cache; mask (B, logical + n) or None."""
        extra: dict[str, Any] = {}
        if mask is not None and "position_ids" in self._accepts:
            extra["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if "logits_to_keep" in self._accepts:
            extra["logits_to_keep"] = 1
        out = self.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **extra)
        return out.logits[:, -1].clone()

    def compress(self, cache: PressCache) -> None:
        """Fire the press now where it has not fired since the last prompt."""
        self._check_open()
        _ours(cache)
        with cache.state.claimed():
            self._check_made_here(cache)
            first = cache.stores[0]
            if self.press.recipe.needs.repeat is not None and first.phase.waits and not fits(first):
                chunked, self._call.chunked = self._call.chunked, None
                try:
                    read_again(self, cache)
                finally:
                    self._call.chunked = chunked
            for layer in cache.stores:  # a loaded cache has not met this session yet
                layer.phase.reader = layer.phase.reader.released
                self._bind(layer)
            _fire(cache)
            self._conclude(cache)

    def report(self, cache: PressCache) -> Report:
        """Slots and bytes of a cache, by layer and by kind."""
        _ours(cache)
        return report_of(cache)

    def _check_open(self) -> None:
        if not self.open:
            raise SessionError("This session has ended; enter the press again: with press(model) as session.")

    def _before(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Forward pre-hook: put our cache in place of none, refuse what cannot work."""
        given = kwargs
        if args:
            given = dict(zip(inspect.signature(module.forward).parameters, args, strict=False)) | kwargs
        call = self._call
        if call.module is not None:
            if self._within(module, given):
                return None
            call.module = call.cache = None  # that forward was broken off by an interrupt, after which no hook runs
            self._gate.forget()
        if not self._gate.enter():
            return None
        try:
            cache = self._cache_for(given)
        except BaseException:
            self._gate.leave()
            raise
        call.module, call.cache = module, cache
        return None if cache is None else ((), {**given, "past_key_values": cache})

    def _within(self, module: torch.nn.Module, given: dict[str, Any]) -> bool:
        """`module` runs as a part of the model whose forward this thread has called."""
        running, cache = self._call.module, given.get("past_key_values")
        if running is None or module is running:
            return False
        same = cache is self._call.cache and (cache is not None or not self._uses_cache(given))
        known = id(module) in self._parts.get(id(running), ())
        return (known and same) or runs(running)  # what is not plain is looked up

    def _cache_for(self, given: dict[str, Any]) -> PressCache | None:
        """The cache of this forward, ready to be filled; None where the forward keeps no cache."""
        cache = given.get("past_key_values")
        set_pressed(False)
        if cache is None and not self._uses_cache(given):
            return None
        if cache is not None and not isinstance(cache, PressCache):
            raise UnsupportedError(
                f"A {type(cache).__name__} was given (past_key_values= or cache_implementation=), but under a press "
                "the session keeps the cache. Leave it out, or pass session.new_cache(); what a cache of another kind "
                "holds already has to be read again, with session.prefill(ids)."
            )
        check_call(self.model, given)
        if given.get("output_attentions"):
            raise UnsupportedError("output_attentions=True asks for what a press does not build. Leave it out.")
        cache = self.new_cache() if cache is None else cache
        cache.state.claim()
        try:
            self._make_ready(cache, given)
        except BaseException:
            cache.state.release()
            raise
        return cache

    def _make_ready(self, cache: PressCache, given: dict[str, Any]) -> None:
        """Check that a forward with these arguments can fill `cache`, and let it."""
        tokens = given.get("input_ids") if given.get("inputs_embeds") is None else given["inputs_embeds"]
        if isinstance(tokens, Tensor):
            self._check_rows(cache, tokens.shape[0])
        check_mask(cache, given.get("attention_mask"))
        self._check_made_here(cache)
        if self.press.recipe.needs.repeat is not None and cache.state.part is None:
            self._repeat_when_complete(cache, given)
        self._admit(cache)

    def _repeat_when_complete(self, cache: PressCache, given: dict[str, Any]) -> None:
        """Before the first decode step: the prompt is complete now, and is read again where the press asks for that."""
        first = cache.stores[0]
        if first.fired:
            return
        check_text(self.press, given, self.model.config)
        reads = first.phase.reader.holds and self._call.chunked is not False  # a prompt's chunk may be one token
        if given["input_ids"].shape[1] == 1 and first.phase.waits and not reads:
            self.compress(cache)

    def _check_rows(self, cache: PressCache, rows: int) -> None:
        held = cache.stores[0].batch_size
        if held not in (-1, rows):
            raise SessionError(
                f"This cache holds {held} rows and {rows} were given. cache.fork({rows}) repeats a cache of one row, "
                "cache.fork(torch.tensor([...])) picks rows."
            )

    def _uses_cache(self, kwargs: dict[str, Any]) -> bool:
        use = kwargs.get("use_cache")
        return bool(getattr(self.model.config, "use_cache", True) if use is None else use)

    def _check_made_here(self, cache: PressCache) -> None:
        if cache.press != self.press:
            raise SessionError(
                f"This cache was made by {short(cache.press)}, the press entered is {short(self.press)}."
            )
        if cache.prints is not None and cache.prints != self.view.prints:
            raise SessionError(
                "This cache was made with other weights of the method than the session has. Read the prompt again, or "
                "give the file of weights that made it."
            )
        cache.prints = self.view.prints
        if cache.broken:
            raise SessionError("A forward on this cache failed half-way, so its layers disagree. Make a new cache.")
        if len(cache.layers) != len(self._types):
            raise SessionError(f"This cache has {len(cache.layers)} layers, the model {len(self._types)}.")
        filled = cache.model()
        if filled is not self.model:
            if filled is not None and fingerprint(filled) != fingerprint(self.model):
                raise SessionError(
                    "This cache was filled by another model (other weights or config). Read the prompt with this one: "
                    "session.prefill(ids)."
                )
            cache.model = weakref.ref(self.model)  # an equal one: not to be compared again at every step
        cache.session = weakref.ref(self)

    def _bind(self, layer: Layer) -> None:
        layer.given, layer.watch = self._given[layer.index], self.view.projections.get(layer.index)

    def _admit(self, cache: PressCache) -> None:
        for layer in cache.stores:
            layer.shared = self._shares
            self._bind(layer)
        chunked = self._call.chunked
        if chunked is not None:
            self._when(cache, Reader.CHUNK if chunked else Reader.WHOLE)
            self._call.read = cache
        cache.state.before = cache.get_seq_length()
        cache.state.live = cache.broken = True
        set_pressed(True)

    def _after(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Forward hook of the model: see that every key that was cached was also attended through its store."""
        call = self._call
        if module is not call.module:
            return
        cache, call.module, call.cache = call.cache, None, None
        set_pressed(False)
        self._forget_masks()
        try:
            if cache is not None and output is not None:  # else the forward raised: the cache stays marked as broken
                self._complete(cache, kwargs)
        finally:
            if cache is not None:
                cache.state.live = False
                cache.state.release()
            self._gate.leave()

    def _complete(self, cache: PressCache, given: dict[str, Any]) -> None:
        """After a forward that filled `cache`: what is due now that all layers have run."""
        if any(layer.staged is not None for layer in cache.stores):
            raise UnsupportedError(
                f"{type(self.model).__name__} changes keys between caching them and attending to them, so a press "
                "cannot serve it. Use the model without a press."
            )
        if idle := [layer.index for layer in cache.stores if layer.logical <= cache.state.before]:
            raise UnsupportedError(
                f"Layer {idle[0]} of {type(self.model).__name__} ran without the cache, as in train mode with gradient "
                "checkpointing or layer drop, so no press was applied. Use model.eval(), or pass use_cache=False."
            )
        for layer in cache.stores:
            layer.finish()
        cache.broken = False
        self._conclude(cache)
        first = cache.stores[0]
        if self.press.recipe.needs.repeat is not None and cache.state.part is None and first.fired == 0:
            with undisturbed():  # on the device of the other tensors of the layer
                ids = given["input_ids"].to(first.device, copy=True)
                first.prompt = ids if first.prompt is None else torch.cat([first.prompt, ids], 1)


def _instead(press: Press) -> str:
    """What to do where keys cannot be moved."""
    if press.recipe.positions == "slots":
        return 'use positions="keep" (original positions)'
    others = like(lambda recipe: recipe.evicts and not recipe.rotates)
    return f"{short(press)} scores what was there before RoPE; use another press ({others})"


def _fire(cache: PressCache) -> None:
    for layer in cache.stores:
        if layer.phase.waits:
            layer.fire()


def _ours(cache: Any) -> PressCache:
    if not isinstance(cache, PressCache):
        raise SessionError(f"A {type(cache).__name__} is not a cache of a press; use the one of session.new_cache().")
    return cache


@opens
@contextlib.contextmanager
def open_session(press: Press, model: PreTrainedModel) -> Iterator[Session]:
    """Attach `press` to `model` for the length of a with block."""
    check_model(model)
    for key, value in {*widths(model).values()}:
        press.recipe.fits(key, value)
    press.recipe.serves(layer_types(model)[0].count("full_attention"))
    gate = Gate()
    try:
        with attention_of(model) as forget_masks:
            session = Session(press, model, gate, forget_masks)
            hooks: list[RemovableHandle] = []
            for module in filter(takes_cache, model.modules()):  # model.model(ids) is under the press too
                hooks.append(module.register_forward_pre_hook(session._before, with_kwargs=True))
                hooks.append(module.register_forward_hook(session._after, with_kwargs=True, always_call=True))
            for output in session.view.projections.values():
                if (linear := output.linear()) is not None:
                    hooks.append(linear.register_forward_pre_hook(output.check))
            try:
                with generation_of(model, session.new_cache, session._reading, session._guessing):
                    yield session
            finally:
                session.open = False
                try:
                    gate.close()
                finally:
                    set_pressed(False)
                    for hook in hooks:
                        hook.remove()
    finally:
        gate.release()
