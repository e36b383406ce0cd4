"""The worker's side: keeps the model it loaded last, prepares cells and runs them."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from kvpress.errors import KVPressError

from ..errors import CellError
from ..rows.row import Row
from .work import ModelKey, Prepared, Work, model_key

if TYPE_CHECKING:
    from ..runs.loaded import Loaded

__all__ = ["Worker", "for_transport", "pin_threads"]


class Worker:
    """Does work with one model in memory at a time; ``tick`` is told the sessions done of a cell."""

    def __init__(self) -> None:
        self.tick: Callable[[int], None] | None = None
        self._loaded: tuple[ModelKey, Loaded] | None = None

    def do(self, work: Work) -> Row | Prepared | Exception:
        """The result of ``work``, or the mistake that was found in it.

        Raises:
            Exception: what is no :class:`KVPressError`, thus a fault of this program.
        """
        from ..runs.prepare import prepare, unbuilt
        from ..runs.runner import blank_row, run_cell

        try:
            loaded = self._model(work)
            cells, problems = [], list[CellError]()
            for config in work.configs:
                try:
                    cells.append(prepare(config, loaded))
                except CellError as error:
                    cells.append(unbuilt(config, loaded, error))
                    problems.append(error)
            if work.kind == "run":
                return run_cell(cells[0], self.tick)
            return Prepared(tuple(map(blank_row, cells)), loaded.solved, tuple(problems))
        except KVPressError as error:
            return error

    def _model(self, work: Work) -> Loaded:
        from ..runs.loaded import load

        key = model_key(work.config)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # freed before the next one is loaded
            self._loaded = (key, load(*key))
        loaded = self._loaded[1]
        loaded.solved.update(work.solved)
        return loaded


def for_transport(worker: Worker, work: Work) -> Row | Prepared | Exception:
    """As :meth:`Worker.do`, but a fault comes back as a RuntimeError with its traceback as text."""
    try:
        return worker.do(work)
    except Exception as error:
        return RuntimeError("in a worker:\n" + "".join(traceback.format_exception(error)))


def pin_threads(threads: int) -> None:
    """Let this process compute with ``threads`` threads; takes hold wholly only before torch is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    import torch

    torch.set_num_threads(threads)
