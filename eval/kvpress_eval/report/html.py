"""The offline page of a suite: what its scripts get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..rows.amounts import spaced
from ..rows.claims import Analysis, Cell, Contrast, Table, method_of, table_of, table_order
from ..rows.measures import SHOWN, Measured, shown
from ..rows.numbers import nats, nats_span, points, snap
from ..rows.press_text import family, sweep
from ..rows.row import Row
from ..rows.stats import Interval
from .answer_scripts import Told
from .assemble import assemble
from .charts import LINES, SCATTER
from .equal_bytes import Matrix, matrices
from .gates import Gate, tally
from .kinds import KINDS
from .kinds import kind as kind_of
from .kinds import methods as described
from .measure_changes import Forced, forced
from .suite_names import title

SCRIPTS = (
    *("dom.js", "core.js", "chart.js", "quality.js", "curves.js"),
    *("tables.js", "forced.js", "told.js", "runs.js", "depth.js", "equal.js", "main.js"),
)
_TITLE = b"<title>kvpress results: quality against bytes</title>"
_HEAD_BYTES = 2048  # the title stands before anything that the rows say
_ROW_FIELDS = (
    *("run_id", "status", "error", "suite", "press", "press_spec", "asked", "target", "task"),
    *("schedule", "question_visible", "seed"),
    *("sessions", "turns", "chance", "hit_limit", "empty", "bytes", "bytes_dense", "bytes_ratio"),
    *("logical_length", "peak_memory", "peak_kind", "ttft_s", "tpot_s", "press_s", "prefill_s", "seconds"),
    *("device", "dtype", "attn", "threads", "versions", "commit", "started", "command", "path"),
    *("depth", "twin", "cut", "evidence_cut", "prefill_tps", "fired", "fork_s", "save_s", "load_s", "file_bytes"),
    *("reload_exact", "step_bytes", "decode_length", "session_bytes", "not_measured", "quiet", "kept_all"),
)


def render_html(
    analysis: Analysis,
    gates: Sequence[Gate],
    suite: str,
    names: Mapping[str, str],
    answers: Told | None = None,
    methods: str = "",
) -> str:
    """The page of a suite as text; `names` maps all suites to the files of their pages.

    answers: their scripts are beside the page. methods: the folder of the methods' pages as seen from this page, with a
    slash; "" where there is none.
    """
    papers = {name: about["paper"] for name, about in described().items()}
    data = page_data(analysis, gates, answers)
    data |= {"suites": _suites(suite, names), "papers": papers, "methods": methods}
    data["charts"] = {"scatter": SCATTER, "lines": LINES}
    return assemble("template.html", ("page.css",), SCRIPTS, data, library="vega.js", beside=True)


def is_page(path: Path) -> bool:
    """Whether a file is a page that `render_html` made, by its title; False for what cannot be read."""
    try:
        with path.open("rb") as file:
            return _TITLE in file.read(_HEAD_BYTES).splitlines()
    except OSError:
        return False


def page_data(analysis: Analysis, gates: Sequence[Gate], answers: Told | None = None) -> dict[str, Any]:
    """What the scripts get: scores in fractions, times in seconds, sizes in bytes, rounded."""
    tables = sorted({table_of(row) for row in analysis.rows}, key=table_order)
    index = {table: i for i, table in enumerate(tables)}
    presses = sorted({row.asked for row in analysis.rows})
    tasks = sorted({row.task for row in analysis.rows})
    place = {id(cell): i for i, cell in enumerate(analysis.cells)}
    return {
        "tables": [{**table._asdict(), "special": table.special} for table in tables],
        "notes": {row.model: row.model_note for row in analysis.rows if row.model_note},
        "tasks": tasks,
        "measures": {name: vars(SHOWN[name]) for name in shown(analysis.rows)},
        "kinds": [{**vars(kind), "control": name == "control"} for name, kind in KINDS.items()],
        "families": {family(press): list(KINDS).index(kind_of(press)) for press in ["full", *presses]},
        "cells": _pack([{"table": index[cell.table], **_cell(cell)} for cell in analysis.cells]),
        "equal": [_equal(m, index[m.table], place) for task in ("", *tasks) for m in matrices(analysis, task)],
        "forced": [_forced(f, index, place) for task in ("", *tasks) for f in forced(analysis, task)],
        "rows": _pack(
            [{"table": index[table_of(row)], **_row(row, analysis, answers or Told())} for row in analysis.rows]
        ),
        "tally": tally(gates),
        "gates": [
            {
                "name": gate.name,
                "claim": gate.claim,
                "verdict": gate.verdict,
                "checked": gate.checked,
                "failures": list(gate.failures),
                "note": gate.note,
            }
            for gate in gates
        ],
        "ignored": [{"path": item.path, "reason": item.reason} for item in analysis.ignored],
    }


def _suites(suite: str, names: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"title": title(other), "page": name, "here": other == suite} for other, name in names.items()]


def _cell(cell: Cell) -> dict[str, Any]:
    method = cell.method
    return {
        "press": method.name,
        "schedule": method.schedule,
        "question_visible": method.question_visible,
        "family": family(method.asked),
        "sweep": sweep(method.asked, method.target),
        "solved": cell.solved,
        "task": cell.task,
        "score": _interval(cell.score),
        **_contrast(cell.contrast),
        "interaction": _interval(cell.interaction),
        "turns": [snap(value) for value in cell.by_turn],
        "first": snap(cell.first),
        "later": snap(cell.later),
        "later_tasks": len(cell.later_tasks),
        **{name: snap(cell.mean_of(name)) for name in ("chance", "bytes_ratio", "bytes", "step_bytes")},
        "tpot_s": snap(cell.time("tpot_s")),
        "disturbed": cell.disturbed,
        "sessions": cell.score.n,
        "asked": sum(row.turns for row in cell.rows),
        "tasks": cell.tasks,
        "of": cell.tasks_in_table,
        "front": cell.front,
        "fast_front": cell.fast_front,
        "device": cell.device,
        "devices": sorted({row.device for row in cell.rows}),
        "session_bytes": cell.session_bytes,
        "subtasks": {name: snap(score) for name, score in cell.by_subtask().items()},
        "control": cell.control,
        "measures": _measured(cell.measures),
    }


def _equal(matrix: Matrix, table: int, place: Mapping[int, int]) -> dict[str, Any]:
    """A matrix; `cell` is the place in the cells, null where there is no score."""
    lines = [
        {
            "press": line.asked,
            "family": family(line.asked),
            "firing": line.firing,
            "entries": [
                {"cell": place[id(e.cell)] if e.cell else None, "best": e.best, "reason": e.reason, "text": e.text}
                for e in line.entries
            ],
        }
        for line in matrix.lines
    ]
    full = None if matrix.full is None else place[id(matrix.full)]
    targets = [spaced(target) for target in matrix.targets]
    return {"table": table, "task": matrix.task, "targets": targets, "full": full, "lines": lines}


def _forced(found: Forced, index: Mapping[Table, int], place: Mapping[int, int]) -> dict[str, Any]:
    """Forced texts; numbers are sorted by, the texts beside them are shown."""
    lines = [
        {
            "cell": place[id(line.cell)],
            "origin": line.cell.table.origin,
            "complete": line.complete,
            "kl": [
                snap(line.kl.mean, 12),
                nats(line.kl.mean),
                nats_span(line.kl.low, line.kl.high),
                [snap(value, 12) for value in (line.kl.mean, line.kl.low, line.kl.high)],
            ],
            "nll": [
                snap(line.nll.difference.mean, 12),
                nats(line.nll.difference.mean, sign=True),
                nats_span(line.nll.difference.low, line.nll.difference.high, sign=True),
            ]
            if line.nll
            else None,
            "bins": [[snap(value, 12), nats(value)] for value in line.bins],
        }
        for line in found.lines
    ]
    tables = sorted({index[line.cell.table] for line in found.lines})
    return {"tables": tables, "task": found.task, "bins": list(found.bins), "lines": lines}


def _row(row: Row, analysis: Analysis, answers: Told) -> dict[str, Any]:
    first = [turns[0] for turns in row.scores.values()]
    later = [sum(t[1:]) / len(t[1:]) for t in row.scores.values() if len(t) > 1]
    reference = analysis.references.get(row.path)
    values = {name: getattr(row, name) for name in _ROW_FIELDS} | {"versions": row.versions_text}
    return {
        **{k: snap(v) if isinstance(v, float) else v for k, v in values.items()},
        "family": family(row.asked),
        "method": method_of(row).name,
        "score": _interval(analysis.scores.get(row.path)),
        **_contrast(analysis.contrasts.get(row.path)),
        "reference": reference.run_id if reference else None,
        "superseded": row.path in analysis.superseded,
        "answers": answers.name(row),
        "first": snap(sum(first) / len(first)) if first else None,
        "later": snap(sum(later) / len(later)) if later else None,
        "subtasks": _named(row.by_subtask()),
        "extras": _named(row.extras),
        "disturbance": "; ".join(f"{name} {value:g}" for name, value in row.disturbance.items()),
        "measures": _measured(analysis.measures.get(row.path, {})),
        "unmet": "; ".join(row.unmet),
        "kinds": "; ".join(f"{kind} {size:,}" for kind, size in row.bytes_by_kind.items()),
    }


def _measured(found: Mapping[str, Measured]) -> dict[str, Any]:
    return {name: [_interval(one.mean), _interval(one.diff)] for name, one in found.items()}


def _named(means: Mapping[str, float]) -> str:
    return "; ".join(f"{name} {points(mean)}" for name, mean in means.items())


def _contrast(contrast: Contrast | None) -> dict[str, Any]:
    if contrast is None:
        return dict.fromkeys(("diff", "p", "p_holm", "detectable", "verdict", "retention", "flips"))
    return {
        "diff": _interval(contrast.diff),
        "p": snap(contrast.p),
        "p_holm": snap(contrast.p_holm),
        "detectable": snap(contrast.detectable),
        "verdict": contrast.verdict or None,
        "retention": snap(contrast.retention),
        "flips": contrast.flips and [contrast.flips.lost, contrast.flips.won, contrast.flips.of],
    }


def _interval(interval: Interval | None) -> list[float | None] | None:
    if interval is None or snap(interval.mean) is None:
        return None
    return [snap(value) for value in (interval.mean, interval.low, interval.high)]


def _pack(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Columns instead of records, repeated values once: rows differ in little but numbers."""
    columns: dict[str, Any] = {}
    for name in records[0] if records else ():
        values = [record[name] for record in records]
        keys = [repr(value) for value in values]
        unique = dict(zip(keys, values, strict=True))
        if len(unique) > len(values) / 2:
            columns[name] = {"v": values}
        else:
            place = {key: i for i, key in enumerate(unique)}
            columns[name] = {"u": list(unique.values()), "i": [place[key] for key in keys]}
    return {"n": len(records), "columns": columns}
