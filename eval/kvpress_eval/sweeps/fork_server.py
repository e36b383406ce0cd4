"""The process that worker processes are made from.

On Linux one process imports torch and all the rest once, and workers are forks of it: seconds of importing are paid
once, beside those of the command itself where :func:`warm_up` is called first, and a worker that died is replaced at
once. It computes nothing and has no threads when it forks, nor CUDA. Elsewhere each worker is a process of its own.

Imports the standard library only, so that it can run before anything slow is imported.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context

from ..machine.threads import waiting

__all__ = ["METHOD", "inherited", "thread_variables", "warm_up"]

METHOD = "forkserver" if sys.platform == "linux" else "spawn"
_PRELOAD = ["kvpress_eval.sweeps.worker", "kvpress_eval.runs.runner", "transformers.models.llama.modeling_llama"]


def thread_variables(threads: int) -> dict[str, str]:
    """What a process must find in its environment to compute with ``threads`` threads that sleep while they wait."""
    return {**dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)), **waiting()}


def warm_up(threads: int) -> None:
    """Start the process that workers are forked from, without waiting for it. Again, or elsewhere: does nothing."""
    if METHOD == "forkserver":
        from multiprocessing.forkserver import ensure_running

        get_context(METHOD).set_forkserver_preload(_PRELOAD)
        # Python before 3.13 imports what is named here without this process's sys.path, and says nothing if it fails
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        with inherited({**thread_variables(threads), "PYTHONPATH": path}):
            ensure_running()


@contextmanager
def inherited(environment: Mapping[str, str]) -> Iterator[None]:
    """What a process started now finds: these variables, and a keyboard interrupt that it leaves to its parent."""
    before = {name: os.environ.get(name) for name in environment}
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if main:
            signal.signal(signal.SIGINT, handler)
