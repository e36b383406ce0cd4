"""The result folders of SCBench's own runner (microsoft/MInference, scbench/run_scbench.py).

``<model>_<attn>[_disable_golden_context]_<kv>[_k=v-k=v]/prediction_<task>_{multi_turn|scdq}[_lingua].jsonl``, one
line per turn: ``{id, turn_idx, prediction, ground_truth}`` and, by task, ``task``, ``lang``, ``repo``, ``func_name``.
The answers are scored again, by both scorers; the files hold no scores.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..metrics import score
from .imported_rows import UNREADABLE, Damaged, Found, Session, Skipped, digest, make_row, name_under

__all__ = ["ORIGIN", "read"]

ORIGIN = "SCBench runner"
_FILE = re.compile(r"prediction_(?:scbench_)?(\w+?)_(multi_turn|scdq)(_lingua)?\.jsonl")
# the runner's choices; a model's name may hold underscores, so the longest that fit are looked for from the right
_ATTENTION = (
    *("vllm_minference", "vllm_a_shape", "vllm_tri_shape", "vllm_blend", "vllm_kv", "vllm", "hf", "a_shape"),
    *("tri_shape", "inf_llm", "flash_attn", "minference_with_dense_sink", "minference_with_dense"),
    *("minference_with_retr_attn", "minference", "dilated1", "dilated2", "retrieval_attn", "dense"),
)
_CACHES = ("dense", "snapkv", "pyramidkv", "quest", "streamingllm", "retr_attn", "kivi")
_FOLDER = re.compile(
    rf"(?P<model>.+?)_(?P<attn>{'|'.join(sorted(_ATTENTION, key=len, reverse=True))})"
    rf"(?P<own>_disable_golden_context)?_(?P<kv>{'|'.join(_CACHES)})(?:_(?P<hyper>[^=]+=.*))?"
)
_DENSE = ("dense", "hf", "flash_attn", "vllm")  # attention that reads everything


def read(folder: Path) -> Iterator[Found | Skipped]:
    """Rows of every predictions file under ``folder``, in the order of their paths; other files with reasons."""
    for path in sorted(folder.rglob("*"), key=lambda path: path.as_posix()):
        name = name_under(path, folder)
        if path.is_dir() or any(part.startswith(".") for part in name.split("/")):
            continue
        try:
            yield Found(_row(path), name)
        except UNREADABLE as error:
            yield Skipped(name, " ".join(str(error).split()))


def _row(path: Path) -> Any:
    named = _FILE.fullmatch(path.name)
    if named is None:
        raise Damaged("not a predictions file (prediction_<task>_multi_turn.jsonl or ..._scdq.jsonl)")
    setting = _FOLDER.fullmatch(path.parent.name)
    if setting is None:
        raise Damaged(f"the folder {path.parent.name!r} does not say <model>_<attention>_<kv type>")
    task, multi_turn = named[1], named[2] == "multi_turn"
    settings = {
        "origin": ORIGIN,
        "suite": "scbench",
        "source": "microsoft/SCBench",
        "prompts": "reference",
        "scorer": "corrected",
        "model": setting["model"],
        "press": _press(setting, lingua=bool(named[3])),
        "task": task,
        "mode": "multi-turn" if multi_turn else "multi-request",
        "history": "own" if setting["own"] and multi_turn else "gold",
        "schedule": "",
        "question_visible": multi_turn,  # the first prompt, which is compressed, ends with the first question
        "length": 0,
        "seed": 0,
    }
    turns = _turns(path)
    needles = _needles(turns)
    sessions = [_session(task, rows, needles) for rows in _by_session(turns)]
    empty = sum(not row["prediction"].strip() for row in turns) / len(turns)
    return make_row({**settings, "empty": empty}, sessions)


def _press(setting: re.Match[str], lingua: bool) -> str:
    parts = [] if setting["attn"] in _DENSE else [setting["attn"]]
    parts += [] if setting["kv"] == "dense" else [setting["kv"]]
    parts += ["llmlingua"] if lingua else []
    if not parts:
        return "full"
    hyper = re.split(r"-(?=[A-Za-z_]\w*=)", setting["hyper"]) if setting["hyper"] else []
    at = 0 if setting["kv"] == "dense" else len(parts) - 1 - lingua
    parts[at] += f"({', '.join(hyper)})" if hyper else ""
    return " | ".join(parts)


def _turns(path: Path) -> list[dict[str, Any]]:
    rows = []
    # not splitlines: a prediction may hold what Unicode calls a line's end
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            raise Damaged(f"line {number} is not JSON: the file is cut or damaged") from None
        if not isinstance(row, dict) or not {"id", "turn_idx", "prediction", "ground_truth"} <= row.keys():
            raise Damaged(f"line {number} has no id, turn_idx, prediction and ground_truth")
        if not isinstance(row["prediction"], str) or type(row["turn_idx"]) is not int:
            raise Damaged(f"line {number}: prediction must be text and turn_idx a whole number")
        rows.append(row)
    if not rows:
        raise Damaged("no predictions in it")
    return rows


def _by_session(turns: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    sessions: dict[str, list[dict[str, Any]]] = {}
    for row in turns:
        sessions.setdefault(str(row["id"]), []).append(row)
    for name, rows in sessions.items():
        rows.sort(key=lambda row: row["turn_idx"])
        if [row["turn_idx"] for row in rows] != list(range(len(rows))):
            raise Damaged(f"session {name} has turns {[row['turn_idx'] for row in rows]}, expected 0, 1, 2, ... once")
    return list(sessions.values())


def _needles(turns: list[dict[str, Any]]) -> dict[str, list[dict[str, str]]]:
    """What RepoQA compares an answer with: every function that the file asks for, by repository."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in turns:
        if row.get("func_name") and _subtask(row) in ("", "repoqa"):
            needle = {"name": str(row["func_name"]), "needle": str(row["ground_truth"])}
            pool = found.setdefault(str(row.get("repo")), [])
            if needle not in pool:
                pool.append(needle)
    return found


def _subtask(row: Mapping[str, Any]) -> str:
    return str(row.get("task") or "").removeprefix("scbench_")


def _session(task: str, rows: list[dict[str, Any]], needles: Mapping[str, list[dict[str, str]]]) -> Session:
    mixed = task in ("repoqa_and_kv", "summary_with_needles")
    tasks = [_subtask(row) if mixed else task for row in rows]
    if not all(tasks):
        raise Damaged(f"{task} is a mixed task, and a turn does not say which of the two it asks")
    pairs = [(name, row["prediction"], _gold(name, row, needles)) for name, row in zip(tasks, rows, strict=True)]
    golds = json.dumps([row["ground_truth"] for row in rows], ensure_ascii=True)
    try:
        return Session(
            id=f"{task}/{rows[0]['id']}#{digest(golds)}",
            scores=[score(*pair, "corrected") for pair in pairs],
            reference=[score(*pair, "reference") for pair in pairs],
            tasks=tasks if mixed else (),
        )
    except TypeError as error:
        raise Damaged(f"session {rows[0]['id']} has a gold of the wrong kind: {error}") from None


def _gold(task: str, row: Mapping[str, Any], needles: Mapping[str, list[dict[str, str]]]) -> Any:
    if task != "repoqa":
        return row["ground_truth"]
    if not row.get("func_name") or not row.get("lang"):
        raise Damaged(f"session {row['id']}: a repoqa turn without func_name and lang")
    return {"func_name": row["func_name"], "lang": row["lang"], "needles": needles.get(str(row.get("repo")), [])}
