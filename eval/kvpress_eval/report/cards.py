"""A page for each method: what it does, where it deviates, what checks it, what it scored. Written from the code.

python -m kvpress_eval.report.cards            write docs/methods/ and the table of methods in README.md
python -m kvpress_eval.report.cards --check    exit code 1 where a page is not what the code and the rows say
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from kvpress.recipe.press import PRESETS, Press

from ..rows.analysis import analyse
from ..rows.claims import Analysis, dtype_of
from ..rows.numbers import percent, points
from ..rows.parsing import read_rows
from .markdown import code, markdown_table

OUT = Path("docs/methods")
RESULTS = Path("leaderboards/results")
README = Path("README.md")
METHODS = Path("eval/kvpress_eval/report/page/methods.json")
_BEGIN, _END = "<!-- methods: written by make docs -->", "<!-- end of methods -->"
_DENSE = "(D_k + D_v) numbers and a 4-byte position each (no positions where no slot between others is gone)"
_SAME = "those of the eviction press under it: totals are exact, only their spread changes, and nothing is padded"
# by what a press decides; storage formats say theirs in the line on cost
_BYTES = {
    "scorer": f"`keep` of the slots of every KV head, dense: {_DENSE}; then what is decoded",
    "refine": f"{_SAME}; 4 a slot and KV head more where slots are evicted at every step",
    "merge": f"{_SAME}; 4 a slot and KV head more, of how many tokens it stands for",
    "heads": _SAME,
    "layers": _SAME,
    "selector": "every slot, dense or as the press that it is composed with stores it, and what is known of each page",
    "schedule": f"{_SAME}; while decoding at most so many slots more as there are tokens between two choices",
    "channels": "the kept numbers of each slot, `recent` slots whole, and an index byte a kept channel and KV head",
    "sharer": "of two layers: one vector and two fp16 norms a slot for K and V each, and the slots that stay whole",
    "key": "see cost; each tensor's formula is in the docstring of its codec",
}
_FIELDS = ("paper", "idea", "formula", "cost", "deviates")
_DECISIONS = ("scorer", "refine", "merge", "heads", "layers", "channels", "sharer", "key", "schedule", "selector")
_HEADINGS = {"paper": "Paper", "idea": "Idea", "formula": "Formula", "cost": "Cost", "deviates": "Deviates"}


def bases() -> list[str]:
    """Presses that have a page: every preset that is not a variant, and is a method (not the full cache)."""
    return [name for name in PRESETS if "@" not in name and name != "full"]


def module_of(name: str) -> str:
    """The module whose head describes a press."""
    return PRESETS[name].build.__module__


def _kind(name: str) -> str:
    """What a press decides first of all."""
    decisions = PRESETS[name]().parts[0].decisions()
    return next(kind for kind in _DECISIONS if kind in decisions)


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
    lines += [f"- **Bytes** held after a prompt, by the ledger: {_BYTES[_kind(name)]}"]
    lines += [f"- **Premise**, measured on the first prompt: {said}" for said in _premises(name)]
    presets = [PRESETS[variant] for variant in PRESETS if variant.split("@")[0] == name]
    told = [(code(preset().spec()), preset.summary) for preset in presets]
    lines += ["", "## Presets", markdown_table(("press", "what it is"), 2, told)]
    if why := PRESETS[name].unsettled:
        lines += ["", f"There is no `{name}@paper`: {why}."]
    lines += ["", "## Checked by", "The contract tests in `tests/contracts/`, alone and composed, and:"]
    lines += [f"- `{path}`: {what}" for path, what in tests.items()] or ["- nothing of its own"]
    lines += ["", "## Scores here", *_scores(name, analysis)]
    lines += ["", "## Reproducible here"]
    lines += [
        "That this is the method, by the checks above, and the scores above. The papers' own figures need models and"
    ]
    lines += ["data that this repository does not hold: not reproduced here."]
    return "\n".join(lines) + "\n"


def _premises(name: str) -> list[str]:
    """What the press takes for granted of a model."""
    press = PRESETS[name]()
    if press.recipe.scorer is None and _kind(name) in (
        "refine",
        "heads",
        "layers",
    ):  # a part of a press decides nothing
        press = press | PRESETS["snapkv"]()
    found = press.recipe.premises
    own = [one for one in found if one.method == name or type(one).__module__ == module_of(name)]
    return [f"{one.says} ({one.measures} at least {one.bound})" for one in own]


def _scores(name: str, analysis: Analysis) -> list[str]:
    rows = []
    for table in analysis.tables:
        if table.origin:  # another library's press of that name
            continue
        for cell in analysis.macros(table):
            if name in {part.name.split("@")[0] for part in Press.parse(cell.method.asked).parts}:
                dtype = dtype_of(table, analysis.tables)
                where = f"{table.model}, {table.length:,}, {table.mode}" + (f", {dtype}" if dtype else "")
                figures = percent(cell.bytes_ratio), points(cell.score.mean), points(cell.first), points(cell.later)
                rows.append((code(cell.method.name), where, *figures))
    if not rows:
        return ["No committed row measures it yet."]
    head = ("press", "where", "bytes/dense", "score", "first turn", "later turns")
    about = "Macro means over tasks, from `leaderboards/results` (continuation: equal next tokens):"
    return [about, "", markdown_table(head, 2, sorted(rows))]


def pages(results: Path, tests: Path) -> dict[str, str]:
    """File name -> text of every page, the index included."""
    analysis = analyse(*read_rows(results))
    files = sorted(path for path in tests.rglob("test_*.py") if path.parent.name not in ("contracts", "core"))
    sources = {path.relative_to(tests.parent).as_posix(): path.read_text(encoding="utf-8") for path in files}
    found: dict[str, str] = {}
    index = [
        "# Methods",
        "",
        "Written by `python -m kvpress_eval.report.cards` from the heads of the methods' files.",
        "",
    ]
    index += ["| press | what it does | paper |", "|---|---|---|"]
    for name in bases():
        line = f"from {module_of(name)} import"
        own = {file: _first_line(text) for file, text in sources.items() if line in text or _named(file, name)}
        found[f"{name}.md"] = card(name, analysis, own)
        index.append(f"| [`{name}`]({name}.md) | {PRESETS[name].summary} | {header(module_of(name))['paper']} |")
    found["README.md"] = "\n".join(index) + "\n"
    return found


def described() -> str:
    """JSON text of each method: the arXiv id of its paper ("" without one), what it decides, and whether its file says
    that it is a control. The pages of a report link to the first and colour by the others.
    """
    found = {}
    for name in bases():
        title = header(module_of(name))["title"]
        paper = re.search(r"\d{4}\.\d{4,5}", title)
        control = bool(re.search(r"\bcontrol\b", title))
        found[name] = {"paper": paper[0] if paper else "", "decides": decides(name), "control": control}
    return "{\n" + ",\n".join(f" {json.dumps(name)}: {json.dumps(one)}" for name, one in found.items()) + "\n}\n"


def decides(name: str) -> list[str]:
    """The decisions of a press; "rank" where numbers are stored as factors of some rank beside or instead of codes."""
    decisions = PRESETS[name]().parts[0].decisions()
    low = any(hasattr(decisions.get(stored), "rank") for stored in ("key", "value"))
    plain = [kind for kind in _DECISIONS if kind in decisions]
    if len(plain) > 1 and "schedule" in plain:  # a scorer comes with one
        plain.remove("schedule")
    return ["rank"] if low else plain


def with_table(readme: str) -> str:
    """README.md with the table of methods between its two marks. Raises ValueError where a mark is missing."""
    before, begin, rest = readme.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"README.md lacks the marks {_BEGIN} and {_END}, between which the methods are listed")
    lines = ["", "| press | what it does | settings |", "|---|---|---|"]
    for name in bases():
        settings = ", ".join(f"`@{n.split('@')[1]}`" for n in PRESETS if n.startswith(f"{name}@"))
        lines.append(f"| [`{name}`]({OUT.as_posix()}/{name}.md) | {PRESETS[name].summary} | {settings} |")
    return before + begin + "\n".join(lines) + "\n" + end + after


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
    parser = argparse.ArgumentParser(
        prog="python -m kvpress_eval.report.cards", description="Write a page for each method."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a page is out of date")
    options = parser.parse_args(argv)
    texts = pages(RESULTS, Path("tests").resolve())
    readme = with_table(README.read_text(encoding="utf-8"))
    if options.check:
        old = stale(texts, OUT)
        if METHODS.read_text(encoding="utf-8") != described():
            print(f"{METHODS} is not what the heads of the methods say")
            return 1
        if readme != README.read_text(encoding="utf-8"):
            print("the table of methods in README.md is not what the code says")
            return 1
        print("\n".join(f"{OUT / name} is not what the code says" for name in old) or "all pages are up to date")
        return 1 if old else 0
    OUT.mkdir(parents=True, exist_ok=True)
    for name in stale(texts, OUT):
        (OUT / name).unlink(missing_ok=True)
    for name, text in texts.items():
        (OUT / name).write_text(text, encoding="utf-8")
    README.write_text(readme, encoding="utf-8")
    METHODS.write_text(described(), encoding="utf-8")
    print(f"{len(texts)} pages in {OUT}, and the table in {README}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
