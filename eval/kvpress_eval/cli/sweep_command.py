"""``kvpress sweep``, ``study``, ``merge``, ``pack``, ``diff``: what they print; every function returns an exit code."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..errors import UsageError
from ..machine.console import Console, console
from ..machine.files import check_folder, write_out
from ..machine.threads import begin
from ..models import PRETRAINED, find
from ..models.quiet import be_quiet
from ..rows.row import Row
from ..rows.row_files import load_rows
from ..runs.config import RunConfig
from ..sources import find_sources
from ..sweeps.estimate import Estimator, Remaining, time_text
from ..sweeps.grid import LARGE, SweepConfig, load_sweep
from ..sweeps.launchers import launcher
from ..sweeps.merge import compared, merge, pack, same_results
from ..sweeps.sweep import Watcher, check_presses, finished, run_sweep
from .plan import print_plan, print_too_many, print_unbuildable
from .printing import cell_text, row_line

__all__ = ["ACTIONS"]


def _sweep(options: argparse.Namespace) -> int:
    return _run_all(load_sweep(options.config, options.overrides), options)


def _study(options: argparse.Namespace) -> int:
    from ..studies import get_study

    study = get_study(options.study)
    out = options.out or options.results.parent / f"{study.name}.md"
    check_folder(out.parent, "--out")
    if not options.report_only:
        from ..runs import evidence_oracle  # noqa: F401  registers its press

        failed = _run_all(study.sweep(options.overrides), options)
        if failed or options.dry_run:
            return failed
    text = study.report(options.results, options.overrides)
    write_out(out, text)
    print(text)
    console().print(f"written: {out}", soft_wrap=True)
    return 0


def _run_all(sweep: SweepConfig, options: argparse.Namespace) -> int:
    out = console()
    if options.dry_run and (count := sweep.count()) > LARGE:
        check_presses(sweep.examples())
        print_too_many(out, count)
        return 0
    configs = sweep.cells()
    if not options.dry_run:
        check_folder(options.results, "--results")
        find_sources(configs)
    check_presses(configs)
    rows = load_rows(options.results)
    before = Estimator(rows)
    if options.dry_run:
        there = [False] * len(configs) if options.force else finished(configs, rows)
        _print_dry_run(out, configs, there, before, options)
        return 0
    be_quiet()
    begin(options.settled)
    asked = (options.launcher, options.jobs, options.cpus_per_cell, options.gpus_per_cell, options.address)
    with launcher(*asked) as where:
        out.print(where.told(), style="dim")
        remaining = Remaining(configs, before, where.slots)
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), _Left(remaining))
        with Progress(*columns, TextColumn("{task.description}", markup=False), console=out) as progress:
            bar = progress.add_task("loading", total=len(configs))

            def start(config: RunConfig) -> None:
                remaining.start(config)
                progress.update(bar, description=cell_text(config))

            def end(config: RunConfig, row: Row, path: Path, ran: bool) -> None:
                remaining.end(config, row, ran)
                progress.advance(bar)
                progress.console.print(row_line(row, ran), soft_wrap=True)

            def waiting(cells: int) -> None:
                progress.update(bar, description=f"another sweep runs the last {cells}")

            watcher = Watcher(start, end=end, waiting=waiting)
            outcome = run_sweep(configs, options.results, options.force, watcher, where=where)
            progress.update(bar, description="done", total=progress.tasks[0].completed)
    told = f"{outcome.ran} run, {outcome.skipped} already there, {outcome.failed} failed"
    if outcome.unreachable:
        told += f", {outcome.unreachable} cannot hold the bytes asked for"
    told += f", {outcome.taken} taken by another sweep"
    out.print(f"{told}; rows in {options.results}", soft_wrap=True)
    return 1 if outcome.failed else 0


def _print_dry_run(
    out: Console, configs: list[RunConfig], there: list[bool], before: Estimator, options: argparse.Namespace
) -> None:
    from ..runs.buildable import unbuildable

    be_quiet()
    missing = [config for config, done in zip(configs, there, strict=True) if not done]
    with out.status("counting what each cell needs"):
        problems, unknown = unbuildable(missing)
    print_plan(out, configs, there, before, problems)
    print_unbuildable(out, problems, unknown)
    absent = {*PRETRAINED, *unknown}  # of the others the tokenizer was read
    for model, dtype in dict.fromkeys((config.model, config.dtype) for config in missing if config.model in absent):
        try:
            find(model, dtype)
        except UsageError as error:
            out.print(Text(str(error), style="yellow"))
    bad = {problem.config for problem in problems}
    jobs = options.jobs or (None if options.launcher == "ray" else 1)
    left = [config for config in missing if config not in bad]
    out.print(_estimate(before, left, jobs), soft_wrap=True)


def _estimate(before: Estimator, missing: list[RunConfig], jobs: int | None) -> str:
    """What a sweep will take; ``jobs`` is None for as many as a cluster has room for."""
    if not missing:
        return "nothing to run"
    unknown = sum(before.seconds(config) is None for config in missing)
    total = before.total(missing, jobs or 1)
    if total is None:
        which = "" if unknown == len(missing) else f" ({unknown} of {len(missing)} cells are of a model without one)"
        return f"no estimate: no finished row to judge by{which}"
    at_once = "one at a time" if jobs is None else "with 1 job" if jobs == 1 else f"with {jobs} jobs"
    told = f"about {time_text(total)} for {len(missing)} cells {at_once}, judged by the finished rows"
    return told + ("; Ray runs as many at once as the cluster has room for" if jobs is None else "")


class _Left(ProgressColumn):
    """``left 3:20``."""

    max_refresh = 0.5

    def __init__(self, remaining: Remaining) -> None:
        super().__init__()
        self.remaining = remaining

    def render(self, task: Task) -> Text:
        seconds = self.remaining.seconds()
        return Text(f"left {'-:--' if seconds is None else time_text(seconds)}", style="progress.remaining")


def _merge(options: argparse.Namespace) -> int:
    found = merge(options.sources, options.into)
    out = console()
    for line in found.invalid:
        out.print(Text.assemble(("not a row", "red"), f" {line}"), soft_wrap=True)
    for path in found.lacking:
        out.print(Text.assemble(("without its answers", "yellow"), f" {path}"), soft_wrap=True)
    told = f"{found.new} new, {found.replaced} replaced, {found.kept} already there or older"
    out.print(f"{told}, {len(found.invalid)} not rows; rows in {options.into}", soft_wrap=True)
    return 1 if found.invalid else 0


def _pack(options: argparse.Namespace) -> int:
    out, none = console(), True
    for path, rows in pack(options.results):
        out.print(f"{rows} rows in {path}", soft_wrap=True)
        none = False
    if none:
        out.print(f"no row has a file of its own in {options.results}", soft_wrap=True)
    return 0


def _diff(options: argparse.Namespace) -> int:
    lines = same_results(options.first, options.second)
    out = console()
    for line in lines:
        out.print(line, soft_wrap=True)
    count = compared(options.first, options.second)
    if not lines:
        out.print(f"{count} rows are the same but for times, memory and versions", soft_wrap=True)
    else:
        out.print(f"{len(lines)} of {count} rows differ", soft_wrap=True)
    return 1 if lines else 0


ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "sweep": _sweep,
    "study": _study,
    "merge": _merge,
    "pack": _pack,
    "diff": _diff,
}
