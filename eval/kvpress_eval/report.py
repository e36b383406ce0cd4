"""Reports on result rows: a generated README, an offline page, and a summary in the terminal.

The same rows give the same bytes, so that `stale` can tell whether a committed report is fresh.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .page.analysis import analyse
from .page.claims import Analysis
from .page.gates import Gate, run_gates, tally
from .page.html import render_html
from .page.loading import Ignored, read_rows
from .page.markdown import render_markdown

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class ReportPaths:
    """What `write` wrote, and what it found: `ignored` are the files that are not rows."""

    readme: Path
    page: Path
    rows: int
    ignored: tuple[Ignored, ...]
    gates: tuple[Gate, ...]

    def __str__(self) -> str:
        found = f"{self.rows} rows, {len(self.ignored)} other files"
        return f"{self.readme} and {self.page} ({found}; sanity gates: {tally(self.gates)})"

    @property
    def gates_pass(self) -> bool:
        """Whether no sanity gate failed."""
        return not any(gate.failures for gate in self.gates)


def write(results_dir: Path, out_dir: Path) -> ReportPaths:
    """Read all `<model>/<run_id>.json` in `results_dir`, write `README.md` and `index.html`.

    Args:
        results_dir: the folder with the rows. Files that are no rows are listed in the report.
        out_dir: created when missing; it may hold `results_dir`.

    Raises:
        FileNotFoundError: `results_dir` is not a folder.
    """
    analysis, gates, texts = _render(results_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (out_dir / name).write_bytes(text.encode("utf-8"))
    return ReportPaths(
        readme=out_dir / "README.md",
        page=out_dir / "index.html",
        rows=len(analysis.rows),
        ignored=analysis.ignored,
        gates=tuple(gates),
    )


def stale(results_dir: Path, out_dir: Path) -> list[Path]:
    """The files in `out_dir` that `write` would change: empty when the report is fresh."""
    _, _, texts = _render(results_dir)
    paths = {out_dir / name: text.encode("utf-8") for name, text in texts.items()}
    return [path for path, text in paths.items() if not path.is_file() or path.read_bytes() != text]


def print_summary(results_dir: Path, console: Console) -> None:
    """Print one table per model and length, modes side by side, and failed gates. Needs rich."""
    from .page.terminal import print_analysis

    analysis = analyse(*read_rows(results_dir))
    print_analysis(analysis, run_gates(analysis), console)


def _render(results_dir: Path) -> tuple[Analysis, list[Gate], dict[str, str]]:
    analysis = analyse(*read_rows(results_dir))
    gates = run_gates(analysis)
    texts = {
        "README.md": render_markdown(analysis, gates),
        "index.html": render_html(analysis, gates),
    }
    return analysis, gates, texts
