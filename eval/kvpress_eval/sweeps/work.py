"""What a launcher is: it does pieces of work somewhere, several at a time, and hands the results back as they come.

Work reads no results folder and writes none: the sweep that launches it does, so that workers may be killed any time
and need not share a disk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import CellError
from ..machine.threads import threads_text
from ..rows.row import Row
from ..runs.config import RunConfig

if TYPE_CHECKING:
    from types import TracebackType

    from ..runs.loaded import Solutions

__all__ = [
    "RETRIES",
    "Died",
    "Done",
    "Launcher",
    "ModelKey",
    "Prepared",
    "Take",
    "Work",
    "model_key",
]

RETRIES = 2
"""How often the work of a worker that died is given to another one."""

ModelKey = tuple[str, str, str, str, str]


def model_key(config: RunConfig) -> ModelKey:
    """What makes two cells use the same loaded model."""
    return (config.model, config.device, config.dtype, config.attn, config.chat)


@dataclass(frozen=True)
class Work:
    """Cells of one model to prepare, or one prepared cell to run.

    ``solved`` are presses already found for an amount of bytes, so that no worker looks for them again.
    """

    kind: str
    configs: tuple[RunConfig, ...]
    solved: Solutions = field(default_factory=dict)

    @property
    def config(self) -> RunConfig:
        """The first cell: of a run the only one."""
        return self.configs[0]


@dataclass(frozen=True)
class Prepared:
    """Checked cells: a row without results for each, the presses that were solved for bytes, and why cells cannot be
    built, each of which has a failed row.
    """

    rows: tuple[Row, ...]
    solved: Solutions
    problems: tuple[CellError, ...] = ()


@dataclass(frozen=True)
class Died:
    """The workers that had this work died, one after the other, without an answer."""

    reason: str


@dataclass(frozen=True)
class Done:
    """A piece of work and what came of it. An exception is what the work raised."""

    work: Work
    result: Row | Prepared | Died | Exception


Take = Callable[["RunConfig | None"], "Work | None"]
"""Gives the next piece of work to a worker that did a cell like the one named last; None: nothing now."""


class Launcher(ABC):
    """Does work in some place. A context manager: leaving it ends what still runs, quickly and without results.

    Attributes:
        slots: pieces of work that run at the same time (as far as is known before they run).
    """

    slots: int

    @abstractmethod
    def run(self, take: Take, tick: Callable[[int], None] | None = None) -> Iterator[Done]:
        """Do what ``take`` gives until it gives nothing and nothing runs any more, in the order of completion.

        ``take`` is asked again after each result. ``tick`` is told the sessions done of a cell that runs in this
        process.
        """

    def told(self) -> str:
        """How cells are computed, in a line."""
        import torch

        return threads_text(torch.get_num_threads())

    @abstractmethod
    def close(self) -> None:
        """End what runs and free what is held."""

    def __enter__(self) -> Launcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
