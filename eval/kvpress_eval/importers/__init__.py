"""Results of other harnesses as rows of ours, marked with where they come from.

What another harness did not measure (bytes, times, peak memory) is null in the row, never derived from a
ratio. Scores stay those of its answers: recomputed by our scorers where the files hold the answers in a form
they read (SCBench), as they were given where not (NVIDIA's kvpress).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UsageError, choose
from ..machine.files import check_folder
from ..rows.row import Row
from ..rows.row_faults import RowError
from ..rows.row_files import load_row, row_path, write_row
from . import nvidia, peer, scbench_results
from .imported_rows import Found, Skipped

__all__ = ["KINDS", "Imported", "Skipped", "import_results"]

KINDS: dict[str, Callable[[Path], Iterator[Found | Skipped]]] = {
    "nvidia": nvidia.read,
    "scbench": scbench_results.read,
    "peer": peer.read,
}
"""Which layouts can be read."""


@dataclass
class Imported:
    """What became of a folder: the rows by what happened to their files, and what was left out and why."""

    new: list[Row] = field(default_factory=list)
    replaced: list[Row] = field(default_factory=list)
    same: list[Row] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        """Every row that is in the results folder now."""
        return [*self.new, *self.replaced, *self.same]


def import_results(kind: str, folder: Path, into: Path) -> Imported:
    """Write a row for every result under ``folder`` that can be read; importing again changes nothing.

    A row's id is made of its settings, as everywhere: new results of the same settings replace the old.

    Args:
        kind: ``nvidia``, ``scbench`` or ``peer``.
        folder: one result folder, or a folder of them.
        into: folder of rows.

    Raises:
        UsageError: for an unknown kind, or a folder that is not there.
        StorageError: where nothing can be written, or there is no room.
    """
    read = KINDS[choose("kind of results", kind, KINDS)]
    if not folder.is_dir():
        raise UsageError(f"no such folder: {folder}; give the folder that the other harness wrote its results to")
    check_folder(into, "--into")
    done = Imported()
    sources: dict[str, str] = {}
    for found in read(folder):
        if isinstance(found, Skipped):
            done.skipped.append(found)
            continue
        row = found.row
        if row.run_id in sources:
            done.skipped.append(Skipped(found.path, f"the same settings as {sources[row.run_id]}, which was taken"))
            continue
        try:
            row = Row.from_dict(row.to_dict())  # a row that no report could show is worse than none
        except RowError as error:
            done.skipped.append(Skipped(found.path, error.fault))
            continue
        sources[row.run_id] = found.path
        before = load_row(row_path(into, row.model, row.run_id))
        if before == row:
            done.same.append(row)
            continue
        write_row(row, into)
        (done.new if before is None else done.replaced).append(row)
    return done
