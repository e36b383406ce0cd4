"""A layer of the cache as transformers sees it: its length is that of the tokens seen, whatever is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from kvpress.errors import SessionError, UnsupportedError
from kvpress.evidence.evidence import Rule
from kvpress.hf.attention import TAG, Attended
from kvpress.pipeline import fire
from kvpress.pipeline.layer import Layer
from kvpress.recipe.recipe import Recipe
from kvpress.storage.modes import undisturbed


class StoreLayer(Layer, CacheLayerMixin):  # type: ignore[misc]
    """A full-attention layer under a press.

    `update` stages the new keys and tags them with this layer; the attention function finds the tag and calls
    its methods, which store the slots and compute attention over everything held.
    """

    is_sliding = False
    is_compileable = False

    def __init__(self, recipe: Recipe, index: int) -> None:
        CacheLayerMixin.__init__(self)
        Layer.__init__(self, recipe, index)

    @property
    def is_croppable(self) -> bool:
        return not self.recipe.schedule.interval

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
        fire.before_forward(self, key_states.shape[2])
        self.staged = (key_states, value_states)
        # Both carry the tag: attention must get the very tensors that were given here, which is what is stored.
        tagged = key_states.view(key_states.shape), value_states.view(value_states.shape)
        for tensor in tagged:
            setattr(tensor, TAG, self)
        return tagged

    def run(self, q: Tensor, rule: Rule, mask: Tensor | None, dense: Callable[[], Attended]) -> Attended:
        """Store what is staged and attend to everything held, with q (B, Hq, n, D); then do what is due.

        mask: (B, logical + n) bool or None. dense(): attention of a first prompt to itself, as the model would run it.
        """
        if self.staged is None:  # a layer that shares the keys of an earlier one
            with undisturbed():
                return self.reread(q, rule).transpose(1, 2).contiguous(), None
        new, first = q.shape[2], self.empty
        out, weights = None, None
        with undisturbed():
            self.commit(mask)
        if first and new > 1:  # in the modes of the caller
            out, weights = dense()
        with undisturbed():
            self.observe(q, rule, first)
            if out is None:
                out = self.attend(q, rule).transpose(1, 2).contiguous()
            fire.after_forward(self, new)
        if self.watch is not None:
            self.watch.expect(out)
        return out, weights

    def fire(self) -> None:
        """Apply the press now to everything stored, and to all layers where they share one budget."""
        fire.fire(self)

    def finish(self) -> None:
        """The forward is over: do what it made due."""
        fire.finish(self)

    def get_seq_length(self) -> int:
        return self.logical

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.logical + int(query_length), 0

    def get_max_length(self) -> int:
        return -1

    def get_max_cache_shape(self) -> int:
        return -1

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

    def reset(self) -> None:
        """Back to a layer that has seen nothing."""
        state = self.state
        self.__init__(self.recipe, self.index)  # type: ignore[misc]
        self.state = state
