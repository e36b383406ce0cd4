"""Whether a prompt can be read in the memory that was declared for it, and in which chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from kvpress.errors import BudgetError, short
from kvpress.hf.model import query_heads
from kvpress.pipeline.meter import Meter
from kvpress.plan.amounts import bytes_of
from kvpress.plan.peak import Peak, Plan, Shape, chunk_sizes, estimate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from kvpress.cache.cache import PressCache
    from kvpress.recipe.press import Press


def chooses(cache: PressCache) -> bool:
    """The next prompt is one at which slots are chosen, by the schedule of the press."""
    return cache.press.recipe.schedule.every_prompt or all(layer.fired == 0 for layer in cache.stores)


class Forecast:
    """Bounds for one press on one model.

    shares: some layers attend to the keys of others. probe: makes a cache that holds one token.
    """

    def __init__(self, press: Press, model: PreTrainedModel, shares: bool, probe: Callable[[], PressCache]) -> None:
        self.press, self.model, self._shares, self._probe = press, model, shares, probe

    @cached_property
    def shapes(self) -> list[Shape]:
        """What the model's layers really cache, learned from one token."""
        found = []
        for layer in self._probe().stores:
            k, queries = layer.tail.k, query_heads(self.model, layer.index)
            found.append(Shape(k.shape[1], queries, k.shape[3], layer.tail.v.shape[3], k.dtype))
        return found

    def bound(self, cache: PressCache, shape: Sequence[int], chunk: int, compress: bool, between: bool) -> Peak:
        """For a prompt of `shape` (rows, tokens) read into `cache` in chunks; see `Session.prefill`."""
        rows, tokens = shape
        recipe, past = self.press.recipe, max(layer.width for layer in cache.stores)
        plan = Plan(
            tokens,
            rows,
            min(chunk, tokens),
            between,
            eager=not (recipe.together or self._shares),
            compress=compress and (between or chooses(cache)),
            chooses=chooses(cache),
            past=past,
            total=cache.get_seq_length() + tokens,
        )
        found = estimate(recipe, self.shapes, plan)
        if past == 0:
            return found
        # What is there already may be copied with room to grow, and name the groups its slots came from.
        each = sum(16 * rows * one.heads * past for one in self.shapes)
        now = Meter(cache.stores).now
        return Peak(now + now // 16 + each + found.held, found.work)

    def within(
        self,
        peak: int | float | str,
        cache: PressCache,
        shape: Sequence[int],
        chunk: int | None,
        compress: bool,
        between: bool,
    ) -> tuple[int, int]:
        """The chunk to read in, and the bytes the cache may hold then. Raises BudgetError where nothing fits."""
        rows, tokens = shape
        allowed = bytes_of(peak, rows * tokens * sum(one.heads * one.slot for one in self.shapes), "peak")
        sizes = chunk_sizes(tokens)
        bounds = {size: self.bound(cache, shape, size, compress, between) for size in sizes}
        fitting = [size for size in sizes if bounds[size].total <= allowed]
        if chunk is None:
            chosen = fitting[0] if fitting else min(sizes, key=lambda size: bounds[size].total)
        else:
            chosen = chunk
        wanted = bounds[chosen] if chosen in bounds else self.bound(cache, shape, chosen, compress, between)
        if wanted.total <= allowed:
            return chosen, wanted.held
        advice = f"chunk={fitting[0]} fits" if fitting else "no chunk fits"
        if not fitting and compress and not between and self.press.recipe.waits is None:
            other = {size: self.bound(cache, shape, size, True, True).total for size in sizes}
            best = next((size for size in sizes if other[size] <= allowed), min(sizes, key=other.__getitem__))
            needs = "fits" if other[best] <= allowed else "would need"
            advice += f" with between=False; between=True, chunk={best} {needs} ({other[best]:,} bytes)"
        raise BudgetError(
            f"{short(self.press, 60)} needs up to {wanted.total:,} bytes for {rows} x {tokens} tokens in chunks of "
            f"{chosen} with between={between}, and peak={peak!r} allows {allowed:,}; {advice}."
        )
