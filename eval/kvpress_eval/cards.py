"""A page for each method: what it does, where it deviates, what checks it, what it scored. Written from the code.

python -m kvpress_eval.cards            write docs/methods/
python -m kvpress_eval.cards --check    exit code 1 where a page is not what the code and the rows say
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from kvpress.press import PRESETS, Press
from kvpress.variants import UNSETTLED

from .page.analysis import analyse
from .page.claims import Analysis, dtype_of
from .page.loading import read_rows
from .page.markdown import code
from .page.numbers import percent, points

OUT = Path("docs/methods")
RESULTS = Path("leaderboards/results")
_FIELDS = ("paper", "idea", "formula", "cost", "deviates")
_DECISIONS = ("scorer", "refine", "heads", "layers", "channels", "sharer", "key")
_HEADINGS = {"paper": "Paper", "idea": "Idea", "formula": "Formula", "cost": "Cost", "deviates": "Deviates"}


def bases() -> list[str]:
    """Presses that have a page: every preset that is not a variant, and is a method (not the full cache)."""
    return [name for name in PRESETS if "@" not in name and name != "full"]


def module_of(name: str) -> str:
    """The module whose head describes a press."""
    build = PRESETS[name].build
    if build.__module__ != "kvpress.presets":
        return build.__module__
    decisions = PRESETS[name]().parts[0].decisions()
    return next(type(decisions[kind]).__module__ for kind in _DECISIONS if kind in decisions)


def header(module: str) -> dict[str, str]:
    """The five fields at the head of a method's file, and its first line as "title".

    Raises ValueError for a field that is missing.
    """
    lines = (import_module(module).__doc__ or "").splitlines()
    found = {"title": lines[0].rstrip(".") if lines else ""}
    last = ""
    for line in lines[1:]:
        word = line.split(" ", 1)[0]
        if word in _FIELDS:
            last = word
            found[last] = line[len(word) :].strip()
        elif last and line.startswith(" "):
            found[last] += " " + line.strip()
    if missing := [name for name in _FIELDS if name not in found]:
        raise ValueError(f"the head of {module} lacks: {', '.join(missing)}")
    return found


def card(name: str, analysis: Analysis, tests: Mapping[str, str]) -> str:
    """The page of one press, Markdown. tests: file -> what it says it checks."""
    module = module_of(name)
    about = header(module)
    lines = [f"# `{name}`", "", f"{about['title']}.", ""]
    lines += [f"- **{_HEADINGS[field]}**: {about[field]}" for field in _FIELDS]
    lines += ["", "## Presets", "| press | what it is |", "|---|---|"]
    for variant in (n for n in PRESETS if n.split("@")[0] == name):
        preset = PRESETS[variant]
        lines.append(f"| {code(preset().spec())} | {preset.summary} |")
    if name in UNSETTLED:
        lines += ["", f"There is no `{name}@paper`: {UNSETTLED[name]}."]
    lines += ["", "## Checked by", "The contract tests in `tests/contracts/`, alone and composed, and:"]
    lines += [f"- `{path}`: {what}" for path, what in tests.items()] or ["- nothing of its own"]
    lines += ["", "## On the bundled model", *_scores(name, analysis)]
    lines += ["", "## Reproducible here"]
    lines += [
        "That this is the method, by the checks above, and the scores above. The papers' own figures need models and"
    ]
    lines += ["data that this repository does not hold: not reproduced here."]
    return "\n".join(lines) + "\n"


def _scores(name: str, analysis: Analysis) -> list[str]:
    rows = []
    for table in analysis.tables:
        for cell in analysis.macros(table):
            if name in {part.name.split("@")[0] for part in Press.parse(cell.method.asked).parts}:
                dtype = dtype_of(table, analysis.tables)
                where = f"{table.model}, {table.length:,}, {table.mode}" + (f", {dtype}" if dtype else "")
                figures = percent(cell.bytes_ratio), points(cell.score.mean), points(cell.first), points(cell.later)
                rows.append(f"| {code(cell.method.name)} | {where} | {' | '.join(figures)} |")
    if not rows:
        return ["No committed row measures it yet."]
    head = ["| press | where | bytes/dense | score | first turn | later turns |", "|---|---|---:|---:|---:|---:|"]
    return ["Macro means over tasks, from `leaderboards/results`:", "", *head, *sorted(rows)]


def pages(results: Path, tests: Path) -> dict[str, str]:
    """File name -> text of every page, the index included."""
    analysis = analyse(*read_rows(results))
    files = sorted(path for path in tests.rglob("test_*.py") if path.parent.name not in ("contracts", "core"))
    sources = {path.relative_to(tests.parent).as_posix(): path.read_text(encoding="utf-8") for path in files}
    found: dict[str, str] = {}
    index = ["# Methods", "", "Written by `python -m kvpress_eval.cards` from the heads of the methods' files.", ""]
    index += ["| press | what it does | paper |", "|---|---|---|"]
    for name in bases():
        line = f"from {module_of(name)} import"
        own = {file: _first_line(text) for file, text in sources.items() if line in text or _named(file, name)}
        found[f"{name}.md"] = card(name, analysis, own)
        index.append(f"| [`{name}`]({name}.md) | {PRESETS[name].summary} | {header(module_of(name))['paper']} |")
    found["README.md"] = "\n".join(index) + "\n"
    return found


def _first_line(source: str) -> str:
    return (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]


def _named(file: str, name: str) -> bool:
    return Path(file).stem == f"test_{name}"


def stale(texts: Mapping[str, str], out: Path) -> list[str]:
    """Names of the pages in `out` that are not what `texts` says, and of those that should not be there."""
    there = {path.name for path in out.glob("*.md")} if out.is_dir() else set()
    wrong = [n for n, text in texts.items() if n not in there or (out / n).read_text(encoding="utf-8") != text]
    return sorted([*wrong, *(there - texts.keys())])


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m kvpress_eval.cards", description="Write a page for each method.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page is out of date")
    options = parser.parse_args(argv)
    texts = pages(RESULTS, Path("tests").resolve())
    if options.check:
        old = stale(texts, OUT)
        print("\n".join(f"{OUT / name} is not what the code says" for name in old) or "all pages are up to date")
        return 1 if old else 0
    OUT.mkdir(parents=True, exist_ok=True)
    for name in stale(texts, OUT):
        (OUT / name).unlink(missing_ok=True)
    for name, text in texts.items():
        (OUT / name).write_text(text, encoding="utf-8")
    print(f"{len(texts)} pages in {OUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
