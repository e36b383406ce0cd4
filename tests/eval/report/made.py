"""A results folder like that of a real sweep, made up, with everything a report must survive.

Write one to look at: `python tests/eval/report/made.py FOLDER` (then report on FOLDER/results).
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from kvpress_eval.importers import imported_rows as base
from kvpress_eval.rows.analysis import analyse
from kvpress_eval.rows.answers import seal
from kvpress_eval.rows.claims import Analysis
from kvpress_eval.rows.parsing import parse_row
from kvpress_eval.rows.row import Row
from kvpress_eval.rows.row_files import write_row

HOSTILE = "evil<script>window.pwned=1</script>\"'><img src=x onerror=window.pwned=2>|`*(keep=0.3)"
PRESSES = {  # text -> (bytes/dense, quality on the first turn, quality on later turns)
    "full": (1.0, 1.0, 1.0),
    "snapkv(keep=1.0)": (1.0, 1.0, 1.0),
    **{f"snapkv(keep={k})": (k, 1 - 0.05 / k**0.5, 0.97 - 0.13 / k) for k in (0.5, 0.25, 0.125)},
    **{f"expected(keep={k})": (k, 0.99 - 0.04 / k, 0.97 - 0.045 / k) for k in (0.5, 0.25, 0.125)},
    **{f"random(keep={k})": (k, k**1.2, k**1.2) for k in (0.5, 0.25, 0.125)},
    **{f"streaming(keep={k}, sinks=4)": (k, 0.9 * k, 0.9 * k) for k in (0.5, 0.25, 0.125)},
    "kivi(bits=4, group=32)": (0.29, 0.99, 0.99),
    "kivi(bits=2, group=32)": (0.167, 0.82, 0.8),
    "snapkv(keep=0.25) | kivi(bits=2, group=32)": (0.046, 0.7, 0.4),
    "eigen(rank=48) | kivi(bits=4, group=32)": (0.12, 0.9, 0.88),
    HOSTILE: (0.3, 0.6, 0.6),
}
TASKS = {
    "kv": 0.93,
    "prefix_suffix": 0.81,
    "multihop": 0.62,
    "math_find": 0.71,
    "many_shot": 0.66,
    "mix_kv": 0.84,
}
MODES = ("multi-turn", "multi-request")


def make_row(
    press: str,
    task: str,
    *,
    mode: str = "multi-turn",
    length: int = 2048,
    model: str = "org/tiny-retriever",
    seed: int = 0,
    sessions: int = 24,
    turns: int = 5,
    **changes: Any,
) -> dict[str, Any]:
    """One made-up row; the full cache and all presses see the same sessions. A press forgets what lies deep."""
    depth = changes.get("depth")
    ratio, first, later = PRESSES[press]
    visible = mode == "multi-turn"
    scores = []
    for s in range(sessions):
        asked = random.Random(f"{task}{mode}{length}{model}{seed}{s}")  # the same for all presses
        lost = random.Random(f"{press}{task}{mode}{length}{model}{seed}{s}")
        solved = [asked.random() < TASKS.get(task, 0.9) * (0.97 if length > 4096 else 1) for _ in range(turns)]
        buried = 1 if depth is None or ratio == 1 else 1 - 1.4 * (1 - first) * (1 - abs(depth - 50) / 50)
        kept = [buried * first if t == 0 and visible else buried * max(later, 0.02) for t in range(turns)]
        scores.append([float(a and lost.random() < k) for a, k in zip(solved, kept, strict=True)])
    flat = [score for session in scores for score in session]
    dense = 16 * 2 * 2 * 64 * 2 * length
    held = {
        "codes": int(dense * ratio * 0.9),
        "scales": int(dense * ratio * 0.07),
        "positions": 4 * length,
    }
    if press == "full":
        held = {"window": dense}
    row = {
        "format": 1,
        "run_id": f"{abs(hash_text(press)):08x}-{task}-{mode}-{length}-{seed}" + ("" if depth is None else f"-{depth}"),
        "status": "ok",
        "error": None,
        "suite": "core",
        "model": model,
        "model_note": "trained on synthetic retrieval",
        "press": press,
        "press_spec": f"{press} window=32 kernel=5 pooling=avg sinks=4 recent=32 dtype=float32",
        "task": task,
        "mode": mode,
        "history": "gold",
        "schedule": "after prefill",
        "question_visible": visible,
        "rendering": "dialect",
        "length": length,
        "seed": seed,
        "sessions": sessions,
        "turns": sessions * turns,
        "session_ids": [f"{task}-{s}" + ("" if depth is None else f"#{depth}") for s in range(sessions)],
        "session_scores": scores,
        "score": sum(flat) / len(flat),
        "chance": 1 / 16 if task == "many_shot" else 0.02,
        "score_by_turn": [sum(s[t] for s in scores) / sessions for t in range(turns)],
        "n_by_turn": [sessions] * turns,
        "hit_limit": 0.03,
        "empty": 0.0,
        "bytes": sum(held.values()),
        "bytes_dense": dense,
        "bytes_ratio": sum(held.values()) / dense,
        "bytes_by_kind": held,
        "logical_length": length * 1.07,
        "peak_memory": int(3e8 + dense * (1 + ratio)),
        "peak_kind": "rss",
        "ttft_s": 0.21 * length / 2048 + 0.02 * (ratio < 1),
        "tpot_s": 0.008 + 0.004 * ratio * length / 2048,
        "press_s": 0.031 if ratio < 1 else 0.0,
        "prefill_s": 0.19 * length / 2048,
        "seconds": 62.5,
        "device": "cpu",
        "dtype": "float32",
        "attn": "sdpa",
        "threads": 2,
        "versions": {
            "python": "3.11.7",
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "kvpress": "0.1.0",
        },
        "prefill_tps": 2048 / (0.19 + 0.03 * (ratio < 1)),
        "fired": float(ratio < 1),
        "fork_s": 0.0004,
        "save_s": 0.011 * ratio,
        "load_s": 0.004 + 0.006 * ratio,
        "file_bytes": int(dense * ratio) + 4096,
        "reload_exact": True,
        "step_bytes": int(dense * ratio),
        "decode_length": length * 0.93,
        "session_bytes": int(1.2 * dense * ratio),
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "started": "2026-11-21T06:30:00Z",
        "command": f"kvpress run --press '{press}' --task {task} --mode {mode} --length {length}",
    }
    return {**row, **changes}


def with_gold(row: dict[str, Any]) -> dict[str, Any]:
    """The row with log-probabilities of gold answers: a press loses in proportion to what it forgets."""
    ratio, _, later = PRESSES[row["press"]]
    logprob = []
    for s in range(row["sessions"]):
        full = random.Random(f"{row['task']}{row['mode']}{s}")  # the same for all presses
        lost = random.Random(f"{row['press']}{row['task']}{row['mode']}{s}")
        kept = 0.0 if ratio == 1 else 1 - later
        logprob.append([-2 * full.random() - kept * (0.5 + lost.random()) for _ in row["session_scores"][s]])
    argmax = [[float(value > -0.5) for value in turns] for turns in logprob]
    return {**row, "measures": {"gold_logprob": logprob, "gold_argmax": argmax, "unknown": logprob}}


def say(folder: Path, row: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Write the row with made-up answers, as the runner does; a question's record gets the changes. Returns the row."""
    sealed = Row.from_dict(row)
    seal(
        sealed,
        [
            {
                **{"session": session, "turn": t + 1, "prompt": f"what is {s}-{t} ?", "gold": f"gold {s}-{t}"},
                **{"answer": f"said by {row['press']}" if score < 1 else f"gold {s}-{t}", "finish": "stop"},
                **{"score": score, "reference": None, "gold_logprob": -1.25, "gold_argmax": False},
                **{"evidence": [[40, 47]], "depth": 12.5, "kept": 0.25},
                **changes,
            }
            for s, (session, turns) in enumerate(zip(row["session_ids"], row["session_scores"], strict=True))
            for t, score in enumerate(turns)
        ],
    )
    write_row(sealed, folder)
    return sealed.to_dict()


def failed(row: dict[str, Any], error: str) -> dict[str, Any]:
    """The row of a run that did not finish."""
    nothing = {"session_ids": [], "session_scores": [], "score_by_turn": [], "bytes_by_kind": {}}
    zeros = dict.fromkeys(("turns", "score", "bytes", "bytes_dense", "bytes_ratio", "ttft_s"), 0)
    return {**row, "status": "failed", "error": error, **nothing, **zeros}


def hash_text(text: str) -> int:
    """A number that stays the same between runs."""
    return int.from_bytes(random.Random(text).randbytes(4), "big")


def sweep() -> list[dict[str, Any]]:
    """Presses x tasks x modes x lengths with failed cells, and a few runs of a second model."""
    rows = [
        make_row(press, task, mode=mode, length=length)
        for press in PRESSES
        for task in TASKS
        for mode in MODES
        for length in (2048, 8192)
    ]
    out_of_memory = "OutOfMemoryError: tried to hold <b>2.1 GiB</b> | limit 2.0 GiB\n  at prefill"
    rows = [
        failed(row, out_of_memory)
        if (row["press"], row["task"], row["length"]) == ("random(keep=0.125)", "multihop", 8192)
        else row
        for row in rows
    ]
    rows += [
        make_row(press, task, model="org/second-model")
        for press in ("full", "snapkv(keep=0.25)", "kivi(bits=2, group=32)")
        for task in ("kv", "many_shot")
    ]
    return rows


FEW = ("full", "snapkv(keep=0.25)", "expected(keep=0.25)", "kivi(bits=2, group=32)")


def suites() -> list[dict[str, Any]]:
    """A sweep of several suites: both scorers, a mixed task, needles by depth, two devices, another harness' rows."""
    rows = []
    for press in FEW:
        for task in ("kv", "repoqa_and_kv"):
            row = make_row(press, task, suite="scbench", model="org/natural", rendering="natural", source="scbench")
            row["scorer"] = "corrected"
            # the released scorer counts half of the answers to the last question as right
            row["reference_scores"] = [[*turns[:-1], max(turns[-1], 0.5)] for turns in row["session_scores"]]
            if task == "repoqa_and_kv":
                row["turn_tasks"] = [["repoqa", "kv", "repoqa", "kv", "kv"]] * row["sessions"]
            rows.append(row)
            rows[-1] = with_gold(row)
            gpu = make_row(press, task, device="cuda (H100)", suite="scbench", dtype="bfloat16")
            rows.append({**gpu, "run_id": gpu["run_id"] + "-gpu", "tpot_s": gpu["tpot_s"] / 9})
        rows += [
            make_row(press, task, suite="ruler", length=length)
            for task in ("ruler_vt", "ruler_cwe")
            for length in (2048, 8192)
        ]
        rows += [
            make_row(press, "needle_grid", suite="needles", length=length, depth=depth, sessions=8)
            for length in (1024, 2048, 8192)
            for depth in (0, 25, 50, 75, 100)
        ]
    return rows + imported()


def imported() -> list[dict[str, Any]]:
    """Rows of another harness, as the importers make them: scores, and the share of empty answers, which is zero."""
    named = ("press", "task", "mode", "history", "schedule", "question_visible", "length", "seed", "dtype")
    rows = []
    for press in FEW[:2]:
        row = make_row(press, "kv")
        sessions = [base.Session(*one) for one in zip(row["session_ids"], row["session_scores"], strict=True)]
        settings = {
            **{name: row[name] for name in named},
            **{"origin": "NVIDIA <kvpress>", "suite": "scbench", "source": "microsoft/SCBench"},
            **{"model": "org/natural", "scorer": "imported", "empty": 0.0},
        }
        rows.append(base.make_row(settings, sessions).to_dict())
    return rows


def parsed(rows: list[dict[str, Any]]) -> Analysis:
    """The analysis of rows as if they were read from `m/0.json` on."""
    return analyse([parse_row(row, f"m/{i}.json") for i, row in enumerate(rows)])


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as the runner does: `<model>/<run_id>.json`."""
    for row in rows:
        path = folder / row["model"].replace("/", "--") / f"{row['run_id']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row), encoding="utf-8")
    return folder


def spoil(folder: Path) -> None:
    """Put files there that must be listed, not read."""
    (folder / "notes.txt").write_text("hello")
    (folder / "org--tiny-retriever" / "cut.json").write_text('{"format": 1, "status"')
    (folder / "org--tiny-retriever" / "old.json").write_text('{"format": 0}')


if __name__ == "__main__":
    spoil(write_rows(Path(sys.argv[1]) / "results", [*sweep(), *suites()]))
