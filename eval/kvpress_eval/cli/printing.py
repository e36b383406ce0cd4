"""What the command prints: tables and summaries, with rich."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ..machine import disturbance
from ..machine.console import Console
from ..rows.amounts import spaced
from ..rows.numbers import DISTURBED, NONE, nats
from ..rows.press_text import named
from ..rows.row import Row
from ..runs.config import RunConfig

__all__ = [
    "bytes_text",
    "cell_text",
    "difference",
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
    """The paired difference to the full cache with its 95 % interval: in points; of forced texts that of NLL."""
    from ..rows.stats import bootstrap_interval, paired_differences

    told, n = _change(row, full, "nll" if row.forced else "gold_logprob")
    if row.forced:
        return f"{told} (95 %, {n} passages paired)" if n else "no passage in common with the full cache's row"
    ours = dict(zip(row.session_ids, row.session_scores, strict=True))
    theirs = dict(zip(full.session_ids, full.session_scores, strict=True))
    found = bootstrap_interval([paired_differences(ours, theirs)])
    if not found.n:
        return "no session in common with the full cache's row"
    gold = f"; {told}" if n else ""
    if math.isnan(found.low):
        return f"{100 * found.mean:+.1f} points (too few sessions for an interval){gold}"
    return (
        f"{100 * found.mean:+.1f} points [{100 * found.low:+.1f}, {100 * found.high:+.1f}] "
        f"(95 %, {found.n} sessions paired with the full cache's {_percent(full.score)}){gold}"
    )


def _change(row: Row, full: Row, name: str) -> tuple[str, int]:
    """The paired difference of a measure, and of how many sessions: 0 where one of the rows does not have it."""
    from ..rows.measures import MEASURES
    from ..rows.stats import bootstrap_interval, paired_differences

    ours, theirs = (dict(zip(one.session_ids, one.measures.get(name, []), strict=False)) for one in (row, full))
    found = bootstrap_interval([paired_differences(ours, theirs)])
    return f"{MEASURES[name].title} {MEASURES[name].difference(found)}", found.n


def print_row(console: Console, row: Row, path: Path, against: str) -> None:
    """Print one row for people."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _facts(row, against):
        table.add_row(name, str(value))
    console.print(table)
    # unwrapped, to be copied
    for name, value in (("file     ", str(path)), ("command  ", row.command)):
        console.print(Text(name, style="bold").append(value, style="not bold"), soft_wrap=True)


KEPT_ALL = "this press changed nothing (it keeps all, or no session is long enough): it was measured as the full cache"


def _facts(row: Row, against: str) -> Iterable[tuple[str, str]]:
    yield "press", row.press_spec
    if row.target:
        yield "asked for", named(row.asked, row.target)
    seen = "question visible" if row.question_visible else "question hidden"
    how = f"{row.mode}, {row.schedule} ({seen}), {row.history} history"
    if row.forced:
        how = f"{row.forced} tokens forced after {row.length:,}, " + (
            f"{row.forced_step} at a time" if row.forced_step else "at once"
        )
    yield "task", f"{row.task} ({row.rendering}), {how}"
    if row.forced:
        yield "text", row.source
    if row.status != "ok":
        yield row.status, row.error or "unknown error"
    else:
        if row.forced:
            yield from _forced(row)
        else:
            by_turn = " ".join(f"{100 * s:.0f}" for s in row.score_by_turn)
            count = f"{row.sessions} sessions, {row.turns} questions"
            chance = "" if row.chance is None else f", chance {100 * row.chance:.1f}"
            yield "score", f"{_percent(row.score)} by turn {by_turn} ({count}{chance})"
        yield "against full", against
        yield from (("premise", premise_text(found)) for found in row.premises)
        if row.extras:
            yield "beside the score", ", ".join(f"{name} {100 * mean:.1f}" for name, mean in row.extras.items())
        if gold := _gold(row):
            yield "gold answers", gold
        if row.hit_limit or row.empty:
            yield (
                "answers",
                f"{_percent(row.hit_limit, 0)} % hit the length limit, {_percent(row.empty, 0)} % empty",
            )
        if row.answers:
            yield "read them", str(row.answers.get("cut") or "") or f"kvpress answers {row.run_id}"
        kinds = ", ".join(f"{kind} {bytes_text(n)}" for kind, n in row.bytes_by_kind.items())
        share = f"{_percent(row.bytes_ratio)} % of dense {bytes_text(row.bytes_dense)}"
        yield "cache", f"{bytes_text(row.bytes)}, {share} ({kinds})"
        if row.kept_all:
            yield "kept everything", KEPT_ALL
        yield "while answering", _loading(row)
        if row.save_s is not None and row.load_s is not None:
            same = "exact" if row.reload_exact else "NOT the same afterwards"
            times = f"saved in {_time(row, 1e3 * row.save_s)} ms, loaded in {_time(row, 1e3 * row.load_s)} ms, {same}"
            yield "prefix on disk", f"{bytes_text(row.file_bytes)}, {times}"
        if row.not_measured:
            yield "not measured", row.not_measured
        yield "peak memory", f"{bytes_text(row.peak_memory)} {row.peak_kind or ''}".strip()
        yield (
            "times",
            f"first token {_milliseconds(row, row.ttft_s, 1)} ({_time(row, row.prefill_tps, 0)} prompt tokens/s), "
            f"further tokens {_milliseconds(row, row.tpot_s)}, compression {_milliseconds(row, row.press_s, 1)}, "
            f"all {_time(row, row.seconds)} s on {row.device}, {row.dtype}",
        )
        if row.quiet is False:
            yield f"{DISTURBED} disturbed", f"{disturbance.about(row.disturbance)}: compare no time of this row"


def _time(row: Row, value: float | None, digits: int = 1) -> str:
    """A time or a rate, marked where other programs disturbed it."""
    return "not measured" if value is None else f"{value:,.{digits}f}{DISTURBED if row.quiet is False else ''}"


def _percent(share: float | None, digits: int = 1) -> str:
    return NONE if share is None else f"{100 * share:.{digits}f}"


def premise_text(found: Mapping[str, Any]) -> str:
    """What a press takes for granted, and whether the model has it."""
    told = "holds" if found["holds"] else "does NOT hold: expect a loss"
    return f"{found['says']}: {told} ({found['measures']} {found['figure']:.2f}, at least {found['bound']:.2f})"


def _milliseconds(row: Row, seconds: float | None, digits: int = 2) -> str:
    return "not measured" if seconds is None else f"{_time(row, 1e3 * seconds, digits)} ms"


def _forced(row: Row) -> Iterable[tuple[str, str]]:
    """What the full cache would have predicted otherwise, over all forced tokens and by their distance from the cut."""
    found = {name: _mean(values) for name, values in row.measures.items()}
    yield "score", f"{_percent(row.score)} % of the tokens predicted as by the full cache ({row.sessions} passages)"
    yield "divergence", f"KL {nats(found['kl'])} nats a token; the text's NLL is {nats(found['nll'])}"
    by_bin = {name.partition("@")[2]: value for name, value in found.items() if name.startswith("kl@")}
    yield "KL by distance", ", ".join(f"{name}: {nats(value)}" for name, value in by_bin.items())


def _mean(values: Sequence[Sequence[float | None]]) -> float:
    known = [value for session in values for value in session if value is not None]
    return sum(known) / len(known) if known else math.nan


def _gold(row: Row) -> str:
    """How likely the gold answers were."""
    named = {"gold_logprob": "log-probability {:.3f} a token", "gold_argmax": "likeliest throughout in {:.0%}"}
    parts = []
    for name, words in named.items():
        values = [value for turns in row.measures.get(name, []) for value in turns if value is not None]
        if values:
            parts.append(words.format(sum(values) / len(values)))
    return ", ".join(parts)


def _loading(row: Row) -> str:
    read = f"a step reads {bytes_text(row.step_bytes)} at {row.decode_length or 0:,.0f} tokens seen"
    fork = "" if row.fork_s is None else f"; a fork takes {_time(row, 1e3 * row.fork_s)} ms"
    return f"{read}{fork}; at most {bytes_text(row.session_bytes)} a session"


def row_line(row: Row, ran: bool) -> Text:
    """One row on one line."""
    solved = f" (at {spaced(row.target)})" if row.target else ""
    what = f"{row.task} {row.mode} {row.length} {row.press}{solved}"
    if row.status != "ok":
        return Text.assemble((row.status, "red" if row.status == "failed" else "yellow"), f" {what}: {row.error or ''}")
    state = f"{row.seconds or 0:5.1f} s{DISTURBED if row.quiet is False else ''}" if ran else "present"
    kl = f"  KL {nats(_mean(row.measures['kl'])):>8}" if "kl" in row.measures else ""
    line = Text(f"{state}  {_percent(row.score):>5}{kl}  {_percent(row.bytes_ratio):>5} % bytes  {what}")
    return line.append("  kept everything", style="yellow") if row.kept_all else line


def two_columns(console: Console, title: str, items: Mapping[str, str]) -> None:
    """Print names with their descriptions."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, about in items.items():
        table.add_row(name, about)
    console.print(table)
    console.print()
