"""Processes: who one is, so that it can be asked for later, and how one ended."""

from __future__ import annotations

import os
import re
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Owner", "host", "killed_text"]


def host() -> str:
    """This machine's name, as file names can hold it. A container that has the name of its machine but processes of its
    own is another machine: ids of processes mean nothing across the two.
    """
    name = re.sub(r"[^A-Za-z0-9._]+", "_", socket.gethostname()) or "unknown"
    try:
        return f"{name}.{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # not Linux
        return name


@dataclass(frozen=True)
class Owner:
    """A process: machine, id, and when it was started (a kernel's count; 0 where the platform does not tell)."""

    host: str
    pid: int
    born: int = 0

    @classmethod
    def me(cls) -> Owner:
        return cls(host(), os.getpid(), _born(os.getpid()))

    def alive(self) -> bool | None:
        """Whether it runs; None where that cannot be seen from here (another machine's)."""
        if self.host != host():
            return None
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except OSError:  # another user's
            pass
        # a later process may have got the same number
        return not (self.born and _born(self.pid) not in (0, self.born))


def _born(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def killed_text(exit_code: int | None) -> str:
    """What an exit code of a process says about its end."""
    if exit_code is None or exit_code >= 0:
        return f"left with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
