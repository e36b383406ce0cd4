"""What processes that were killed while writing have left in a folder of rows."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from ..machine.files import PART
from ..machine.processes import Owner, host
from ..rows.row_files import is_row

__all__ = ["clean_parts"]

_DAY = 86400.0


def clean_parts(results: Path) -> int:
    """Remove what processes that were killed while writing have left, and answers whose row is gone; how many files.

    A file of a process that runs, or that runs on another machine since less than a day, stays; so do answers that
    are younger, as their row may be about to be written.
    """
    removed = 0
    for path in results.glob("*/*.answers.jsonl.gz"):
        row = path.with_name(path.name.removesuffix(".answers.jsonl.gz") + ".json")
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _DAY and not is_row(row):
                path.unlink()
                removed += 1
    for path in results.glob("*/.*.part"):
        named = PART.fullmatch(path.name)
        alive = None
        if named and int(named["pid"]) != os.getpid():
            alive = Owner(named["host"], int(named["pid"])).alive()
        elif named and named["host"] == host():
            alive = False  # our number, but nothing of ours is being written when this is called
        with suppress(OSError):
            if alive is False or (alive is None and time.time() - path.stat().st_mtime > _DAY):
                path.unlink()
                removed += 1
    return removed
