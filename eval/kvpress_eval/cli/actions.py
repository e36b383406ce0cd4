"""What each subcommand of ``kvpress`` does; every function returns an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from rich.text import Text

from kvpress.checks import Check

from ..errors import UsageError, choose
from ..machine.console import Console, console
from ..machine.files import check_folder
from ..machine.threads import begin, threads_text
from ..models import BUNDLED, PRETRAINED, find, load_model
from ..models.quiet import be_quiet
from ..rows.row import Row
from ..rows.row_files import load_rows
from ..runs.config import DTYPES, RunConfig, with_press
from ..sources import find_sources
from ..suites import TASKS, get_task, suite
from ..sweeps.sweep import Watcher, check_presses, run_sweep
from . import sweep_command
from .models_command import check as models_here
from .models_command import models
from .printing import bytes_text, cell_text, difference, print_row, two_columns

__all__ = ["ACTIONS"]


def _run(options: argparse.Namespace) -> int:
    given = {f.name: getattr(options, f.name) for f in fields(RunConfig)}
    config = RunConfig(**{name: value for name, value in given.items() if value is not None})
    check_folder(options.results, "--results")
    find(config.model, config.dtype)
    find_sources([config])
    check_presses([config])
    be_quiet()
    out = console()
    out.print(threads_text(begin(options.settled)), style="dim")
    got: list[tuple[Row, Path, bool]] = []
    # a status takes a string for markup, whatever its console does
    with out.status(Text(f"loading {config.model}")) as status:
        told = cell_text(config)
        watcher = Watcher(
            session=lambda done: status.update(Text(f"{told} · session {done}/{config.sessions}")),
            end=lambda config, row, path, ran: got.append((row, path, ran)),
            waiting=lambda cells: status.update(Text(f"{told} · another process runs it")),
        )
        run_sweep([config], options.results, options.force, watcher, strict=True)
    row, path, ran = got[0]
    if not ran:
        out.print("already there (--force runs it again)")
    print_row(out, row, path, _against_full(config, row, options.results))
    return 0 if row.status == "ok" else 1


def _against_full(config: RunConfig, row: Row, results: Path) -> str:
    """The paired difference to the full cache's row of the same cell, if there is one."""
    if row.press == "full":
        return "this is the full cache"
    command = with_press(config, "full").command()
    same = [
        full
        for full in load_rows(results)
        if full.command == command and full.status == "ok" and (full.device, full.dtype) == (row.device, row.dtype)
    ]
    if not same or row.status != "ok":
        return f"not known; run it: {command}"
    return difference(row, same[0])


def _report(options: argparse.Namespace) -> int:
    from ..report.generate import print_summary, read, stale, write

    if not options.results.is_dir():
        raise UsageError(f"no such folder: {options.results}; run a sweep first, or name it with --results")
    if not options.check:
        check_folder(options.out, "--out")
    out = console()
    found = read(options.results)
    if options.check:
        old = stale(found, options.out)
        for path in old:
            out.print(f"{path} is not what the rows say; run kvpress report without --check")
        return 1 if old else 0
    if not found.analysis.rows:
        others = "; ".join(f"{item.path}: {item.reason}" for item in found.analysis.ignored[:3])
        raise UsageError(f"no rows in {options.results}" + (f" ({others})" if others else "; run a sweep first"))
    written = write(found, options.out)  # before anything is printed, so that nothing in a row can keep it from it
    print_summary(found, out)
    out.print(f"written: {written}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from ..report.comparison_tables import print_comparisons
    from ..rows.compare import Asked, compare, spelled
    from ..rows.parsing import read_rows

    if not options.results.is_dir():
        raise UsageError(f"no such folder: {options.results}; run a sweep first, or name it with --results")
    for task in options.tasks:
        get_task(task)
    rows, _ = read_rows(options.results)
    first, second = (Asked.of(spelled(text, rows), options.bytes) for text in (options.first, options.second))
    print_comparisons(list(compare(rows, first, second, options.tasks)), first, second, console())
    return 0


def _answers(options: argparse.Namespace) -> int:
    from .answers_command import answers

    return answers(options)


def _data(options: argparse.Namespace) -> int:
    from ..sources.session_files import write

    tasks = [name for given in options.task for name in suite(given) or [given]]
    sizes = options.length, options.sessions, options.turns, options.seed
    asking = [task for task in tasks if get_task(task).kind == "questions"]
    for name, usual in (("forced", RunConfig.forced), ("text", [])):
        if asking == tasks and getattr(options, name) != usual:
            raise UsageError(f"--{name} is for the tasks of suite lm, and {' '.join(tasks)} is none; leave it out")
    check_folder(options.out, "--out")
    be_quiet()
    written = write(asking, options.out, *sizes, options.model) if asking else []
    for path in [*written, *_passages([task for task in tasks if task not in asking], options)]:
        console().print(f"written: {path}", soft_wrap=True)
    return 0


def _passages(tasks: Sequence[str], options: argparse.Namespace) -> list[Path]:
    """The files of tasks that force a text, as token ids."""
    from ..sources.peer_inputs import write_passages
    from ..sources.session_files import tokens_of

    if not tasks:
        return []
    if not options.model:
        raise UsageError(f"the passages of {tasks[0]} are token ids; say whose with --model")
    sizes = {"length": options.length, "sessions": options.sessions, "seed": options.seed, "forced": options.forced}
    texts = {"lm_text": tuple(options.text)}
    configs = [RunConfig(model=options.model, task=task, text=texts.get(task, ()), **sizes) for task in tasks]
    return write_passages(configs, tokens_of(options.model), options.out)


def _show(options: argparse.Namespace) -> int:
    from .show_command import show

    return show(options)


def _list(options: argparse.Namespace) -> int:
    found = {
        "presses": _presses(),
        "tasks": {task.name: task.about for task in TASKS.values()},
        "models": {
            **BUNDLED,
            **{name: f"{entry.about}; see `kvpress models`" for name, entry in PRETRAINED.items()},
            "file.gguf": "any GGUF file of yours",
            "a folder": "that save_pretrained wrote",
            "org/name": "any causal LM of the hub",
        },
    }
    for title, items in found.items():
        if options.what in ("all", title):
            two_columns(console(), title, items)
    return 0


def _presses() -> dict[str, str]:
    """Every press with its line, those of other installed packages included."""
    import kvpress
    from kvpress.recipe import glance
    from kvpress.recipe.plugins import load_plugins

    if "kvpress.recipe.press" not in sys.modules and (seen := glance.glimpses()) is not None:
        return {name: _from(seen[name].package, seen[name].summary) for name in seen}

    load_plugins(kvpress.PRESETS)
    homes = {name: kvpress.PRESETS[name].build.__module__.split(".")[0] for name in kvpress.PRESETS}
    return {name: _from(homes[name], about) for name, about in kvpress.list_presses().items()}


def _from(package: str, about: str) -> str:
    return about if package == "kvpress" else f"{about} (from the package {package})"


def _doctor(options: argparse.Namespace) -> int:
    import kvpress.doctor

    return _print_checks(console(), [*kvpress.doctor.run(), models_here()])


def _check(options: argparse.Namespace) -> int:
    import kvpress.conformance

    be_quiet()
    sys.path.insert(0, os.getcwd())  # module:Name of a file that lies here, as with python -m
    out = console()
    with out.status("checking"):
        checks = kvpress.conformance.run(options.target)
    code = _print_checks(out, checks)
    counts = {"ok": "passed", "fail": "failed", "warn": "to look at", "skip": "skipped"}
    found = [(sum(check.status == status for check in checks), words) for status, words in counts.items()]
    out.print(", ".join(f"{count} {words}" for count, words in found if count))
    return code


def _import(options: argparse.Namespace) -> int:
    from ..importers import import_results

    out = console()
    done = import_results(options.kind, options.folder, options.into)
    for row in done.rows:
        told = f"{row.score:.3f}  {row.task} · {row.press} · {row.model} · {row.turns} answers"
        out.print(told, soft_wrap=True)
    for item in done.skipped:
        out.print(f"skipped {item.path}: {item.reason}", soft_wrap=True)
    counts = ((done.new, "new"), (done.replaced, "replaced"), (done.same, "already there"), (done.skipped, "skipped"))
    told = ", ".join(f"{len(found)} {words}" for found, words in counts)
    out.print(f"{told}; rows in {options.into}", soft_wrap=True)
    return 0 if done.rows else 1


def _print_checks(out: Console, checks: Sequence[Check]) -> int:
    colours = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "dim"}
    for check in checks:
        colour = colours[check.status]
        line = Text.assemble((f"{check.status:<5}", colour), " ", (check.name, "bold"), f": {check.detail}")
        out.print(line, soft_wrap=True)
        if check.status in ("warn", "fail") and check.advice:
            out.print(f"      {check.advice}", soft_wrap=True)
    return 1 if any(check.status == "fail" for check in checks) else 0


def _fit(options: argparse.Namespace) -> int:
    from kvpress.plan.amounts import bytes_of
    from kvpress.recipe import glance

    if options.length < 1:
        raise UsageError(f"--length must be at least 1, got {options.length}")
    if "%" in options.memory:
        raise UsageError(f"--memory {options.memory} is a share of nothing; write an amount, for example 8GiB")
    memory = bytes_of(options.memory, 0, "memory")
    choose("dtype", options.dtype, DTYPES)
    glance.check(options.press, entered=True)
    find(options.model, options.dtype)

    from kvpress import Press

    from ..runs.life import largest_batch

    press = Press.parse(options.press)
    press.ready()
    be_quiet()
    loaded = load_model(options.model, options.device, options.dtype)
    loaded.check_length(options.length)
    console(stderr=True).print(threads_text(begin(options.settled)), style="dim")
    found = largest_batch(press, loaded.model, options.length, memory)
    for name, rows, each in (
        (str(press), found.pressed, found.row_bytes),
        ("full, dense", found.dense, found.dense_bytes),
    ):
        print(f"{rows:>8,} sessions of {options.length:,} tokens, {bytes_text(each)} each: {name}")
    print("held by the caches at rest; weights, activations and the prompt while it is read come on top")
    return 0


ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    **sweep_command.ACTIONS,
    "report": _report,
    "compare": _compare,
    "answers": _answers,
    "data": _data,
    "show": _show,
    "list": _list,
    "models": models,
    "doctor": _doctor,
    "fit": _fit,
    "check": _check,
    "import": _import,
}
