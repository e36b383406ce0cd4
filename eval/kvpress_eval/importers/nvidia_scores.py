"""The scores in a result folder of NVIDIA's kvpress: one number of metrics.json per task, as it is given.

Where predictions.csv lets the same number be computed item by item, every item is a session of its own, so that
two runs can be compared in pairs; a computed mean that is not the given number is not used.
"""

from __future__ import annotations

import csv
import json
import math
import re
from ast import literal_eval
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .imported_rows import Damaged, Session, digest

__all__ = ["SOURCES", "scores"]

SOURCES = {
    "loogle": "simonjegou/loogle",
    "ruler": "simonjegou/ruler",
    "zero_scrolls": "simonjegou/zero_scrolls",
    "infinitebench": "MaxJeblick/InfiniteBench",
    "longbench": "Xnhyacinth/LongBench",
    "longbench-e": "Xnhyacinth/LongBench",
    "longbench-v2": "simonjegou/LongBench-v2",
    "needle_in_haystack": "alessiodevoto/paul_graham_essays",
    "aime25": "alessiodevoto/aime25",
    "math500": "alessiodevoto/math500",
}
"""The data sets of its registry, by the hub id that each is read from."""

_PERCENT = ("ruler", "longbench", "longbench-e")
_ROUNDED = 1e-4  # percentages have two decimals
_CONTROL = re.compile(r"[\x00-\x1f]")
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)

Line = Mapping[str, str]


def scores(path: Path, settings: Mapping[str, Any]) -> dict[str, list[Session]]:
    """The sessions of every task of a run; one session that holds the number where items cannot be told.

    Raises:
        Damaged: where there is no number that can be read; says what is wrong.
    """
    dataset, part = str(settings["dataset"]), str(settings.get("data_dir") or "")
    if dataset not in SOURCES:
        raise Damaged(f"unknown data set {dataset!r}; known are {', '.join(SOURCES)}")
    given = _given(dataset, _metrics(path / "metrics.json"))
    lines = _lines(path / "predictions.csv") if dataset in _ITEMS else []
    found = {}
    for task, value in given.items():
        name = "_".join(word for word in (dataset, part if dataset != "ruler" else "", task) if word)
        place = "/".join(word for word in (dataset, part, task) if word)
        if isinstance(value, list):
            found[name] = [Session(f"{place}/{i}", [one]) for i, one in enumerate(value)]
            continue
        items = _items(dataset, task, lines, place)
        same = items and abs(sum(item.scores[0] for item in items) / len(items) - value) <= _ROUNDED
        found[name] = items if same else [Session(f"{place}/all", [value])]
    return found


def _metrics(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Damaged("no metrics.json: the run did not finish") from None
    except ValueError:
        raise Damaged("metrics.json is not JSON: the file is cut or damaged") from None


def _given(dataset: str, metrics: Any) -> dict[str, float | list[float]]:
    """The main number of every task, in 0..1; of every item where those are what is given."""
    raw: dict[str, Any]
    match dataset:
        case "ruler":
            raw = {task: _at(one, "string_match") for task, one in _mapping(metrics).items()}
        case "loogle":
            raw = {
                task: _at(one, "exact_match" if "exact_match" in _mapping(one) else "rouge-l")
                for task, one in _mapping(metrics).items()
            }
        case "longbench-e":
            raw = dict(_mapping(metrics))
        case "longbench-v2":
            raw = {"": _at(metrics, "average")}
        case "aime25" | "math500":
            raw = {"": _at(metrics, "accuracy")}
        case "needle_in_haystack":
            raw = {"": [_at(_at(item, "rouge-l"), "f") for item in metrics] if isinstance(metrics, list) else None}
        case _:
            raw = {} if metrics == {} else {"": metrics}
    if not raw or raw == {"": []}:
        raise Damaged("no score in metrics.json")
    scale = 100 if dataset in _PERCENT else 1
    return {
        task: [_share(item, 1) for item in value] if isinstance(value, list) else _share(value, scale)
        for task, value in raw.items()
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise Damaged(f"metrics.json holds {type(value).__name__} where names with scores were expected")
    return value


def _at(value: Any, key: str) -> Any:
    if key not in _mapping(value):
        raise Damaged(f"metrics.json has no {key!r}, only {', '.join(map(str, value)) or 'nothing'}")
    return value[key]


def _share(value: Any, scale: int) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Damaged(f"metrics.json: {value!r} is not a number")
    if not 0 <= value <= scale:
        raise Damaged(f"metrics.json: a score of {value:g} is not between 0 and {scale}")
    return value / scale


def _lines(path: Path) -> list[Line]:
    """The lines of a table of answers, [] where there is none: the given number still counts."""
    limit = csv.field_size_limit(1 << 30)  # a cell may hold a whole text
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows: list[Line] = list(csv.DictReader(file, strict=True))
    except FileNotFoundError:
        return []
    except csv.Error as error:
        raise Damaged(f"predictions.csv is cut or damaged: {error}") from None
    finally:
        csv.field_size_limit(limit)
    if any(None in (*row, *row.values()) for row in rows):
        raise Damaged("predictions.csv is cut or damaged: a line has not as many cells as the first")
    return rows


def _items(dataset: str, task: str, lines: list[Line], place: str) -> list[Session]:
    columns = {"predicted_answer", "answer", *(("task",) if dataset == "ruler" else ())}
    if not lines or not columns <= lines[0].keys():
        return []
    mine = [line for line in lines if dataset != "ruler" or line["task"] == task]
    score = _ITEMS[dataset]
    return [Session(f"{place}/{i}#{digest(line['answer'])}", [score(task, line)]) for i, line in enumerate(mine)]


def _ruler(task: str, line: Line) -> float:
    said = _CONTROL.sub("", line["predicted_answer"].strip()).strip().lower()
    hits = [gold.lower() in said for gold in _texts(line["answer"])]
    if not hits:
        return 0.0
    return float(any(hits)) if task.startswith("qa") else sum(hits) / len(hits)


def _texts(cell: str) -> list[str]:
    """The texts of a cell that pandas wrote: a list's ``['a', 'b']``, an array's ``['a' 'b']``, or one text."""
    if not cell.startswith("["):
        return [cell]
    quoted = [str(literal_eval(text)) for text in _QUOTED.findall(cell)]
    return quoted or cell.strip("[]").replace(",", " ").split()


def _choice(task: str, line: Line) -> float:
    said, letter = line["predicted_answer"].replace("*", ""), line["answer"]
    return float(f"The correct answer is ({letter})" in said or f"The correct answer is {letter}" in said)


def _boxed(last: bool) -> Callable[[str, Line], float]:
    """Whether the text in the first (or last) ``boxed{...}`` is the answer."""

    def score(task: str, line: Line) -> float:
        text, mark = line["predicted_answer"], "boxed{"
        start = text.rfind(mark) if last else text.find(mark)
        if start < 0:
            return 0.0
        start, depth = start + len(mark), 1
        for at in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if depth == 0:
                return float(text[start:at] == line["answer"])
        return 0.0

    return score


_ITEMS: dict[str, Callable[[str, Line], float]] = {
    "ruler": _ruler,
    "longbench-v2": _choice,
    "aime25": _boxed(last=True),
    "math500": _boxed(last=False),
}
