"""Files that several processes write into one folder: whole or not there.

Names that start with a dot are no results; whoever reads rows passes them over.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import StorageError
from .processes import host

__all__ = ["PART", "check_folder", "storage_errors", "write_all", "write_out", "write_whole"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PART = re.compile(r"\.[^-]+-(?P<host>.*)-(?P<pid>\d+)-[^-]+\.part")
"""The name of a file while it is written, which says by whom: see `_part`."""


@contextmanager
def storage_errors(what: str, folder: Path) -> Iterator[None]:
    """Turn what the operating system says of a file into one line that says what to do.

    Raises:
        StorageError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            advice = "rows already there are whole and are kept. Make room (or raise the limit), then run the same "
            advice += "command again: it goes on from there"
        else:
            advice = "what is there is kept. Name another place, or see to it that this one can be written"
        told = error.strerror or " ".join(str(error).split())
        raise StorageError(f"cannot write {_near(what)} in {_near(folder)}: {told}; {advice}") from error


def check_folder(folder: Path, option: str) -> None:
    """Say before any work that nothing could be written into ``folder``, which may be still to be made.

    Args:
        option: what names it on the command line, for the message.

    Raises:
        StorageError: where it, or a folder above it, is a file, a link to nothing, or may not be written.
    """
    place = folder.expanduser().absolute()
    try:
        while not _there(place):
            place = place.parent
        if place.is_dir():
            problem = "" if os.access(place, os.W_OK | os.X_OK) else "may not be written"
            if not problem and place != folder.expanduser().absolute():
                problem = _no_folders(place)
        else:
            problem = "is a file, not a folder" if place.exists() else "is a link that leads nowhere"
    except OSError as error:  # a name that is too long, a folder that may not be searched
        problem = f"cannot be used: {error.strerror}"
    if problem:
        raise StorageError(f"cannot write into {_near(folder)}: {_near(place)} {problem}; name a folder with {option}")


def _no_folders(place: Path) -> str:
    """Why no folder can be made in one that may be written, as in ``/proc``; "" where one can. The folder that is tried
    has a name of its own: another process may be making the one that is asked for.
    """
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".kvpress-", suffix=".part", dir=place))
    except OSError as error:
        return f"takes no new folder ({error.strerror})"
    return ""


def _there(place: Path) -> bool:
    """Whether there is anything of this name, a link to nothing included. Raises OSError for what cannot be a name."""
    try:
        place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _near(path: object) -> str:
    text = str(path)
    return text if len(text) <= 90 else f"{text[:60]}...{text[-25:]}"


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the whole new one, also after a power cut.

    Raises:
        StorageError: where there is no room for it.
    """
    write_all([(path, text.encode("utf-8"))])


def write_out(path: Path, text: str) -> None:
    """Write a file that somebody named: as :func:`write_whole` does, but into what is no plain file (``/dev/stdout``).

    Raises:
        StorageError: where it cannot be written.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        with storage_errors(path.name, path.parent):
            path.write_text(text, encoding="utf-8")
    else:
        write_whole(path, text)


def write_all(files: Sequence[tuple[Path, bytes]]) -> None:
    """Write files as :func:`write_whole` does. All of them are on the disk before the first gets its name; names are
    given in order, so that a later file is never there without the earlier ones.

    Raises:
        StorageError: where there is no room for one of them; then none was written.
    """
    files = [(path.resolve() if path.is_symlink() else path, data) for path, data in files]
    parts: list[Path] = []
    new = list[Path]()
    try:
        for path, data in files:
            with storage_errors(path.name, path.parent):
                if path.is_dir():  # seen before the first name is given
                    raise IsADirectoryError(errno.EISDIR, "a folder has this name")
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
