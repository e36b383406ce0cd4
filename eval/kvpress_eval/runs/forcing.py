"""A passage under a press: the prefix is read and compressed, the text after it is forced, what is predicted is kept.

Kept are the states before the output embedding, not the predictions: 256 tokens of a model of 50,000 words are 0.6 MB
of states and 50 MB of predictions. The output embedding is applied where two sets of states are compared, to the same
shapes for both: what is equal stays equal bit for bit. A model that does more after it (a cap, a scale) keeps its
predictions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kvpress.session.report import kept_all

from ..machine.clock import Clock
from ..metrics.divergence import MEASURES, Divergence, divergence
from ..sources.passages import Passage
from .asking import Answers, measure
from .life import step_bytes

if TYPE_CHECKING:
    from kvpress import Session

__all__ = ["Head", "States", "compare", "force"]

_AFTER = ("final_logit_softcapping", "logit_scale", "logits_scaling")
_CHUNK = 1 << 24  # bytes of predictions in double precision that are compared at once


@dataclass(frozen=True)
class States:
    """What a forced text left: ``first`` (V,) logits of its first token, ``rest`` (n - 1, d) states, or (n - 1, V)
    logits, that the others are predicted from.
    """

    first: Tensor
    rest: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return int(self.first.nbytes + self.rest.nbytes)


class Head:
    """From states to logits, as the model does it; found out by one forward of two tokens, without a press."""

    @torch.no_grad()
    def __init__(self, model: Any) -> None:
        self.model = model
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.embedding: Callable[[Tensor], Tensor] | None = model.get_output_embeddings()
        self.plain = self.embedding is not None and model.base_model is not model and self._is_plain()

    def _is_plain(self) -> bool:
        """Whether the logits are what the output embedding gives, and nothing else."""
        config = self.model.config.get_text_config()
        if any(getattr(config, name, None) not in (None, 1, 1.0) for name in _AFTER):
            return False  # of small logits a cap changes nothing: what is tried below may not show it
        size = int(config.vocab_size)
        ids = torch.tensor(
            [[size // 3, size // 2]], dtype=torch.int64, device=self.model.device
        )  # not the padding, whose states are 0
        with self.watched() as seen:
            logits = self.model(input_ids=ids, use_cache=False).logits
        return len(seen) == 1 and seen[0].shape[:2] == (1, 2) and torch.equal(self._embedded(seen[0]), logits)

    def _embedded(self, states: Tensor) -> Tensor:
        assert self.embedding is not None
        return self.embedding(states)

    @contextmanager
    def watched(self) -> Iterator[list[Tensor]]:
        """Within, the last hidden states (1, n, d) of every forward."""
        seen: list[Tensor] = []

        def keep(module: Any, args: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output.last_hidden_state
            seen.append(states.detach())

        hook = self.model.base_model.register_forward_hook(keep)
        try:
            yield seen
        finally:
            hook.remove()

    def read(self, ids: Tensor, cache: Any) -> Tensor:
        """(n, d) states, or (n, V) logits, after each of the tokens ids (1, n), which are read into the cache."""
        options = {"logits_to_keep": 1} if self.plain and self._keeps else {}
        with self.watched() as seen:
            logits = self.model(input_ids=ids, past_key_values=cache, use_cache=True, **options).logits
        return seen[-1][0] if self.plain else logits[0]

    def logits(self, rows: Tensor) -> Tensor:
        """(n, V) logits of (n, d) states."""
        return self._embedded(rows) if self.plain else rows


@torch.no_grad()
def force(head: Head, session: Session, passage: Passage, step: int, chunk: int) -> tuple[States, Answers]:
    """Read and compress the prefix of a passage, and force the text after it.

    Args:
        session: the press's session, entered on the model of ``head``.
        step: tokens forced at once: 0 for all, 1 as while decoding, where a press that evicts at every step does so.
        chunk: tokens of the prefix fed at once, 0 for all.

    Returns:
        What was predicted, and what it cost; times are those of the prefix, and of steps of one token.
    """
    model, answers = head.model, Answers(ids=[[]], stopped=[True])
    clock = Clock(model.device)
    cache = session.prefill(torch.tensor([passage.prefix], dtype=torch.int64, device=model.device), chunk=chunk or None)
    answers.prefill_s = answers.first_s = clock.seconds()
    answers.read_tokens = int(cache.get_seq_length())
    measure(answers, cache)
    answers.step_bytes, answers.decode_lengths = [step_bytes(cache)], [answers.read_tokens]
    assert cache.next_logits is not None
    first, rows = cache.next_logits[0].clone(), list[Tensor]()
    fed = torch.tensor(
        [passage.ids[:-1]], dtype=torch.int64, device=model.device
    )  # the last one is predicted and not read
    again = session.press.recipe.schedule.interval and step > 1
    clock = Clock(model.device)
    for ids in fed.split(step or max(1, fed.shape[1]), dim=1) if fed.shape[1] else ():
        rows.append(head.read(ids, cache))
        if again:  # a piece of several tokens is a turn, and one token a decoding step, which evicts by itself
            session.compress(cache)
    if step == 1:
        answers.decode_s, answers.steps = clock.seconds(), fed.shape[1]
    answers.session_bytes = cache.nbytes()
    answers.kept_all = answers.kept_all and kept_all(cache)
    answers.fired = max([0, *(layer.fired for layer in cache.stores)])
    return States(first, torch.cat(rows) if rows else first.new_zeros(0, 1)), answers


@torch.no_grad()
def compare(head: Head, full: States, press: States, tokens: Sequence[int]) -> Divergence:
    """What a press changes in the predictions of the tokens that were forced."""
    ids = torch.tensor(tokens, dtype=torch.int64, device=full.first.device)
    found = [divergence(full.first[None], press.first[None], ids[:1])]
    rows = max(1, _CHUNK // (8 * full.first.shape[0]))
    for start in range(0, len(tokens) - 1, rows):
        part = slice(start, start + rows)
        found.append(divergence(head.logits(full.rest[part]), head.logits(press.rest[part]), ids[1:][part]))
    return Divergence(*(tuple(value for one in found for value in getattr(one, name)) for name in MEASURES))
