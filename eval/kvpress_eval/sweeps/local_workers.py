"""Worker processes on this machine, each with its share of the cores.

A worker that dies loses its cell only, which a fresh one gets. A worker whose sweep dies ends by itself. Worth it for
small models on a CPU, where one cell cannot keep all cores busy; times in the rows are then those of a busy machine,
and ``threads`` in a row says how many each process had.
"""

from __future__ import annotations

import math
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..machine.processes import killed_text
from ..machine.threads import threads_text
from ..runs.config import RunConfig
from .fork_server import METHOD, inherited, thread_variables, warm_up
from .launch_options import worker_threads
from .work import RETRIES, Died, Done, Launcher, Take, Work

__all__ = ["Local", "gpus_of"]


class Local(Launcher):
    """``jobs`` processes of our own, started when this object is made.

    Args:
        jobs: processes.
        threads: of each; 0: an equal share of the cores.
        gpus: of each, as CUDA counts them; a fraction shares one. 0: every process sees all.
        retries: how often the work of a worker that died is given to another.

    Raises:
        UsageError: where there are fewer GPUs than one worker needs.
    """

    def __init__(self, jobs: int, threads: int = 0, gpus: float = 0.0, retries: int = RETRIES) -> None:
        self.slots, self.retries = jobs, retries
        self.threads = threads or worker_threads("local", jobs, 0, 0.0)
        self._gpus = gpus_of(jobs, gpus, _visible_gpus()) if gpus else [None] * jobs
        warm_up(self.threads)
        self._seats = [_Seat(self._environment(number)) for number in range(jobs)]

    def _environment(self, number: int) -> dict[str, str]:
        threads = thread_variables(self.threads)
        gpus = self._gpus[number]
        return threads if gpus is None else {**threads, "CUDA_VISIBLE_DEVICES": gpus}

    def told(self) -> str:
        return threads_text(self.threads, self.slots)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [int(seat.process.pid) for seat in self._seats]

    def run(self, take: Take, tick: Callable[[int], None] | None = None) -> Iterator[Done]:
        again: deque[tuple[Work, int]] = deque()  # with the number of workers that died of it
        while True:
            for seat in self._seats:
                if seat.work is None:
                    fresh = None if again else take(seat.last)
                    if again:
                        seat.give(*again.popleft())
                    elif fresh is not None:
                        seat.give(fresh, 0)
            busy = {seat.pipe: seat for seat in self._seats if seat.work is not None}
            if not busy:
                return
            for pipe in wait(list(busy)):
                seat = busy[pipe]
                work, deaths = seat.done()
                try:
                    yield Done(work, seat.pipe.recv())
                except (EOFError, OSError):
                    reason = seat.renew()
                    if deaths < self.retries:
                        again.append((work, deaths + 1))
                    else:
                        yield Done(work, Died(f"the worker {reason}, {deaths + 1} times one after the other"))

    def close(self) -> None:
        for seat in self._seats:
            seat.end()


class _Seat:
    """A place for one worker process at a time."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.work: Work | None = None
        self.last: RunConfig | None = None
        self.deaths = 0
        self._start()

    def _start(self) -> None:
        context: Any = get_context(METHOD)  # the two kinds of context share no type that has Process
        self.pipe, theirs = context.Pipe()
        with inherited(self.environment):  # a fork has the environment of what it is forked from: told by argument
            self.process = context.Process(target=_serve, args=(theirs, dict(os.environ)), daemon=True)
            self.process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        self.last = None

    def give(self, work: Work, deaths: int) -> None:
        self.work, self.deaths = work, deaths
        with suppress(OSError):  # a worker that died while idle: found by reading, as any other
            self.pipe.send(work)

    def done(self) -> tuple[Work, int]:
        work, self.work = self.work, None
        assert work is not None
        self.last = work.config
        return work, self.deaths

    def renew(self) -> str:
        """Start a new process in the place of one that died; says how that one ended."""
        self.pipe.close()
        self.process.join(5)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        reason = killed_text(self.process.exitcode)
        self._start()
        return reason

    def end(self) -> None:
        self.pipe.close()
        self.process.kill()  # it writes no files, so there is nothing to wait for
        self.process.join()


def _serve(pipe: Connection, environment: Mapping[str, str]) -> None:
    """What a worker process does: work from the pipe until the pipe ends."""
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    with suppress(OSError):  # where memory ends, a worker goes before the sweep that can replace it
        Path("/proc/self/oom_score_adj").write_text("500")
    from ..models.quiet import be_quiet
    from .worker import Worker, for_transport, pin_threads

    pin_threads(int(os.environ["OMP_NUM_THREADS"]))
    be_quiet()
    worker = Worker()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            work: Work = pipe.recv()
            pipe.send(for_transport(worker, work))


def _leave_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _visible_gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def gpus_of(jobs: int, share: float, visible: Sequence[str]) -> list[str | None]:
    """``CUDA_VISIBLE_DEVICES`` of each of ``jobs`` workers with ``share`` of the ``visible`` GPUs each.

    Raises:
        UsageError: where they do not suffice.
    """
    each = math.ceil(share)
    places = len(visible) // each * (1 if share >= 1 else int(1 / share))
    if jobs > places:
        raise UsageError(
            f"{jobs} jobs with {share:g} GPUs each need more than the {len(visible)} here; use --jobs {places}"
            if places
            else f"--gpus-per-cell {share:g} needs {each} GPUs, here are {len(visible)}; leave it out, or use ray"
        )
    groups = [",".join(visible[start : start + each]) for start in range(0, len(visible) - each + 1, each)]
    return [groups[job % len(groups)] for job in range(jobs)]
