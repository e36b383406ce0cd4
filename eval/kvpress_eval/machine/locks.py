"""Who runs which cell, when several sweeps share one folder: a dot file beside the row, held while the cell runs.

A lock names the process that holds it. On the same machine that process is looked for; a lock of another machine
counts as long as it is touched again and again. A lock whose holder is gone is broken. Where a file system cannot
keep two sweeps apart at all, a cell is run twice, which wastes time and damages nothing.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from .files import storage_errors
from .processes import Owner

__all__ = ["BEAT", "Locks", "lock_path"]

BEAT = 10.0
"""Seconds between two touches of a lock."""
PATIENCE = 6 * BEAT
"""Seconds without a touch, as watched by this process's own clock, after which another machine's lock is broken."""
OLD = 30 * BEAT
"""Seconds since the last touch, by the file's date, after which it is broken at once: clocks rarely differ more."""


def lock_path(row: Path) -> Path:
    """The lock of the cell whose row is (to be) ``row``."""
    return row.with_name(f".{row.stem}.lock")


class Locks:
    """The locks of one sweep. A context manager: leaving it gives all back."""

    def __init__(self) -> None:
        self._held: set[Path] = set()
        self._seen: dict[Path, tuple[int, float]] = {}  # others' locks: date of the file, when that was first seen
        self._token = uuid.uuid4().hex[:12]
        self._stop = threading.Event()
        self._beat: threading.Thread | None = None

    def __enter__(self) -> Locks:
        self._beat = threading.Thread(target=self._touch, daemon=True)
        self._beat.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._beat is not None:
            self._beat.join()
        for path in list(self._held):
            self._unlink(path)

    def take(self, row: Path) -> bool:
        """Lock the cell of ``row``; False where another living sweep has it.

        Raises:
            StorageError: where the lock cannot be written.
        """
        path = lock_path(row)
        with storage_errors("a lock", row.parent):
            row.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(3):
            if self._create(path):
                self._held.add(path)
                return True
            if self.held_by_other(row) or not self._break(path):
                return False
        return False

    def release(self, row: Path) -> None:
        """Give the cell of ``row`` back."""
        self._unlink(lock_path(row))

    def held_by_other(self, row: Path) -> bool:
        """Whether a living sweep holds the cell of ``row``."""
        path = lock_path(row)
        try:
            date, text = path.stat().st_mtime_ns, path.read_text(encoding="utf-8")
        except OSError:
            return False
        owner = _owner(text)
        alive = None if owner is None else owner.alive()
        if alive is not None:
            return alive
        seen = self._seen.get(path)
        if seen is None or seen[0] != date:
            seen = self._seen[path] = (date, time.monotonic())
        return time.monotonic() - seen[1] < PATIENCE and time.time() - date / 1e9 < OLD

    def clean(self, results: Path) -> None:
        """Remove the locks of processes of this machine that are gone."""
        for path in results.glob("*/.*.lock"):
            with suppress(OSError):
                owner = _owner(path.read_text(encoding="utf-8"))
                if owner is not None and owner.alive() is False:
                    self._break(path)

    def _create(self, path: Path) -> bool:
        """Make the file with its text in one step; False where it is there already."""
        me, now = Owner.me(), datetime.now(timezone.utc).isoformat(timespec="seconds")
        text = json.dumps({**asdict(me), "started": now, "token": self._token}).encode()
        with storage_errors("a lock", path.parent):
            whole = path.with_name(f".lock-{me.host}-{me.pid}-{self._token}.part")
            try:
                whole.write_bytes(text)
                try:
                    os.link(whole, path)  # fails where the name exists, and shows no reader an empty file
                except FileExistsError:
                    return False
                except OSError:  # a file system without links
                    return self._create_plainly(path, text)
                return True
            finally:
                whole.unlink(missing_ok=True)

    @staticmethod
    def _create_plainly(path: Path, text: bytes) -> bool:
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            os.write(handle, text)
        finally:
            os.close(handle)
        return True

    def _break(self, path: Path) -> bool:
        """Take a stale lock away; False where it turned out to be another's fresh one."""
        aside = path.with_name(f".broken-{Owner.me().host}-{os.getpid()}-{self._token}.part")
        try:
            stale = path.read_bytes()
            os.replace(path, aside)  # of two that break it, one gets it
            ours = aside.read_bytes() == stale
            if not ours:  # broken and locked anew between the two lines above: put it back
                with suppress(OSError):
                    os.link(aside, path)
            aside.unlink(missing_ok=True)
            return ours
        except FileNotFoundError:
            return True  # somebody else broke it; whoever creates it first has it

    def _unlink(self, path: Path) -> None:
        self._held.discard(path)
        with suppress(OSError):
            if self._token in path.read_text(encoding="utf-8"):
                path.unlink()

    def _touch(self) -> None:
        while not self._stop.wait(BEAT):
            for path in list(self._held):
                with suppress(OSError):
                    os.utime(path)


def _owner(text: str) -> Owner | None:
    try:
        data = json.loads(text)
        return Owner(str(data["host"]), int(data["pid"]), int(data["born"]))
    except (ValueError, KeyError, TypeError):
        return None
