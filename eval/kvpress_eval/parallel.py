"""Several cells at once, each in a process of its own with its share of the cores.

Worth it for small models on a CPU, where one cell cannot keep all cores busy. Times in the rows are then those of a
busy machine; ``threads`` in a row says how many each process had.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from .config import RunConfig
from .rows import Row

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    from .models import Loaded, Solutions

__all__ = ["run_parallel"]

_stop: Event | None = None
_loaded: dict[tuple[str, ...], Loaded] = {}
_solved: Solutions = {}


def run_parallel(
    configs: Sequence[RunConfig], results: Path, jobs: int, solved: Solutions
) -> Iterator[tuple[RunConfig, Row, Path]]:
    """Run cells of one model in ``jobs`` processes and yield each as it is done; rows are written by the processes.

    ``solved`` are its presses found for an amount of bytes, so that no process looks for them again.

    On ``KeyboardInterrupt`` the processes stop after the session they are at, without a row.
    """
    context = get_context("spawn")
    stop = context.Event()
    threads = max(1, _cores() // jobs)
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start, initargs=(stop, threads, solved))
    try:
        waiting = {pool.submit(_work, config, results): config for config in configs}
        for done in as_completed(waiting):
            row, path = done.result()
            yield waiting[done], row, path
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(stop: Event, threads: int, solved: Solutions) -> None:
    # the parent decides what an interrupt means; without this every process would print a traceback
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch
    from transformers.utils import logging

    global _stop
    _stop = stop
    _solved.update(solved)
    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _work(config: RunConfig, results: Path) -> tuple[Row, Path]:
    from .models import load
    from .rows import write_row
    from .runner import prepare, run_cell

    _check_stop(0)
    key = (config.model, config.device, config.dtype, config.attn, config.chat)
    if key not in _loaded:
        _loaded.clear()  # one model at a time
        _loaded[key] = load(*key)
        _loaded[key].solved.update(_solved)
    row = run_cell(prepare(config, _loaded[key]), _check_stop)
    return row, write_row(row, results)


class _Stopped(BaseException):
    """The sweep was interrupted; no Exception, so that it does not become a failed row."""


def _check_stop(sessions_done: int) -> None:
    if _stop is not None and _stop.is_set():
        raise _Stopped
