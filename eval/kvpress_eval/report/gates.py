"""Sanity gates: what must hold in any honest set of results, computed from the rows themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..rows.claims import Analysis, table_of
from ..rows.press_text import keeps_everything
from ..rows.row import Row

ALPHA = 0.05


@dataclass(frozen=True)
class Gate:
    """One check of all rows that it applies to; `failures` name the offenders."""

    name: str
    claim: str
    checked: int
    failures: tuple[str, ...]
    note: str = ""

    @property
    def verdict(self) -> str:
        """pass, fail or not checked."""
        return "fail" if self.failures else "pass" if self.checked else "not checked"


def tally(gates: Sequence[Gate]) -> str:
    """`4 of 6 pass, 1 fails, 1 not checked`."""
    verdicts = [gate.verdict for gate in gates]
    parts = [f"{verdicts.count('pass')} of {len(gates)} pass"]
    if bad := verdicts.count("fail"):
        parts.append(f"{bad} {'fails' if bad == 1 else 'fail'}")
    if unknown := verdicts.count("not checked"):
        parts.append(f"{unknown} not checked")
    return ", ".join(parts)


def run_gates(analysis: Analysis) -> list[Gate]:
    """All gates, in the order they are shown. Imported rows claim scores only, and one run counts once."""
    done = [row for row in analysis.rows if row.ok]
    ours = [row for row in done if row.measured and not row.twin]
    presses = [row for row in ours if not (keeps_everything(row.press) or row.kept_all)]
    return [
        _full_is_best(analysis),
        _keep_all_is_full(analysis, ours),
        _gate(
            "claimed bytes are measured bytes",
            "bytes by kind add up to bytes, and bytes / dense bytes is the ratio stated",
            ours,
            _bytes_problem,
        ),
        _gate(
            "a press saves bytes",
            "every press that drops or packs something holds fewer bytes than the dense cache",
            presses,
            _saving_problem,
        ),
        _gate(
            "scores follow from sessions",
            "the score of a row is the mean of its session scores",
            [row for row in done if not row.twin],
            _score_problem,
        ),
        _gate(
            "every row is paired",
            "each press was measured on the very sessions of a full-cache run",
            [row for row in ours if not row.is_full],
            lambda r: _pairing_problem(r, analysis.references.get(r.path)),
        ),
    ]


def _full_is_best(analysis: Analysis) -> Gate:
    failures = []
    checked = 0
    for cell in analysis.cells:
        if cell.contrast is None:
            continue
        checked += 1
        if cell.contrast.diff.mean > 0 and cell.contrast.p_holm < ALPHA:
            failures.append(
                f"{cell.method.name} on {cell.task or 'all tasks'} ({_where(cell.rows[0])}): "
                f"{100 * cell.contrast.diff.mean:+.1f} points, p {cell.contrast.p_holm:.2g}"
            )
    return Gate(
        "full cache at least as good",
        f"no press is better than the full cache beyond noise (Holm-adjusted p < {ALPHA:g})",
        checked,
        tuple(failures),
    )


def _keep_all_is_full(analysis: Analysis, done: list[Row]) -> Gate:
    checked, failures, elsewhere = 0, [], 0
    for row in done:
        other = analysis.references.get(row.path)
        if other is None or not keeps_everything(row.press) or _is_reference(row, analysis):
            continue
        if not (shared := row.scores.keys() & other.scores.keys()):
            continue
        if _environment(row) != _environment(other):
            elsewhere += 1
            continue
        checked += 1
        if changed := _changed(row, other, shared):
            failures.append(f"{_name(row)}: {changed} of {len(shared)} sessions differ")
    note = f"{elsewhere} more ran in another environment than their full cache" if elsewhere else ""
    return Gate(
        "keeping everything changes nothing",
        "a press that keeps all slots, and a repeat of the full cache, score like it in every turn",
        checked,
        tuple(failures),
        note,
    )


def _changed(row: Row, other: Row, sessions: Iterable[str]) -> int:
    """How many sessions score otherwise: by the row's scorer, or by the released one where both were scored by it."""
    kinds = [(row.scores, other.scores)]
    if (mine := row.by_reference()) and (its := other.by_reference()):
        kinds.append((mine.scores, its.scores))
    return sum(any(ours.get(s) != theirs.get(s) for ours, theirs in kinds) for s in sessions)


def _is_reference(row: Row, analysis: Analysis) -> bool:
    """A full-cache row in use: its repeats are checked against it, not it against them."""
    return row.is_full and row.path not in analysis.superseded


def _environment(row: Row) -> tuple[object, ...]:
    return (row.device, row.dtype, row.threads, row.versions)


def _bytes_problem(row: Row) -> str | None:
    if row.bytes is None or not row.bytes_by_kind:
        return "no byte ledger"
    total = sum(row.bytes_by_kind.values())
    if total != row.bytes:
        return f"kinds add up to {total:,} bytes, {row.bytes:,} claimed"
    if row.bytes_dense and row.bytes_ratio is not None:
        ratio = row.bytes / row.bytes_dense
        if abs(ratio - row.bytes_ratio) > 0.02 * ratio:
            return f"bytes/dense is {ratio:.4f}, {row.bytes_ratio:.4f} claimed"
    return None


def _saving_problem(row: Row) -> str | None:
    if row.bytes_ratio is None:
        return "bytes/dense not stated"
    return None if row.bytes_ratio < 1 else f"bytes/dense {row.bytes_ratio:.3f}"


def _score_problem(row: Row) -> str | None:
    turns = [score for session in row.scores.values() for score in session]
    by_session = sum(sum(s) / len(s) for s in row.scores.values()) / row.sessions
    # With unequal numbers of turns the mean over sessions and the mean over turns are both honest.
    nearest = min(abs((row.score or 0) - m) for m in (by_session, sum(turns) / len(turns)))
    if row.score is None or nearest > 1e-4:
        return f"score {row.score} stated, {by_session:.4f} from the sessions"
    return None


def _pairing_problem(row: Row, other: Row | None) -> str | None:
    if other is None:
        return "no full-cache row"
    missing = len(row.scores.keys() - other.scores.keys())
    return f"{missing} of {row.sessions} sessions are not in the full-cache row" if missing else None


def _gate(name: str, claim: str, rows: Iterable[Row], problem: Callable[[Row], str | None]) -> Gate:
    checked, failures = 0, []
    for row in rows:
        checked += 1
        if (found := problem(row)) is not None:
            failures.append(f"{_name(row)}: {found}")
    return Gate(name, claim, checked, tuple(failures))


def _name(row: Row) -> str:
    return f"{row.press} on {row.task} ({_where(row)})"


def _where(row: Row) -> str:
    table = table_of(row)
    depth = [] if row.depth is None else [f"depth {row.depth} %"]
    return ", ".join(str(part) for part in (*table[:6], *depth, *table.special) if part)
