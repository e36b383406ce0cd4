"""Real text to be continued: what every Python holds, files of the user's, rows of a data set.

A genre is a stream of documents, in an order that a seed fixes. The library's texts are those of the Python that
runs this, so that another version may give others: rows say the version, and the ids of their passages hold a hash.
"""

from __future__ import annotations

import ast
import inspect
import random
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import UsageError
from ..suites.texts.stdlib_code import modules, source
from . import data_files, hub_rows

__all__ = ["LIBRARY", "Document", "library", "of_files", "of_source"]

Document = tuple[str, str]
"""A name, and the text."""

_TABLES = re.compile(r"^(encodings/|pydoc_data/|.*_sysconfigdata|html/entities|.*/_?generated|msilib/|unicodedata)")
_FIELDS = ("text", "content", "document", "article")
_PART = 1 << 20  # characters of a document: a longer text is several
_READ = 1 << 26  # characters of a data set that are looked at
_SHORT = 400  # characters: nothing worth reading


def _reference(rng: random.Random) -> Iterator[Document]:
    from pydoc_data.topics import topics

    for name in rng.sample(sorted(topics), len(topics)):
        yield name, topics[name].strip() + "\n"


def _modules(rng: random.Random) -> Iterator[Document]:
    known = [name for name in modules() if not _TABLES.match(name)]  # a table of characters is no code
    for name in rng.sample(known, len(known)):
        if text := source(name):
            yield name, text


def _docstrings(rng: random.Random) -> Iterator[Document]:
    for name, text in _modules(rng):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # odd escapes in old modules
                found = list(_of_module(name, ast.parse(text)))
        except (SyntaxError, ValueError, RecursionError):
            continue
        yield name, "\n\n\n".join(found) + "\n"


def _of_module(name: str, tree: ast.Module) -> Iterator[str]:
    """Each docstring under the name of what it is of, in the order of the source."""
    own = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    stack: list[tuple[str, ast.AST]] = [(own, tree)]
    named = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    while stack:
        where, node = stack.pop()
        if isinstance(node, (ast.Module, *named)):
            text = ast.get_docstring(node, clean=False)
            if text:
                yield f"{where}\n\n{inspect.cleandoc(text)}"
            below = [child for child in node.body if isinstance(child, named)]
            stack += [(f"{where}.{child.name}", child) for child in reversed(below)]


LIBRARY = {"lm_reference": _reference, "lm_code": _modules, "lm_docstrings": _docstrings}


def library(task: str, rng: random.Random) -> Iterator[Document]:
    """The documents of a genre that every Python holds."""
    return (one for one in LIBRARY[task](rng) if len(one[1]) >= _SHORT)


def of_files(paths: Sequence[str], rng: random.Random) -> Iterator[Document]:
    """The user's files in random order; one of more than a million characters is several documents.

    Raises:
        UsageError: for a file that is not there or not UTF-8 text.
    """
    found: list[Document] = []
    for path in paths:
        try:
            text = Path(path).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            told = " ".join(str(error).split())[:150]
            raise UsageError(f"cannot read {path}: {told}; give --text files of UTF-8 text") from None
        parts = _parts(text)
        found += [(f"{Path(path).name} {i}" if len(parts) > 1 else Path(path).name, p) for i, p in enumerate(parts)]
    return iter(rng.sample(found, len(found)))


def _parts(text: str) -> list[str]:
    parts = []
    while len(text) > _PART:
        end = text.rfind("\n", 0, _PART) + 1 or _PART
        parts.append(text[:end])
        text = text[end:]
    return [*parts, text]


def of_source(source: str, rng: random.Random, enough: int) -> Iterator[Document]:
    """The texts of a data set's rows in random order: of the hub, or JSONL and parquet files with a field ``text``.

    Neighbouring rows are one document until they have ``enough`` characters: in some sets a row is a line.

    Raises:
        UsageError: where it cannot be had, or has no text.
    """
    rows = (
        data_files.read(data_files.find(source, "lm_text")) if data_files.is_local(source) else hub_rows.texts(source)
    )
    found: list[Document] = []
    read, parts, since = 0, list[str](), 0
    for number, text in enumerate(_texts(rows, source), 1):
        parts.append(text)
        if sum(map(len, parts)) >= enough:
            found += [(f"row {since + 1}", part) for part in _parts("\n".join(parts))]
            parts, since = [], number
        read += len(text)
        if read > _READ:
            break
    if parts:
        found.append((f"row {since + 1}", "\n".join(parts)))
    return iter(rng.sample(found, len(found)))


def _texts(rows: Iterable[data_files.Located], source: str) -> Iterator[str]:
    field = ""
    for where, row in rows:
        if not field:
            strings = [name for name, value in row.items() if isinstance(value, str)]
            usual = [name for name in _FIELDS if name in strings]
            field = usual[0] if usual else strings[0] if len(strings) == 1 else ""
        value = row.get(field)
        if not isinstance(value, str):
            raise UsageError(f"{where} of {source} has no text; expected a field text, it has {', '.join(row)[:80]}")
        yield value
