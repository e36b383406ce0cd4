"""Wheels through pip: the user's own settings say which index is asked, and how."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from kvpress.errors import short

from ..errors import StorageError, UsageError

__all__ = ["download"]

_LOOK = 0.2  # seconds between two looks at how much has come
_UNREACHABLE = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|Max retries exceeded"
    r"|Failed to establish|Connection (broken|refused|reset)|IncompleteRead|Network is unreachable|Retrying \(Retry"
)
_IGNORED = re.compile(r"repository located at (\S+) is not a trusted or secure host and is being ignored")
_NOT_FOUND = re.compile(r"No matching distribution found|Could not find a version")


def download(wheels: Sequence[str], folder: Path, progress: Callable[[int], None]) -> None:
    """Have pip put wheels (``name==version``) into ``folder``, without what they depend on.

    Args:
        progress: told from time to time how many bytes are there.

    Raises:
        UsageError: where pip is missing, the index cannot be reached or does not have them.
        StorageError: where there is no room for them.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--only-binary", ":all:"]
    command += ["--progress-bar", "off", "--dest", str(folder), *wheels]
    # pip's own temporary files come here too: seen by the progress bar, and gone with the folder
    env = {"PIP_RETRIES": "1", **os.environ, "TMPDIR": str(folder), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    pip = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )
    lines: deque[str] = deque(maxlen=200)
    reader = threading.Thread(target=lines.extend, args=(pip.stdout,), daemon=True)
    reader.start()
    try:
        while True:
            try:
                pip.wait(_LOOK)
                break
            except subprocess.TimeoutExpired:
                progress(_size(folder))
    finally:
        _stop(pip)
        reader.join(timeout=5)
    if pip.returncode:
        raise _problem(list(lines), wheels, folder)
    progress(_size(folder))


def _stop(pip: subprocess.Popen[str]) -> None:
    """End pip where it still runs; it must not write into a folder that is being removed."""
    if pip.poll() is None:
        pip.terminate()
        try:
            pip.wait(5)
        except subprocess.TimeoutExpired:
            pip.kill()
            pip.wait()


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # pip moves and removes files meanwhile
                total += os.stat(os.path.join(root, name)).st_size
    return total


def _problem(lines: list[str], wheels: Sequence[str], folder: Path) -> UsageError | StorageError:
    text = "\n".join(lines)
    if "No module named pip" in text:
        return UsageError(
            f"{wheels[0]} is fetched with pip, which this Python does not have; run `{sys.executable} -m ensurepip`"
        )
    if "[Errno 28]" in text or "[Errno 122]" in text:
        return StorageError(
            f"no room for {wheels[0]} in {folder.parent}; nothing half-written is kept. Make room, or set KVPRESS_HOME "
            "to another disk"
        )
    if _UNREACHABLE.search(text):
        return UsageError(
            f"cannot reach the package index for {wheels[0]}; nothing was changed. Check the network, a proxy, and "
            "what `pip config list` says, then try again"
        )
    if _NOT_FOUND.search(text) and (ignored := _IGNORED.search(text)):
        host = short(ignored[1], 60)
        return UsageError(
            f"pip ignored the package index at {host}, which is asked over plain http, and found {wheels[0]} nowhere "
            f"else; nothing was changed. Give its https address, or set PIP_TRUSTED_HOST={host} if you trust it"
        )
    if _NOT_FOUND.search(text):
        return UsageError(
            f"the package index does not have {wheels[0]}; check which one pip is told to ask (`pip config list`)"
        )
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["no output"]
    return UsageError(f"pip could not fetch {wheels[0]}: {' '.join(errors[-1].split())[:150]}; nothing was changed")
