"""Where sessions come from: the project's generators, SCBench's data by its hub id, or files of the same schema."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Protocol

from ..errors import EpisodeError, UsageError
from ..suites import build, get_task
from ..suites.episode import Episode
from ..suites.session_length import asking
from . import data_files, hub_rows, sessions
from .episode_rows import is_stored
from .passage_cutting import check_texts, open_passages
from .passages import Passages
from .scbench_records import SCBENCH_TASKS, Record, record
from .wanted import Reader, Wanted

__all__ = ["GENERATED", "Passages", "Source", "Unread", "check_source", "find_sources", "open_source"]

GENERATED = "generated"
_KEPT = 1 << 28  # characters of contexts that are kept


class Source(Protocol):
    """The sessions of a cell. ``digest`` is a hash of data that was read, "" for sessions generated here; ``turns`` the
    most questions of a session; ``made`` whether this project's generators wrote them, so that guessing is known.
    """

    @property
    def digest(self) -> str: ...

    @property
    def turns(self) -> int: ...

    @property
    def made(self) -> bool: ...

    def __len__(self) -> int: ...

    def episode(self, session: int) -> Episode:
        """The episode of a session.

        Raises:
            UsageError: where it does not fit the length, or the model cannot read it.
        """


def check_source(config: Wanted) -> None:
    """Check what a configuration says of its source, without loading anything.

    Raises:
        UsageError: for a source that is not there, or options that mean nothing for it.
    """
    source = config.source
    if get_task(config.task).kind == "continuation":
        check_texts(config)
        return
    if source == GENERATED:
        if config.prompts == "reference":
            raise UsageError("prompts 'reference' are those of SCBench's data; give it with --source")
        return
    for name, default in (("seed", 0), ("depth", -1)):
        if getattr(config, name) != default:
            raise UsageError(
                f"{name} is for generated sessions; those of source {source!r} are what they are: leave it out"
            )
    if not data_files.is_local(source):
        if config.task not in SCBENCH_TASKS:
            raise UsageError(f"source {source!r} has no task {config.task!r}; choose from {', '.join(SCBENCH_TASKS)}")
    else:
        data_files.find(source, config.task)


def find_sources(configs: Sequence[Wanted]) -> None:
    """Say before anything slow is imported that the data of a cell are neither here nor to be had from the hub.

    Raises:
        UsageError: for the first of them.
    """
    for source in dict.fromkeys(config.source for config in configs):
        if source != GENERATED and not data_files.is_local(source):
            asked = dict.fromkeys((config.task, config.continues) for config in configs if config.source == source)
            hub_rows.find(source, [task for task, continues in asked if not continues])


def open_source(config: Wanted, loaded: Reader) -> Source:
    """The source of a cell. Episodes are kept in ``loaded``: every press asks the same ones.

    Raises:
        UsageError: for data that cannot be read, or a row that does not keep the schema.
    """
    if config.continues:
        return open_passages(config, loaded)
    if config.source == GENERATED:
        return _Generated(config, loaded)
    return _Recorded(config, loaded, _read(config.source, config.task, config.sessions, _turns(config)))


def _turns(config: Wanted) -> int:
    """Questions of a session; who asks has put the usual number in place of none."""
    assert config.turns is not None
    return config.turns


@dataclass(frozen=True)
class _Generated:
    config: Wanted
    loaded: Reader
    digest: str = ""
    made: bool = True

    @property
    def turns(self) -> int:
        return _turns(self.config)

    def __len__(self) -> int:
        return self.config.sessions

    def episode(self, session: int) -> Episode:
        config, prompter = self.config, self.loaded.prompter
        key = (config.task, config.length, config.turns, config.seed, config.depth, session)
        if key not in self.loaded.episodes:
            depth = None if config.depth < 0 else config.depth / 100
            request = asking(prompter, config.task, config.length, self.turns, config.seed, session, depth)
            _keep(self.loaded, key, build(request))
        return self.loaded.episodes[key]


@dataclass(frozen=True)
class Unread:
    """The source of a cell that cannot be built: what is known of it without its sessions."""

    config: Wanted
    digest: str = ""
    made: bool = False

    @property
    def turns(self) -> int:
        return _turns(self.config)

    def __len__(self) -> int:
        return self.config.sessions

    def episode(self, session: int) -> Episode:
        raise EpisodeError(f"session {session} of task {self.config.task!r} cannot be built")


@dataclass(frozen=True)
class _Recorded:
    config: Wanted
    loaded: Reader
    data: _Data

    @property
    def digest(self) -> str:
        return self.data.digest

    @property
    def turns(self) -> int:
        return max(len(record.questions) for record in self.data.records)

    @property
    def made(self) -> bool:
        return all(map(is_stored, self.data.records))

    def __len__(self) -> int:
        return len(self.data.records)

    def episode(self, session: int) -> Episode:
        config = self.config
        # the corrected prompts are the same in both modes
        form = (config.mode, config.history) if config.prompts == "reference" else ()
        key = (config.task, config.length, config.turns, self.digest, config.prompts, form, session)
        if key not in self.loaded.episodes:
            records, known = self.data.records, self.data.pools
            made = sessions.episode(config, self.loaded.prompter, records, session, known)
            _keep(self.loaded, key, replace(made, key=f"{_name(config.source)}/{records[session].id}"))
        return self.loaded.episodes[key]


def _keep(loaded: Reader, key: tuple[object, ...], episode: Episode) -> None:
    """Keep an episode for the presses to come, the oldest making room for it."""
    kept = loaded.episodes
    kept[key] = episode
    held = sum(len(other.context) for other in kept.values())
    while held > _KEPT and len(kept) > 1:
        oldest = next(iter(kept))
        held -= len(kept.pop(oldest).context)


def _name(source: str) -> str:
    """A source without the folders above it, which are those of one machine."""
    return Path(source).expanduser().resolve().name if data_files.is_local(source) else source


@dataclass(frozen=True)
class _Data:
    """Records of a task, the functions that their answers are compared with, and a hash of all."""

    records: tuple[Record, ...]
    pools: sessions.Pools
    digest: str


@lru_cache(maxsize=2)
def _read(source: str, task: str, most: int, turns: int) -> _Data:
    """The first ``most`` records of a task. Nothing after them is read."""
    found: list[Record] = []
    seen: set[str] = set()
    for position, (where, row) in enumerate(islice(_rows(source, task), most)):
        made = record(task, row, position, where, turns)
        # two rows of one id are two sessions
        made = replace(made, id=f"{made.id}.{position}") if made.id in seen else made
        seen.add(made.id)
        found.append(made)
    if not found:
        raise UsageError(f"source {source!r} holds no rows of task {task!r}; expected at least one")
    digest = hashlib.sha256(" ".join(made.digest for made in found).encode()).hexdigest()[:16]
    return _Data(tuple(found), sessions.pools(found), digest)


def _rows(source: str, task: str) -> Iterator[data_files.Located]:
    if not data_files.is_local(source):
        return hub_rows.rows(source, task)
    return data_files.read(data_files.find(source, task))
