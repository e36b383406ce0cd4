"""Reports on result rows: a generated README, an offline page for each suite, and a summary in the terminal.

The same rows give the same bytes, so that `stale` can tell whether a committed report is fresh.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..machine.files import check_folder, write_all
from ..rows.analysis import analyse
from ..rows.claims import Analysis
from ..rows.parsing import Ignored, read_rows
from .answer_scripts import FOLDER, Told, is_script, scripts, told
from .gates import Gate, run_gates, tally
from .html import is_page, render_html
from .markdown import render_markdown
from .suite_names import pages

if TYPE_CHECKING:
    from ..machine.console import Console


@dataclass(frozen=True)
class ReportPaths:
    """What `write` wrote, and what it found: `ignored` are the files that are not rows.

    `pages` maps suites to their pages; `page` is the first, `index.html`. `deleted` are pages of suites without rows.
    """

    readme: Path
    page: Path
    pages: Mapping[str, Path]
    rows: int
    ignored: tuple[Ignored, ...]
    gates: tuple[Gate, ...]
    deleted: tuple[Path, ...]

    def __str__(self) -> str:
        found = f"{self.rows} rows, {len(self.ignored)} other files"
        more = "".join(f", {path.name}" for path in self.pages.values() if path != self.page)
        gone = f"; deleted, because no row is behind it: {', '.join(map(str, self.deleted))}" if self.deleted else ""
        return f"{self.readme} and {self.page}{more} ({found}; sanity gates: {tally(self.gates)}){gone}"


@dataclass(frozen=True)
class Findings:
    """What the rows of a folder say."""

    analysis: Analysis
    gates: tuple[Gate, ...]
    answers: Told = Told()


def read(results_dir: Path) -> Findings:
    """Read and analyse all `<model>/<run_id>.json` in `results_dir`.

    Raises:
        FileNotFoundError: `results_dir` is not a folder.
    """
    analysis = analyse(*read_rows(results_dir))
    return Findings(analysis, tuple(run_gates(analysis)), told(results_dir, analysis.rows))


def write(results: Path | Findings, out_dir: Path) -> ReportPaths:
    """Write `README.md`, `index.html` (SCBench, or the one suite there is), a page for each further suite, and a script
    in `answers/` for each row whose answers are there; delete the pages and scripts that an earlier report wrote of
    what has no rows now. All files are written, or none.

    Args:
        results: the folder with the rows, or what `read` found there. Files that are no rows are listed in the report.
        out_dir: created when missing; it may hold the rows.

    Raises:
        FileNotFoundError: `results` is not a folder.
        StorageError: nothing can be written into `out_dir`.
    """
    found = _findings(results)
    check_folder(out_dir, "--out")
    texts = _render(found, out_dir)
    files = [(out_dir / name, text) for name, text in texts.items()]
    write_all([(path, text.encode("utf-8")) for path, text in files if not _holds(path, text)])
    deleted = _left_over(out_dir, texts)
    for path in deleted:
        path.unlink()
    return ReportPaths(
        readme=out_dir / "README.md",
        page=out_dir / "index.html",
        pages={suite: out_dir / name for suite, name in pages(found.analysis.suites).items()},
        rows=len(found.analysis.runs),
        ignored=found.analysis.ignored,
        gates=found.gates,
        deleted=tuple(deleted),
    )


def stale(results: Path | Findings, out_dir: Path) -> list[Path]:
    """The files in `out_dir` that `write` would change or delete: empty when the report is fresh."""
    texts = _render(_findings(results), out_dir)
    changed = [out_dir / name for name, text in texts.items() if not _holds(out_dir / name, text)]
    return changed + _left_over(out_dir, texts)


def print_summary(results: Path | Findings, console: Console) -> None:
    """Print one table per model and length, modes side by side, and failed gates. Needs rich."""
    from .terminal import print_analysis

    found = _findings(results)
    print_analysis(found.analysis, found.gates, console)


def _findings(results: Path | Findings) -> Findings:
    return read(results) if isinstance(results, Path) else results


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode("utf-8")


def _left_over(out_dir: Path, names: Collection[str]) -> list[Path]:
    """Pages and scripts of answers of an earlier report that are not among `names`; other files are not ours."""
    old = [path for path in sorted(out_dir.glob("*.html")) if path.name not in names and is_page(path)]
    scripts = sorted((out_dir / FOLDER).glob("*.js"))
    return old + [path for path in scripts if f"{FOLDER}/{path.name}" not in names and is_script(path)]


def _methods(out_dir: Path) -> str:
    """Where the pages of the methods are, as seen from a report inside the same checkout; "" anywhere else."""
    checkout = Path(__file__).resolve().parents[3]
    docs, out = checkout / "docs" / "methods", out_dir.resolve()
    inside = out.is_relative_to(checkout) and docs.is_dir()
    return f"{Path(os.path.relpath(docs, out)).as_posix()}/" if inside else ""


def _render(found: Findings, out_dir: Path) -> dict[str, str]:
    names = pages(found.analysis.suites)
    texts = scripts(found.answers)  # they are there before a page names them
    texts["README.md"] = render_markdown(found.analysis, found.gates)
    for suite, name in names.items():
        analysis = found.analysis.of_suite(suite)
        texts[name] = render_html(analysis, run_gates(analysis), suite, names, found.answers, _methods(out_dir))
    return texts
