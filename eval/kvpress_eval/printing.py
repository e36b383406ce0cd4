"""What the command prints: tables and summaries, with rich."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .config import RunConfig
from .estimate import Estimator, time_text
from .page.presses import named, spaced
from .rows import Row

__all__ = [
    "bytes_text",
    "cell_text",
    "difference",
    "plan_table",
    "print_row",
    "row_line",
    "two_columns",
]


def bytes_text(n: float | None) -> str:
    """A size for people: ``1.2 MiB``."""
    if n is None:
        return "not measured"
    for unit in ("B", "KiB", "MiB"):
        if abs(n) < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.2f} GiB"


def cell_text(config: RunConfig) -> str:
    """A cell in a few words."""
    return f"{config.model} · {named(config.press, config.bytes)} · {config.task} · {config.mode} · {config.length}"


def difference(row: Row, full: Row) -> str:
    """The paired difference to the full cache with its 95 % interval, in points."""
    from .stats import bootstrap_interval, paired_differences

    ours = dict(zip(row.session_ids, row.session_scores, strict=True))
    theirs = dict(zip(full.session_ids, full.session_scores, strict=True))
    found = bootstrap_interval([paired_differences(ours, theirs)])
    if not found.n:
        return "no session in common with the full cache's row"
    if math.isnan(found.low):
        return f"{100 * found.mean:+.1f} points (too few sessions for an interval)"
    return (
        f"{100 * found.mean:+.1f} points [{100 * found.low:+.1f}, {100 * found.high:+.1f}] "
        f"(95 %, {found.n} sessions paired with the full cache's {100 * full.score:.1f})"
    )


def print_row(console: Console, row: Row, path: Path, against: str) -> None:
    """Print one row for people."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _facts(row, against):
        table.add_row(name, escape(value))
    console.print(table)
    # unwrapped, to be copied
    console.print(f"[bold]file[/]     {escape(str(path))}", soft_wrap=True, highlight=False)
    console.print(f"[bold]command[/]  {escape(row.command)}", soft_wrap=True, highlight=False)


KEPT_ALL = "no prompt is long enough for this press to change anything: it was measured as the full cache"


def _facts(row: Row, against: str) -> Iterable[tuple[str, str]]:
    yield "press", row.press_spec
    if row.target:
        yield "asked for", named(row.asked, row.target)
    seen = "question visible" if row.question_visible else "question hidden"
    yield (
        "task",
        f"{row.task} ({row.rendering}), {row.mode}, {row.schedule} ({seen}), {row.history} history",
    )
    if row.status != "ok":
        yield "failed", row.error or "unknown error"
    else:
        by_turn = " ".join(f"{100 * s:.0f}" for s in row.score_by_turn)
        count = f"{row.sessions} sessions, {row.turns} questions"
        chance = "" if row.chance is None else f", chance {100 * row.chance:.1f}"
        yield "score", f"{100 * row.score:.1f} by turn {by_turn} ({count}{chance})"
        yield "against full", against
        if row.extras:
            yield "beside the score", ", ".join(f"{name} {100 * mean:.1f}" for name, mean in row.extras.items())
        if row.hit_limit or row.empty:
            yield (
                "answers",
                f"{100 * row.hit_limit:.0f} % hit the length limit, {100 * row.empty:.0f} % empty",
            )
        kinds = ", ".join(f"{kind} {bytes_text(n)}" for kind, n in row.bytes_by_kind.items())
        share = f"{100 * row.bytes_ratio:.1f} % of dense {bytes_text(row.bytes_dense)}"
        yield "cache", f"{bytes_text(row.bytes)}, {share} ({kinds})"
        if row.kept_all:
            yield "kept everything", KEPT_ALL
        yield "while answering", _loading(row)
        if row.save_s is not None and row.load_s is not None:
            same = "exact" if row.reload_exact else "NOT the same afterwards"
            times = f"saved in {1e3 * row.save_s:.1f} ms, loaded in {1e3 * row.load_s:.1f} ms, {same}"
            yield "prefix on disk", f"{bytes_text(row.file_bytes)}, {times}"
        if row.not_measured:
            yield "not measured", row.not_measured
        yield "peak memory", f"{bytes_text(row.peak_memory)} {row.peak_kind or ''}".strip()
        press_s = "not measured" if row.press_s is None else f"{1e3 * row.press_s:.1f} ms"
        yield (
            "times",
            f"first token {1e3 * row.ttft_s:.1f} ms ({row.prefill_tps:,.0f} prompt tokens/s), "
            f"further tokens {1e3 * row.tpot_s:.2f} ms, "
            f"compression {press_s}, all {row.seconds:.1f} s on {row.device}, {row.dtype}",
        )


def _loading(row: Row) -> str:
    read = f"a step reads {bytes_text(row.step_bytes)} at {row.decode_length:,.0f} tokens seen"
    fork = "" if row.fork_s is None else f"; a fork takes {1e3 * row.fork_s:.1f} ms"
    return f"{read}{fork}; at most {bytes_text(row.session_bytes)} a session"


def row_line(row: Row, ran: bool) -> str:
    """One row on one line (rich markup)."""
    solved = f" (at {spaced(row.target)})" if row.target else ""
    what = escape(f"{row.task} {row.mode} {row.length} {row.press}{solved}")
    if row.status != "ok":
        return f"[red]failed[/] {what}: {escape(row.error or '')}"
    state = f"{row.seconds:5.1f} s" if ran else "present"
    kept = "  [yellow]kept everything[/]" if row.kept_all else ""
    return f"{state}  {100 * row.score:5.1f}  {100 * row.bytes_ratio:5.1f} % bytes  {what}{kept}"


def plan_table(configs: Sequence[RunConfig], there: Sequence[bool], judge: Estimator) -> Table:
    """The cells of a sweep, with the time and bytes that rows like them suggest."""
    table = Table(title=f"{len(configs)} cells, {sum(there)} finished")
    for name in ("model", "press", "task", "mode", "length", "seed", "questions", "time", "cache", "state"):
        table.add_column(name, overflow="fold")
    for config, done in zip(configs, there, strict=True):
        questions = f"{config.sessions} x {config.turns or 'all'}"
        numbers = (str(config.length), str(config.seed), questions)
        words = (config.model, named(config.press, config.bytes), config.task, config.mode, *numbers)
        seconds, size = judge.seconds(config), judge.cache_bytes(config)
        about = (
            "" if done or seconds is None else "< 1 s" if seconds < 1 else time_text(seconds),
            "" if size is None else bytes_text(size),
        )
        table.add_row(*map(escape, words), *about, "finished" if done else "to run")
    return table


def two_columns(console: Console, title: str, items: Mapping[str, str]) -> None:
    """Print names with their descriptions."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, about in items.items():
        table.add_row(escape(name), escape(about))
    console.print(table)
    console.print()
