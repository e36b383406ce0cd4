"""Signals that ask this process to stop: they unwind it as Ctrl-C does, so that locks are given back and workers end.

Imports the standard library only: it is in place before anything slow is imported.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stopped", "kept", "stoppable"]

_NAMES = ("SIGTERM", "SIGHUP")  # a job scheduler's, a service manager's, `timeout`'s; a terminal that is closed
_ASKING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """A signal asked this process to stop. As Ctrl-C is no `Exception`, nothing takes it for the fault of a cell."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def code(self) -> int:
        """The exit code that shells give it."""
        return 128 + self.number

    @property
    def word(self) -> str:
        """What happened, in a word."""
        return "terminated" if self.number == signal.SIGTERM else "hung up"


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


@contextmanager
def stoppable() -> Iterator[None]:
    """Let those signals raise `Stopped` in here; what handles or ignores one already (``nohup``) is left alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in _ASKING if signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def kept() -> Iterator[None]:
    """Around a library that puts handlers of its own in place of ours (Ray leaves the process with code 15)."""
    before = {number: signal.getsignal(number) for number in _ASKING}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None:  # None: not set from Python
                    signal.signal(number, handler)
