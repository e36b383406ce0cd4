"""The answers of rows as files beside a page: a script each, which the page loads when somebody opens it.

A browser lets no page from the file system read another file, but load a script. Each one holds the compressed file of
a row's answers as base64, so that nothing that a model said is ever part of a script.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UsageError
from ..rows.answers import read_answers
from ..rows.row import Row
from ..rows.row_files import answers_path

__all__ = ["FOLDER", "Told", "is_script", "scripts", "told"]

FOLDER = "answers"
_MARK = "// answers of a row of a kvpress report\n"


@dataclass(frozen=True)
class Told:
    """The answers that are there: `names` maps the hash that a row has of its answers to the name of their script, of
    which `files` has the compressed file.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)

    def name(self, row: Row | None) -> str | None:
        """The script of a row's answers, None where it has none, or they are gone or damaged."""
        return self.names.get(str(row.answers.get("sha256", ""))) if row is not None else None


def told(results: Path, rows: Iterable[Row]) -> Told:
    """The whole answers of rows in a folder; those that are gone or damaged are left out."""
    names: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for row in rows:
        digest = str(row.answers.get("sha256", ""))
        if row.twin or not digest or digest in names:
            continue
        try:
            data = read_answers(answers_path(results / row.path), row.answers)[1]
        except (OSError, UsageError):
            continue
        # the id of a row comes from a file of results: no path, and no script over another
        wanted = name = re.sub(r"[^A-Za-z0-9_-]+", "-", row.run_id)[:80].strip("-") or "row"
        number = 1
        while wanted.lower() in files:
            number += 1
            wanted = f"{name}-{number}"
        names[digest], files[wanted.lower()] = wanted.lower(), data
    return Told(names, files)


def scripts(found: Told) -> dict[str, str]:
    """The script of each row by its path beside the page; it puts base64 where the page looks for it."""
    return {
        f"{FOLDER}/{name}.js": f"{_MARK}(window.kvpressAnswers ||= {{}})[{json.dumps(name)}] = "
        f'"{base64.b64encode(data).decode("ascii")}";\n'
        for name, data in found.files.items()
    }


def is_script(path: Path) -> bool:
    """Whether a file is a script that `scripts` made; False for what cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MARK)) == _MARK.encode("ascii")
    except OSError:
        return False
