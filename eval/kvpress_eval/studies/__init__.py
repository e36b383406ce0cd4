"""Studies: a sweep and what it was run to find out, each finding with its contrast, its interval and its controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ..errors import choose
from ..rows.parsing import read_rows
from ..rows.row import Row
from ..sweeps.grid import SweepConfig, load_sweep
from . import scbench_findings
from .finding import Finding
from .findings_text import render

__all__ = ["STUDIES", "Finding", "Study", "get_study"]


@dataclass(frozen=True)
class Study:
    """A sweep (a YAML file beside this one) and the questions put to its rows."""

    name: str
    about: str
    questions: Callable[[Sequence[Row]], list[Finding]]

    def sweep(self, overrides: Sequence[str] = ()) -> SweepConfig:
        """Its grid, with ``key=value`` overrides."""
        with resources.as_file(resources.files(__package__) / f"{self.name}.yaml") as path:
            return load_sweep(path, overrides)

    def report(self, results: Path, overrides: Sequence[str] = ()) -> str:
        """The findings as Markdown, from the rows of its cells in a folder.

        Raises:
            UsageError: where a cell that a finding needs has no finished row.
        """
        commands = {config.command() for config in self.sweep(overrides).cells()}
        rows = [row for row in read_rows(results)[0] if row.command in commands and row.ok and not row.twin]
        return render(self.name, self.about, rows, self.questions(rows), len(commands), overrides)


STUDIES: Mapping[str, Study] = {
    "scbench-findings": Study(
        "scbench-findings",
        "Five findings of SCBench (arXiv 2412.10319), asked of this model.",
        scbench_findings.findings,
    )
}


def get_study(name: str) -> Study:
    """The study called ``name``.

    Raises:
        UsageError: for an unknown name, with the nearest one.
    """
    return STUDIES[choose("study", name, STUDIES)]
