"""Rows of a dataset of the Hugging Face hub with SCBench's configurations (``scbench_<task>``)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..machine import hub
from .data_files import Located

__all__ = ["SCBENCH", "find", "rows", "texts"]

SCBENCH = "microsoft/SCBench"
REVISION = "283310bb8c5ba6909dd9a6b1be087d2937f76f6d"  # of SCBENCH: 922 rows, split "test"


def find(source: str, tasks: Sequence[str]) -> None:
    """Say within seconds, and without ``datasets``, that a data set is neither here nor to be had.

    Args:
        source: as for :func:`rows`, or, without tasks, as for :func:`texts`.

    Raises:
        UsageError: where nothing of it is here and the hub cannot be reached, or is not to be asked.
    """
    name, _, given = (SCBENCH if source == "scbench" else source).partition(":")
    configs = [f"scbench_{task}" for task in tasks] or [given]
    lacking = [config for config in configs if not _cached(name, config)]
    if not lacking:
        return
    missing = f"cannot load {f'{lacking[0]} of ' if lacking[0] else ''}{name}: it is not here"
    advice = f"download {lacking[0]}.jsonl and name its folder with --source" if tasks else "give files with --text"
    hub.check_reachable(name, "README.md", missing, advice, "dataset")


def _cached(name: str, config: str) -> bool:
    """Whether ``datasets`` keeps a copy of a configuration ("" = of any), by the folder that it would look for."""
    from huggingface_hub import constants

    place = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME, "datasets")).expanduser()
    owner, _, own = name.rpartition("/")
    folder = place / "___".join(filter(None, (owner, _snake(own))))
    # <configuration>/<version>/<hash>; a configuration with files or options of its own is <configuration>-<more>
    found = [path.parent.parent.name for path in folder.glob("*/*/*") if path.is_dir()]
    return any(not config or held == config or held.startswith(f"{config}-") for held in found)


def _snake(name: str) -> str:
    """A name as ``datasets`` writes it in that folder."""
    return re.sub(r"([a-z\d])([A-Z])", r"\1_\2", re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)).lower()


def rows(source: str, task: str) -> Iterator[Located]:
    """The rows of a task, read from the local copy that ``datasets`` keeps after the first download.

    Args:
        source: ``scbench`` (a pinned revision of it) or the id of another dataset.

    Raises:
        UsageError: where it can be had neither from the hub nor from that copy.
    """
    name = SCBENCH if source == "scbench" else source
    config = f"scbench_{task}"
    for number, row in enumerate(_load(name, config), 1):
        yield f"{name} {config}, row {number}", row


def _load(name: str, config: str) -> Any:
    from datasets import load_dataset

    revision = REVISION if name == SCBENCH else None
    try:
        try:
            return load_dataset(name, config, split="test", revision=revision)
        except ValueError as error:
            if "split" not in str(error):
                raise
            return load_dataset(name, config, split="train", revision=revision)
    except Exception as error:  # the hub, the network and the files in between fail in many ways
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(
            f"cannot load {config} of {name} ({type(error).__name__}: {told}); connect once so that datasets keeps a "
            f"copy, or download {config}.jsonl and name its folder with --source"
        ) from None


def texts(source: str) -> Iterator[Located]:
    """The rows of a data set of texts, its test split where it has one.

    Args:
        source: its id, with a configuration where it has several: ``owner/name:configuration``.

    Raises:
        UsageError: where it can be had neither from the hub nor from the local copy.
    """
    from datasets import load_dataset

    name, _, config = source.partition(":")
    splits = ("test", "validation", "train")
    for split in splits:
        try:
            found = load_dataset(name, config or None, split=split)
        except Exception as error:  # as above
            told = " ".join(str(error).split())[:200] or type(error).__name__
            if "split" in told and split != splits[-1]:
                continue
            raise UsageError(
                f"cannot load {source} ({type(error).__name__}: {told}); connect once so that datasets keeps a copy, "
                "name a configuration (owner/name:configuration), or give files with --text"
            ) from None
        return ((f"{source}, row {number}", row) for number, row in enumerate(found, 1))
    raise AssertionError("the last split returns or raises")
