"""From rows to claims: pair with the full cache, test, pool seeds, average over tasks.

A *table* is everything that may be compared (see `claims.Table`).
A *cell* is one method on one task in it, seeds pooled and depths averaged by session; without a task it is the macro
mean.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from . import stats
from .claims import NAN, Analysis, Cell, Contrast, Method, Table, method_of, precedence, run_key, table_of, table_order
from .measures import summary
from .paired_sessions import Paired, averaged, paired, scores
from .parsing import Ignored
from .row import Row


def analyse(rows: Sequence[Row], ignored: Sequence[Ignored] = ()) -> Analysis:
    """Pair, test, pool and average. Deterministic: the order of `rows` does not matter."""
    rows = sorted(rows, key=_row_order)
    done = [row for row in rows if row.ok]
    old = superseded(done)
    references = _references(done)
    counted = [row for row in done if row.path not in old]
    contrasts = _row_contrasts(done, references, old)
    groups = _grouped(counted)
    own = {row.path: _score([[row]]) for row in done}
    families = Counter((table, bool(task)) for table, _, task in groups)  # as `_with_holm` adjusts them
    cells = []
    for (table, method, task), group in groups.items():
        cell = _cell(table, method, task, group, references)
        if task and len(group) == 1:  # nothing to pool: the row's own numbers
            contrast = contrasts.get(group[0].path)
            cell = replace(cell, score=own[group[0].path], contrast=contrast)
        else:
            strata = _strata(group)
            size = families[table, bool(task)]
            contrast = _contrast(strata, references, size) if _is_paired(method, group, references) else None
            cell = replace(cell, score=_score(strata), contrast=contrast)
        found = summary(_strata(group), references, _is_paired(method, group, references))
        cells.append(replace(cell, measures=found))
    return Analysis(
        rows=tuple(rows),
        ignored=tuple(ignored),
        references=references,
        superseded=old,
        contrasts=contrasts,
        scores=own,
        cells=tuple(sorted(_with_fronts(_with_holm(cells)), key=_cell_order)),
        measures={
            row.path: summary([[row]], references, _is_paired(method_of(row), [row], references)) for row in done
        },
    )


def _row_order(row: Row) -> tuple[object, ...]:
    return (
        table_order(table_of(row)),
        row.task,
        not row.is_full,
        row.press,
        row.schedule,
        row.seed,
        -1 if row.depth is None else row.depth,
        row.path,
    )


def _cell_order(cell: Cell) -> tuple[object, ...]:
    ratio = cell.bytes_ratio
    size = -ratio if ratio == ratio else 0.0
    return (
        table_order(cell.table),
        cell.task,
        not cell.method.is_full,
        size,
        -cell.score.mean,
        cell.method[:3],
    )


def superseded(rows: Iterable[Row]) -> frozenset[str]:
    """Paths of finished rows of what another row measures, one of more sessions or as many and newer: the same cell, or
    the same sessions under the name of another depth or of none, which a task that cannot place its evidence gives.
    """
    taken: set[tuple[object, ...]] = set()
    counted: dict[tuple[object, ...], set[str]] = defaultdict(set)
    old: set[str] = set()
    for row in sorted(rows, key=precedence, reverse=True):
        key = (run_key(row), method_of(row))
        sessions = counted[run_key(row)[:3], method_of(row)]
        if key in taken or sessions & row.scores.keys():
            old.add(row.path)
            continue
        taken.add(key)
        sessions.update(row.scores)
    return frozenset(old)


def _references(rows: Sequence[Row]) -> dict[str, Row]:
    """The full-cache row of each row: same table, task, seed, depth; that with most of its sessions, best on the same
    device.
    """
    full: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.is_full:
            full[run_key(row)].append(row)
    found = {}
    for row in rows:
        candidates = [r for r in full[run_key(row)] if r.path != row.path]
        if candidates:

            def closeness(other: Row, row: Row = row) -> tuple[object, ...]:
                shared = len(other.scores.keys() & row.scores.keys())
                return (shared, other.device == row.device, other.schedule == row.schedule, precedence(other))

            found[row.path] = max(candidates, key=closeness)
    return found


def _row_contrasts(rows: Sequence[Row], references: dict[str, Row], old: frozenset[str]) -> dict[str, Contrast]:
    """Holm runs over all methods x tasks of a table; a superseded row gets its raw p only."""
    families: dict[Table, list[Row]] = defaultdict(list)
    for row in rows:
        if not row.is_full and row.path in references:
            families[table_of(row)].append(row)
    contrasts = {}
    for family in families.values():
        made = [_contrast([[row]], references, len(family)) for row in family]
        in_family = [i for i, row in enumerate(family) if row.path not in old]
        adjusted = stats.holm([made[i].p for i in in_family])
        for i, p_holm in zip(in_family, adjusted, strict=True):
            made[i] = replace(made[i], p_holm=p_holm)
        contrasts.update({row.path: c for row, c in zip(family, made, strict=True)})
    return contrasts


def _contrast(strata: list[list[Row]], references: dict[str, Row], family: int) -> Contrast:
    tasks = [paired([(row, references[row.path]) for row in rows]) for rows in strata]
    differences = [task.differences for task in tasks]
    diff = stats.bootstrap_interval(differences)
    return Contrast(
        diff=diff,
        # Holm multiplies the smallest p by the family's size: it must still be able to pass 0.05.
        p=stats.sign_flip_p(differences, resamples=max(stats.RESAMPLES, 40 * family)),
        p_holm=NAN,
        detectable=stats.minimum_detectable_difference(differences),
        verdict=stats.verdict(
            diff, unseen=stats.unseen_loss([(task.differences.size, task.answers) for task in tasks])
        ),
        retention=_retention(tasks),
        flips=stats.flips((r.scores, references[r.path].scores) for rows in strata for r in rows),
    )


def _retention(tasks: Sequence[Paired]) -> float:
    if not all(task.ours.size for task in tasks):
        return NAN
    means = [[float(task.ours.mean()) for task in tasks], [float(task.theirs.mean()) for task in tasks]]
    return stats.retention(_mean(means[0]), _mean(means[1]))


def _is_paired(method: Method, rows: Iterable[Row], references: dict[str, Row]) -> bool:
    return not method.is_full and all(row.path in references for row in rows)


def _grouped(rows: Sequence[Row]) -> dict[tuple[Table, Method, str], list[Row]]:
    groups: dict[tuple[Table, Method, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[table_of(row), method_of(row), row.task].append(row)
        groups[table_of(row), method_of(row), ""].append(row)
    return groups


def _strata(rows: Sequence[Row]) -> list[list[Row]]:
    return [[r for r in rows if r.task == task] for task in sorted({row.task for row in rows})]


def _score(strata: list[list[Row]]) -> stats.Interval:
    return stats.bootstrap_interval([scores(rows) for rows in strata])


def _cell(table: Table, method: Method, task: str, rows: list[Row], references: dict[str, Row]) -> Cell:
    """A cell with its profile over turns; its score and contrast are still to be filled in."""
    strata = _strata(rows)
    ordered = table.mode != "multi-request" and not task
    profiles = [_by_turn(_sessions(stratum)) for stratum in strata]
    later = [stratum for stratum, profile in zip(strata, profiles, strict=True) if len(profile) > 1]
    curves = [profile for profile in profiles if len(profile) > 1] or profiles
    turns = min(len(profile) for profile in curves)
    return Cell(
        table=table,
        method=method,
        task=task,
        rows=tuple(rows),
        score=stats.bootstrap_interval([]),
        contrast=None,
        by_turn=tuple(_mean([p[t] for p in curves]) for t in range(turns)),
        first=_mean([p[0] for p in profiles]),
        later=_mean([_later(_sessions(stratum)) for stratum in later]),
        later_tasks=tuple(stratum[0].task for stratum in later),
        interaction=_interaction(later, references) if ordered and _is_paired(method, rows, references) else None,
        tasks=len(strata),
        tasks_in_table=1,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else NAN


def _sessions(rows: Iterable[Row]) -> list[list[float]]:
    return [turns for row in rows for turns in row.scores.values()]


def _by_turn(sessions: Sequence[Sequence[float]]) -> list[float]:
    longest = max(len(turns) for turns in sessions)
    return [_mean([s[t] for s in sessions if len(s) > t]) for t in range(longest)]


def _later(sessions: Sequence[Sequence[float]]) -> float:
    return _mean([_mean(turns[1:]) for turns in sessions if len(turns) > 1])


def _interaction(strata: list[list[Row]], references: dict[str, Row]) -> stats.Interval | None:
    """How much more the method loses on later turns than on the first one, paired by session."""
    values = []
    for rows in strata:
        changes = []
        for row in rows:
            other = references[row.path].scores
            for session in sorted(row.scores.keys() & other.keys()):
                ours, theirs = row.scores[session], other[session]
                if len(ours) > 1 and len(theirs) > 1:
                    changes.append((row, session, _mean(ours[1:]) - ours[0] - _mean(theirs[1:]) + theirs[0]))
        values.append(averaged(changes))
    return stats.bootstrap_interval(values) if values and all(v.size for v in values) else None


def _with_holm(cells: list[Cell]) -> list[Cell]:
    """Adjust p within each table: the macro contrasts are one family, the single tasks another."""
    families: dict[tuple[Table, bool], list[int]] = defaultdict(list)
    tasks: dict[Table, set[str]] = defaultdict(set)
    for i, cell in enumerate(cells):
        if cell.contrast:
            families[cell.table, bool(cell.task)].append(i)
        if cell.task:
            tasks[cell.table].add(cell.task)
    adjusted = list(cells)
    for family in families.values():
        ps = stats.holm([c.p for i in family if (c := cells[i].contrast)])
        for i, p_holm in zip(family, ps, strict=True):
            contrast = cells[i].contrast
            assert contrast is not None
            adjusted[i] = replace(cells[i], contrast=replace(contrast, p_holm=p_holm))
    return [replace(c, tasks_in_table=1 if c.task else len(tasks[c.table])) for c in adjusted]


def _with_fronts(cells: list[Cell]) -> list[Cell]:
    """Mark what nothing with as few bytes beats per table and task, and what nothing as fast does on one device."""
    small: dict[tuple[object, ...], dict[int, float]] = defaultdict(dict)
    fast: dict[tuple[object, ...], dict[int, float]] = defaultdict(dict)
    for i, cell in enumerate(cells):
        if not cell.complete or cell.control:
            continue
        if (size := cell.bytes_ratio) == size:
            small[cell.table, cell.task][i] = size
        if cell.device and not cell.disturbed and (time := cell.mean_of("tpot_s")) == time and time > 0:
            fast[cell.table, cell.task, cell.device][i] = time
    on_front = [{i for group in groups.values() for i in _front(cells, group)} for groups in (small, fast)]
    return [replace(cell, front=i in on_front[0], fast_front=i in on_front[1]) for i, cell in enumerate(cells)]


def _front(cells: list[Cell], costs: dict[int, float]) -> list[int]:
    """Cells that score higher than every cell that costs as little."""
    best, found = -1.0, []
    for i in sorted(costs, key=lambda i: (costs[i], -cells[i].score.mean)):
        if cells[i].score.mean > best + 1e-12:
            best = cells[i].score.mean
            found.append(i)
    return found
