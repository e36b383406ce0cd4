"""What the layers of one cache share, and which thread works on it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch import Tensor

from kvpress.errors import SessionError
from kvpress.evidence.premise import Survey
from kvpress.evidence.repetition import Repetition
from kvpress.pipeline.meter import Meter


@dataclass(frozen=True)
class Reading:
    """A prompt that is read in chunks, with the press applied after each.

    lengths: (B,) int64 real tokens of each row when it is complete, which budgets are taken from. chooses: slots are
    chosen at this prompt; otherwise (a later one, by the schedule) they are only packed.
    """

    lengths: Tensor
    chooses: bool


L = TypeVar("L")


@dataclass
class State(Generic[L]):
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
    layers: list[L] = field(default_factory=list)
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
