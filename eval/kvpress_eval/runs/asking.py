"""Asking the questions of one episode: both shared-context modes, greedy, an explicit schedule.

Multi-turn: context and first question are fed, later turns follow. Answers are decoded on a fork
that is then thrown away (gold history: the gold answer is fed instead) or kept (own history).
Multi-request: the context is fed alone and compressed, every question is answered from a fork of
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kvpress.cache.storages import storages
from kvpress.session.report import kept_all

from ..machine.clock import Clock
from ..suites.prompt import Prompt
from .config import RunConfig
from .evidence_places import share_kept
from .gold_logprobs import Forced, forced
from .life import step_bytes

if TYPE_CHECKING:
    from kvpress import PressCache, Session

__all__ = ["Answers", "ask", "greedy", "measure"]


@dataclass
class Answers:
    """What came out of one session; ids without the stop token, times in seconds.

    ``stopped[t]`` is False where the limit ended answer t. ``first_s`` is the time to the first
    answer token, ``decode_s`` / ``steps`` the time and number of the decoding steps after the first
    tokens. Bytes are those of the cache right after the first compression (without one: after the
    first prompt). ``read_tokens`` were read in ``prefill_s``; ``forks`` copies took ``fork_s``. For each answer
    ``step_bytes`` is what a decoding step reads of the cache, ``decode_lengths`` the tokens seen by then.
    ``session_bytes`` is the most that one session held with an answer, ``fired`` how often the press was applied.
    ``golds[t]`` says how likely the gold answer to question t was where the model answered it, None without one;
    ``kept[t]`` how much was left there of the slots of its evidence (see ``share_kept``).
    """

    ids: list[list[int]] = field(default_factory=list)
    stopped: list[bool] = field(default_factory=list)
    prefill_s: float = 0.0
    first_s: float = 0.0
    decode_s: float = 0.0
    steps: int = 0
    nbytes: int = 0
    dense_nbytes: int = 0
    kept_all: bool = False
    by_kind: dict[str, int] = field(default_factory=dict)
    logical: int = 0
    read_tokens: int = 0
    forks: int = 0
    fork_s: float = 0.0
    step_bytes: list[int] = field(default_factory=list)
    decode_lengths: list[int] = field(default_factory=list)
    session_bytes: int = 0
    fired: int = 0
    golds: list[Forced | None] = field(default_factory=list)
    kept: list[float | None] = field(default_factory=list)


@dataclass
class _Asking:
    """The fixed surroundings of a session."""

    model: Any
    session: Session
    config: RunConfig
    stops: frozenset[int]
    max_new: Sequence[int]
    evidence: Sequence[Sequence[int]] = ()
    answers: Answers = field(default_factory=Answers)

    def feed(self, ids: Sequence[int], cache: PressCache | None, compress: bool) -> PressCache:
        row = torch.tensor([ids], device=self.model.device, dtype=torch.int64)
        chunk = self.config.chunk or None
        return self.session.prefill(row, cache=cache, chunk=chunk, compress=compress)

    @property
    def continuous(self) -> bool:
        """The press evicts at every step, so later prompts are compressed too."""
        return bool(self.session.press.recipe.schedule.interval)

    def fork(self, cache: PressCache, rows: int = 1) -> PressCache:
        """A copy to answer on, timed."""
        clock = Clock(self.model.device)
        fork = cache.fork(rows=rows) if rows > 1 else cache.fork()
        self.answers.forks += 1
        self.answers.fork_s += clock.seconds()
        return fork

    def before_decoding(self, cache: PressCache, rows: int = 1) -> None:
        """What a step will read, and how much of its evidence is left, per answer of the batch."""
        asked = len(self.answers.kept)
        self.answers.kept += share_kept(cache, [*self.evidence, *[()] * (asked + rows)][asked : asked + rows])
        self.answers.step_bytes += [step_bytes(cache) // rows] * rows
        self.answers.decode_lengths += [int(cache.get_seq_length())] * rows

    def force(self, cache: PressCache, logits: Tensor, golds: Sequence[Sequence[int]], mask: Tensor | None) -> None:
        """How likely the gold answers are, on a copy that is thrown away; in no time that is counted."""
        self.answers.golds += forced(self.model, cache.fork(), logits, golds, mask)

    def after_decoding(self, cache: PressCache) -> None:
        """What the session holds with this answer, how often the press was applied by now, and whether in vain."""
        self.answers.kept_all = self.answers.kept_all and kept_all(cache)
        self.answers.session_bytes = max(self.answers.session_bytes, cache.nbytes())
        self.answers.fired = max([self.answers.fired, *(layer.fired for layer in cache.stores)])


def measure(answers: Answers, cache: PressCache) -> None:
    """Bytes from the ledger, compared with every storage that the cache keeps alive.

    Raises:
        RuntimeError: where the ledger does not count them all.
    """
    answers.by_kind = dict(cache.ledger().by_kind())
    answers.nbytes, answers.dense_nbytes = cache.nbytes(), cache.dense_nbytes()
    answers.logical = int(cache.get_seq_length())
    answers.kept_all = kept_all(cache)
    claimed, held = sum(answers.by_kind.values()), sum(storages(cache).values())
    if not claimed == answers.nbytes == held:
        raise RuntimeError(f"claimed bytes {claimed}, in all {answers.nbytes}, are not the {held} held")


def ask(
    model: Any,
    session: Session,
    prompt: Prompt,
    config: RunConfig,
    stops: frozenset[int],
    max_new: Sequence[int],
    batch: int,
    evidence: Sequence[Sequence[int]] = (),
) -> Answers:
    """Answers to every question of ``prompt``, in its order.

    Args:
        session: the press's session, entered on ``model``.
        max_new: tokens each answer may have, its stop token included.
        batch: questions answered at once in multi-request mode.
        evidence: for each question the numbers of the prompt's tokens that hold its answer, where they are known.
    """
    asking = _Asking(model, session, config, stops, max_new, evidence)
    with torch.no_grad():
        if config.mode == "multi-turn":
            _multi_turn(asking, prompt)
        else:
            _multi_request(asking, prompt, batch)
    return asking.answers


def _multi_turn(asking: _Asking, prompt: Prompt) -> None:
    answers, schedule = asking.answers, asking.config.schedule
    clock = Clock(asking.model.device)
    if schedule == "after_context":
        cache = asking.feed(prompt.context, None, compress=True)
        answers.prefill_s = clock.seconds()
        measure(answers, cache)
        clock = Clock(asking.model.device)  # counting bytes is not part of the wait
        cache = asking.feed(prompt.questions[0], cache, compress=asking.continuous)
    else:
        cache = asking.feed([*prompt.context, *prompt.questions[0]], None, compress=True)
    before = answers.prefill_s
    answers.prefill_s, answers.read_tokens = before + clock.seconds(), int(cache.get_seq_length())
    first_token = int(_first_tokens(cache)[0, 0])
    answers.first_s = before + clock.seconds()
    if schedule != "after_context":
        measure(answers, cache)

    pending: list[int] = []
    for t in range(len(prompt.questions)):
        if t:
            again = schedule == "every_turn_prompt" or asking.continuous
            cache = asking.feed([*pending, *prompt.questions[t]], cache, compress=again)
            first_token = int(_first_tokens(cache)[0, 0])
        logits = cache.next_logits
        assert logits is not None
        fork = asking.fork(cache)
        asking.before_decoding(fork)
        asking.force(fork, logits, prompt.golds[t : t + 1], None)
        first = torch.tensor([[first_token]], device=asking.model.device, dtype=torch.int64)
        new, stopped = _decode(asking, fork, first, asking.max_new[t : t + 1])
        asking.after_decoding(fork)
        answers.ids += new
        answers.stopped += stopped
        if asking.config.history == "own":
            # the last token of an answer cut short is known but not yet fed
            cache, pending = fork, [] if stopped[0] else new[0][-1:]
        else:
            pending = prompt.golds[t]


def _multi_request(asking: _Asking, prompt: Prompt, batch: int) -> None:
    answers, device = asking.answers, asking.model.device
    clock = Clock(device)
    cache = asking.feed(prompt.context, None, compress=True)
    answers.prefill_s, answers.read_tokens = clock.seconds(), int(cache.get_seq_length())
    measure(answers, cache)
    for start in range(0, len(prompt.alone), batch):
        clock = Clock(device)
        questions = prompt.alone[start : start + batch]
        fork = asking.fork(cache, len(questions))
        ids, mask = _left_padded(questions, cache.get_seq_length(), device)
        fork = asking.session.prefill(ids, attention_mask=mask, cache=fork, compress=asking.continuous)
        first = _first_tokens(fork)
        if start == 0:
            answers.first_s = answers.prefill_s + clock.seconds()
        asking.before_decoding(fork, len(questions))
        assert fork.next_logits is not None
        asking.force(fork, fork.next_logits, prompt.golds[start : start + batch], mask)
        new, stopped = _decode(asking, fork, first, asking.max_new[start : start + batch], mask)
        if len(questions) == 1:
            asking.after_decoding(fork)
        else:  # rows share the prefix
            alone = fork.fork(rows=torch.tensor([0], device=device, dtype=torch.int64))
            asking.after_decoding(alone)
        answers.ids += new
        answers.stopped += stopped


def _first_tokens(cache: PressCache) -> Tensor:
    assert cache.next_logits is not None
    return cache.next_logits.argmax(-1, keepdim=True)


def _left_padded(questions: list[list[int]], past: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Ids (R, q) and mask (R, past + q) of questions after ``past`` tokens; None where none is
    padded.
    """
    width = max(len(ids) for ids in questions)
    pads = [width - len(ids) for ids in questions]
    # a padding id is never attended, so any id will do
    rows = [[ids[0]] * pad + ids for ids, pad in zip(questions, pads, strict=True)]
    if not any(pads):
        return torch.tensor(rows, device=device, dtype=torch.int64), None
    mask = torch.ones(len(questions), past + width, dtype=torch.long, device=device)
    for row, pad in enumerate(pads):
        mask[row, past : past + pad] = 0
    return torch.tensor(rows, device=device, dtype=torch.int64), mask


def _decode(
    asking: _Asking, cache: PressCache, first: Tensor, max_new: Sequence[int], mask: Tensor | None = None
) -> tuple[list[list[int]], list[bool]]:
    clock = Clock(asking.model.device)
    new, stopped, steps = greedy(asking.model, cache, first, max_new, asking.stops, mask)
    if steps:
        asking.answers.decode_s += clock.seconds()
        asking.answers.steps += steps
    return new, stopped


def greedy(
    forward: Callable[..., Any],
    cache: Any,
    first: Tensor,
    max_new: Sequence[int],
    stops: frozenset[int],
    mask: Tensor | None = None,
) -> tuple[list[list[int]], list[bool], int]:
    """Greedy answers of R rows, after the first token of each is known.

    Args:
        forward: a causal LM.
        cache: its cache, without ``first``; updated in place.
        first: (R, 1) first tokens.
        max_new: most tokens of each row's answer, the stop token included.
        mask: (R, logical length) of what is in the cache, for padded rows; positions follow it.

    Returns:
        Ids of each row without the stop token, whether it stopped by itself, and the number of
        forward passes.
    """
    rows = first.shape[0]
    answers: list[list[int]] = [[] for _ in range(rows)]
    stopped = [False] * rows
    token, steps = first, 0
    while True:
        for row, value in enumerate(token[:, 0].tolist()):
            if not stopped[row] and steps < max_new[row]:
                stopped[row] = value in stops
                if not stopped[row]:
                    answers[row].append(value)
        if all(done or steps + 1 >= most for done, most in zip(stopped, max_new, strict=True)):
            return answers, stopped, steps
        options: dict[str, Tensor] = {}
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(rows, 1)], dim=1)
            options = {"attention_mask": mask, "position_ids": mask.sum(1, keepdim=True) - 1}
        out = forward(input_ids=token, past_key_values=cache, **options)
        token = out.logits[:, -1].argmax(-1, keepdim=True)
        steps += 1
