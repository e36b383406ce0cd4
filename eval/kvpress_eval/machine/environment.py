"""Where a row was measured: versions, commit, threads, and the peak of the process's memory."""

from __future__ import annotations

import ctypes
import gc
import platform
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

__all__ = ["Peak", "commit", "versions"]


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    import transformers

    import kvpress

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "kvpress": str(getattr(kvpress, "__version__", "unknown")),
    }


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The commit of the checkout this package runs from, ``+dirty`` with uncommitted code; None
    outside of one.
    """
    package = Path(__file__).parent
    head = _git(package, "rev-parse", "HEAD")
    if head is None:
        return None
    # results are written into the checkout too: only code makes it dirty
    changed = _git(package, "status", "--porcelain", "--", ":/kvpress", ":/eval", ":/pyproject.toml")
    return head + ("+dirty" if changed else "")


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@dataclass
class Peak:
    """Peak memory since :meth:`start`, above what was held then (the loaded model and little else).

    On CUDA: allocated bytes. On Linux: resident bytes; the kernel's high-water mark is reset, so
    that a cell does not inherit the peak of the one before. None where the platform cannot tell.
    """

    device: torch.device
    base: int | None = None

    def start(self) -> None:
        gc.collect(1)  # a full collection takes longer than a small cell's sessions
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            self.base = torch.cuda.memory_allocated(self.device)
            return
        _trim()
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self.base = _status("VmRSS")
        except OSError:
            self.base = None

    def read(self) -> tuple[int | None, str]:
        """(bytes, what they are)."""
        if self.base is None:
            return None, ""
        if self.device.type == "cuda":
            top = torch.cuda.max_memory_allocated(self.device)
            return max(0, top - self.base), "cuda allocated above model"
        high = _status("VmHWM")
        return (None, "") if high is None else (max(0, high - self.base), "rss above loaded model")


def _status(key: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(key + ":")]
    return int(found[0]) * 1024 if found else None


def _trim() -> None:
    """Give freed memory back, so that it does not hide the peak of what comes next."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return
