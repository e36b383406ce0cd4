"""The reports that the tests look at, on the rows of `made.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.eval.report import made


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up sweep on disk, with files among it that are no rows."""
    folder = made.write_rows(tmp_path_factory.mktemp("sweep") / "results", made.sweep())
    made.spoil(folder)
    return folder


@pytest.fixture(scope="session")
def report(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The report on the sweep, written once."""
    from kvpress_eval.report.generate import write

    return write(results, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="session")
def suite_report(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The report on `suites`, with a hostile name in every place that a row may name, written once."""
    from kvpress_eval.report.generate import write

    rows = made.suites()
    bad = made.make_row("full", "kv", suite="ruler", model=made.HOSTILE, origin=made.HOSTILE, scorer=made.HOSTILE)
    rows.append(
        made.failed({**bad, "run_id": "bad", "task": made.HOSTILE, "subtasks": {made.HOSTILE: 0.5}}, made.HOSTILE)
    )
    return write(made.write_rows(tmp_path_factory.mktemp("suites") / "r", rows), tmp_path_factory.mktemp("suites-out"))
