"""Where a layer stands between reading and compressing: the state machine of a press, without a tensor.

A prompt is read in one forward or in several; then the press is applied to it, once; then tokens are decoded, and what
they bring is evicted or packed step by step. Who says that a prompt is complete differs, and so does who waits for
whom. All of it is here; what is done then is in kvpress/pipeline/fire.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Reader(Enum):
    """Who reads, and hence who says that a prompt is complete.

    NOBODY: plain forwards; a prompt is complete when the first single token comes. WHOLE: a prompt is read in this one
    forward. CHUNK: whoever reads it applies the press later. LAST: as CHUNK, and this is the last chunk, or the press
    is applied after every one.
    """

    NOBODY = "nobody"
    WHOLE = "whole"
    CHUNK = "chunk"
    LAST = "last"

    @property
    def holds(self) -> bool:
        """A single token is a chunk of a prompt and no step of decoding, and the press does not fire by itself."""
        return self in (Reader.CHUNK, Reader.LAST)

    @property
    def eager(self) -> bool:
        """The press is applied in this forward, as soon as a layer's attention is computed."""
        return self in (Reader.WHOLE, Reader.LAST)

    @property
    def patient(self) -> Reader:
        """The same, with the press applied later: layers wait for each other."""
        return {Reader.WHOLE: Reader.NOBODY, Reader.LAST: Reader.CHUNK}.get(self, self)

    @property
    def released(self) -> Reader:
        """The same once the prompt is complete: a single token is a step of decoding again."""
        return {Reader.CHUNK: Reader.NOBODY, Reader.LAST: Reader.WHOLE}.get(self, self)


class Stage(Enum):
    """IDLE: nothing waits. WAITING: a prompt was read that the press has not been applied to. DUE: slots came that are
    to be evicted or packed.
    """

    IDLE = "idle"
    WAITING = "waiting"
    DUE = "due"


class Act(Enum):
    """What is to be done now: nothing, apply the press to a prompt (FIRE), or evict and pack what came (STEP)."""

    NOTHING = "nothing"
    FIRE = "fire"
    STEP = "step"


@dataclass
class Phase:
    """Of one layer. fired: how often the press was applied to a prompt. since: tokens decoded since slots were
    to be chosen."""

    stage: Stage = Stage.IDLE
    reader: Reader = Reader.NOBODY
    fired: int = 0
    since: int = 0

    @property
    def waits(self) -> bool:
        """A prompt was read that the press has not been applied to."""
        return self.stage is Stage.WAITING

    @property
    def may_fire(self) -> bool:
        """The press waits to be applied, and nobody holds it back."""
        return self.waits and not self.reader.holds

    def before(self, new: int) -> Act:
        """Before `new` tokens are stored: a single one that nobody reads as a prompt ends the prompt before it."""
        return Act.FIRE if new == 1 and self.may_fire else Act.NOTHING

    def reads(self, new: int) -> bool:
        """`new` tokens are (a part of) a prompt, and no step of decoding."""
        return new > 1 or self.fired == 0 or self.reader.holds

    def due(self, interval: int) -> bool:
        """Slots are to be chosen again, by a schedule that does so every `interval` tokens (0 = never)."""
        return 0 < interval <= self.since

    def after(self, new: int, again: bool, between: bool, alone: bool, ends: bool) -> Act:
        """After the attention of `new` tokens.

        again: slots are chosen at every prompt, not only at the first. between: a prompt is compressed between its
        chunks. alone: the press is applied to this layer without waiting for others. ends: what a decode step brings
        need not wait for the end of the forward.
        """
        if self.reads(new):
            chooses = self.waits or self.fired == 0 or again
            self.stage = Stage.WAITING if chooses else Stage.DUE if between else Stage.IDLE
            return self.act() if self.reader.eager and alone else Act.NOTHING
        self.since += new
        if self.waits:
            return Act.NOTHING
        self.stage = Stage.DUE
        return Act.STEP if ends else Act.NOTHING

    def act(self) -> Act:
        """What the stage asks for."""
        return {Stage.IDLE: Act.NOTHING, Stage.WAITING: Act.FIRE, Stage.DUE: Act.STEP}[self.stage]

    def done(self, fired: bool) -> None:
        """It was done; fired: the press was applied to a prompt."""
        self.fired += fired
        self.stage = Stage.IDLE
        self.since = 0 if fired else self.since
