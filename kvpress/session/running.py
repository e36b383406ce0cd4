"""Which forwards of a pressed model run, and in which threads: threads do not see each other's forwards."""

from __future__ import annotations

import sys
import threading

import torch

from kvpress.cache.cache import PressCache


class Call(threading.local):
    """What the calling thread does with the model; every thread has its own.

    module: whose forward was called, the outermost one, and the cache of that forward. chunked: how `generate` reads
    its prompt, while it does, and `read`, the cache it reads into.
    """

    module: torch.nn.Module | None = None
    cache: PressCache | None = None
    chunked: bool | None = None
    read: PressCache | None = None


class Gate:
    """Forwards go in and come out; leaving a press waits for those of other threads and keeps new ones waiting."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._inside: dict[threading.Thread, int] = {}
        self._open, self._closing = True, False

    def enter(self) -> bool:
        """A forward of this thread begins; False where the press was left, so that it runs without."""
        me = threading.current_thread()
        with self._changed:
            while self._closing and me not in self._inside:
                self._changed.wait()
            if self._open:
                self._inside[me] = self._inside.get(me, 0) + 1
            return self._open

    def leave(self) -> None:
        """A forward of this thread has ended."""
        with self._changed:
            me = threading.current_thread()
            left = self._inside.pop(me, 1) - 1
            if left > 0:
                self._inside[me] = left
            self._changed.notify_all()

    def forget(self) -> None:
        """No forward of this thread runs, whatever was noted: one was broken off by an interrupt."""
        with self._changed:
            self._inside.pop(threading.current_thread(), None)

    def close(self) -> None:
        """Wait for forwards of other threads, then keep all of them out until `release`."""
        with self._changed:
            self._closing = True
            while self._others():
                self._changed.wait(0.1)  # a thread that dies in a forward does not say so

    def release(self) -> None:
        """Whoever waits may go on; there is no press any more."""
        with self._changed:
            self._open = self._closing = False
            self._changed.notify_all()

    def _others(self) -> bool:
        return any(thread.is_alive() for thread in self._inside if thread is not threading.current_thread())


def runs(module: torch.nn.Module) -> bool:
    """Whether a method of `module` is among the callers of this function."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_locals.get("self") is module:
            return True
    return False
