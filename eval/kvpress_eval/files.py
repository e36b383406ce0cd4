"""Files that several processes write into one folder: whole or not there, and owned by somebody who can be asked for.

Names that start with a dot are no results; whoever reads rows passes them over.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import StorageError

__all__ = ["Owner", "clean_parts", "host", "storage_errors", "write_all", "write_whole"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DAY = 86400.0
_PART = re.compile(r"\.[^-]+-(?P<host>.*)-(?P<pid>\d+)-[^-]+\.part")


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


@contextmanager
def storage_errors(what: str, folder: Path) -> Iterator[None]:
    """Turn "no space left" of the operating system into one line that says what to do.

    Raises:
        StorageError: instead of an OSError that says that there is no room.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StorageError(
            f"cannot write {what} in {folder}: {error.strerror}; rows already there are whole and are kept. Make room "
            "(or raise the limit), then run the same command again: it goes on from there"
        ) from error


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the whole new one, also after a power cut.

    Raises:
        StorageError: where there is no room for it.
    """
    write_all([(path, text.encode("utf-8"))])


def write_all(files: Sequence[tuple[Path, bytes]]) -> None:
    """Write files as :func:`write_whole` does. All of them are on the disk before the first gets its name; names are
    given in order, so that a later file is never there without the earlier ones.

    Raises:
        StorageError: where there is no room for one of them; then none was written.
    """
    parts: list[Path] = []
    new = list[Path]()
    try:
        for path, data in files:
            with storage_errors(path.name, path.parent):
                if not path.parent.is_dir():
                    new.append(path.parent)
                path.parent.mkdir(parents=True, exist_ok=True)
                parts.append(_part(path, data))
        for part, (path, _) in zip(parts, files, strict=True):
            with storage_errors(path.name, path.parent):
                os.replace(part, path)
                # the new name is on the disk only when the folder that holds it is; before the next one gets its name
                _sync(path.parent)
    except BaseException:
        for part in parts:
            part.unlink(missing_ok=True)
        raise
    for folder in new:
        _sync(folder.parent)


def _part(path: Path, data: bytes) -> Path:
    """The file under a name of its own, on the disk."""
    # .part: if this process is killed here, no reader of *.json takes the file for a row
    prefix = f".{path.stem.replace('-', '_')}-{host()}-{os.getpid()}-"
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp makes files that only their owner can read
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def _sync(folder: Path) -> None:
    with suppress(OSError):  # not every file system (and not Windows) lets a folder be synced
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def clean_parts(results: Path) -> int:
    """Remove what processes that were killed while writing have left, and answers whose row is gone; how many files.

    A file of a process that runs, or that runs on another machine since less than a day, stays; so do answers that
    are younger, as their row may be about to be written.
    """
    removed = 0
    for path in results.glob("*/*.answers.jsonl.gz"):
        row = path.with_name(path.name.removesuffix(".answers.jsonl.gz") + ".json")
        with suppress(OSError):
            if not row.exists() and time.time() - path.stat().st_mtime > _DAY:
                path.unlink()
                removed += 1
    for path in results.glob("*/.*.part"):
        named = _PART.fullmatch(path.name)
        alive = None
        if named and int(named["pid"]) != os.getpid():
            alive = Owner(named["host"], int(named["pid"])).alive()
        elif named and named["host"] == host():
            alive = False  # our number, but nothing of ours is being written when this is called
        with suppress(OSError):
            if alive is False or (alive is None and time.time() - path.stat().st_mtime > _DAY):
                path.unlink()
                removed += 1
    return removed
