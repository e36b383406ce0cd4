"""The result of a function in a process of its own, which inherits no memory of what was computed before."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

from kvpress.errors import KVPressError

from ..errors import UsageError
from ..machine.processes import killed_text

__all__ = ["in_fresh_process"]

Result = TypeVar("Result")


def in_fresh_process(problem: str, threads: int, function: Callable[..., Result], *arguments: Any) -> Result:
    """What ``function(*arguments)`` returns in a new process that computes with ``threads`` threads.

    Raises:
        UsageError: where it refuses with a KVPressError, or its process ends without a result; begins with ``problem``.
    """
    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_send, args=(theirs, threads, function, arguments), daemon=True)
    process.start()
    theirs.close()  # so that the end of the process is the end of the pipe
    try:
        result = ours.recv()
    except EOFError:
        process.join()
        raise UsageError(f"{problem}: its process {killed_text(process.exitcode)}") from None
    except BaseException:  # stopped while it computes
        process.kill()
        raise
    process.join()
    if isinstance(result, KVPressError):
        raise UsageError(f"{problem}: {result}")
    return result


def _send(pipe: Connection, threads: int, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(threads)
    try:
        pipe.send(function(*arguments))
    except KVPressError as error:
        pipe.send(error)
