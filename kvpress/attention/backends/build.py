"""Compile cpu.c on first use with the compiler of this machine, and load it. Every failure is a reason, not an error.

The library goes to a folder of the user, under a name made of the source, the compiler and the processor, and is
moved into place in one step, so that processes that build at the same time do not see halves of it. Where that folder
cannot be written, the library is built into a fresh private folder and removed once it is loaded.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_SOURCE = Path(__file__).with_name("cpu.c")
_COMPILERS = ("cc", "gcc", "clang")
_SECONDS = 120
_lock = threading.Lock()


class Built(NamedTuple):
    """library: loaded, or None with the reason in `detail`; otherwise `detail` says how it was built."""

    library: ctypes.CDLL | None
    detail: str


def load() -> Built:
    """The compiled kernels of this process; builds them when needed (about a second, once per machine)."""
    with _lock:
        return _load()


@functools.cache
def _load() -> Built:
    try:
        source = _SOURCE.read_bytes()
        processor = _processor()
    except OSError as error:
        return Built(None, f"the kernel source cannot be read: {error}")
    problems = []
    for compiler in _compilers():
        for flags in _flags():
            try:
                return _one(compiler, flags, source, processor)
            except (OSError, subprocess.SubprocessError) as error:
                problems.append(f"{Path(compiler[0]).name} {' '.join(flags)}: {_last_line(error)}")
    return Built(None, problems[0] if problems else "no C compiler found")


def _compilers() -> Iterator[list[str]]:
    names = [os.environ["CC"]] if os.environ.get("CC") else list(_COMPILERS)
    for name in names:
        command = name.split()
        found = shutil.which(command[0]) if command else None
        if found:
            yield [found, *command[1:]]


def _flags() -> Iterator[list[str]]:
    """Best first: for this processor and on torch's own threads; then without either."""
    runtime = _openmp_runtime()
    for native in (["-march=native"], []):
        if runtime is not None:
            yield [*native, "-fopenmp", runtime]
        yield native


def _openmp_runtime() -> str | None:
    """The OpenMP library torch has loaded: a second one beside it would fight it for the cores."""
    if sys.platform != "linux":
        return None
    maps = Path("/proc/self/maps").read_text()
    found = re.findall(r"(/\S*/lib(?:gomp|iomp5|omp)[-\w]*\.so[.\d]*)$", maps, re.MULTILINE)
    return found[0] if found else None


def _processor() -> str:
    names = [platform.machine(), platform.processor()]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        wanted = ("model name", "flags", "Features", "CPU part")
        names += sorted({line for line in cpuinfo.read_text().splitlines() if line.startswith(wanted)})
    return "\n".join(names)


def _one(compiler: list[str], flags: list[str], source: bytes, processor: str) -> Built:
    version = subprocess.run([*compiler, "--version"], capture_output=True, timeout=_SECONDS, check=True).stdout
    parts = [source, " ".join([*compiler, *flags]).encode(), version, processor.encode()]
    name = f"cpu-{hashlib.sha256(b'|'.join(parts)).hexdigest()[:20]}.so"
    detail = f"{Path(compiler[0]).name} {' '.join(flag for flag in flags if flag.startswith('-'))}".strip()
    folder = _folder()
    if folder is not None:
        if not (folder / name).exists():
            _compile(compiler, flags, folder, name)
        return Built(ctypes.CDLL(str(folder / name)), f"{detail} in {folder}")
    with tempfile.TemporaryDirectory(prefix="kvpress-") as private:
        _compile(compiler, flags, Path(private), name)
        return Built(ctypes.CDLL(str(Path(private) / name)), f"{detail}, for this process only")


def _folder() -> Path | None:
    """A folder only this user writes to, or None."""
    try:
        base = os.environ.get("XDG_CACHE_HOME")
        folder = (Path(base) if base else Path.home() / ".cache") / "kvpress"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        info = folder.stat()
        mine = not hasattr(os, "getuid") or (info.st_uid == os.getuid() and not info.st_mode & 0o022)
        return folder if mine and os.access(folder, os.W_OK) else None
    except (OSError, RuntimeError):
        return None


def _compile(compiler: list[str], flags: list[str], folder: Path, name: str) -> None:
    with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as scratch:
        made, target = Path(scratch) / "cpu.o", Path(scratch) / name
        options = [flag for flag in flags if flag.startswith("-")]
        libraries = [flag for flag in flags if not flag.startswith("-")]
        for command in (
            [*options, "-O3", "-std=gnu11", "-fPIC", "-c", str(_SOURCE), "-o", str(made)],
            # Linked without -fopenmp, against the very runtime that is loaded.
            ["-shared", str(made), *libraries, *_WHOLE, "-lm", "-o", str(target)],
        ):
            subprocess.run([*compiler, *command], capture_output=True, timeout=_SECONDS, check=True)
        os.replace(target, folder / name)


# A symbol that is missing must fail the build, not the process.
_WHOLE = ["-Wl,-z,defs"] if sys.platform == "linux" else []


def _last_line(error: Exception) -> str:
    output = getattr(error, "stderr", None) or b""
    lines = [line for line in output.decode(errors="replace").splitlines() if "error" in line]
    return lines[0] if lines else str(error)
