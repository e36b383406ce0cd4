"""The ``kvpress`` command. Exit codes: 0 done, 1 a cell or a check failed, 2 a mistake in what was
asked, 130 stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console

# torch and transformers are imported by the subcommands, so that --help is quick
if TYPE_CHECKING:
    from .config import RunConfig
    from .rows import Row

__all__ = ["build_parser", "main"]

RESULTS = Path("leaderboards/results")
_EXIT = "exit codes: 0 done, 1 a cell or check failed, 2 a mistake in what was asked, 130 interrupted"
_RUN = """examples:
  kvpress run --press "snapkv(keep=0.25)" --task kv --length 1024 --sessions 20
  kvpress run --press "snapkv(keep=0.25) | kivi(bits=2)" --task vt --mode multi-request
  kvpress run --model Qwen/Qwen2.5-0.5B-Instruct --press "kivi(bits=4)" --task needle --length 4096
"""
_SWEEP = """examples:
  kvpress sweep eval/configs/smoke.yaml
  kvpress sweep eval/configs/smoke.yaml sessions=10 'lengths=[512]' --dry-run
  kvpress sweep eval/configs/science.yaml 'vary.keep=[0.5,0.25]' 'tasks=[kv,vt]'
An interrupted sweep goes on where it was stopped; failed cells are run again.
"""


class _Parser(argparse.ArgumentParser):
    """argparse with one line per mistake."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command; sets ``action`` to the function of the subcommand."""
    parser = _Parser(
        prog="kvpress",
        description="Measure what a compressed KV cache still answers, and what it costs.",
        epilog="example: kvpress run --press 'snapkv(keep=0.25)' --task kv\n" + _EXIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="name", metavar="command", required=True, parser_class=_Parser)

    def add(name: str, action: Callable[[argparse.Namespace], int], about: str, examples: str) -> _Parser:
        one = commands.add_parser(
            name,
            help=about,
            description=about[0].upper() + about[1:] + ".",
            epilog=f"{examples}{_EXIT}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.set_defaults(action=action)
        return one

    run = add("run", _run, "run one cell and print its row", _RUN)
    _add_run_options(run)
    sweep = add("sweep", _sweep, "run every cell of a YAML file that has no row yet", _SWEEP)
    sweep.add_argument("config", type=Path, help="YAML file with models, presses, tasks, ...")
    sweep.add_argument("overrides", nargs="*", metavar="key=value", help="replace values of the file")
    sweep.add_argument("--dry-run", action="store_true", help="print the cells and stop")
    sweep.add_argument("--jobs", type=int, default=1, help="cells at the same time, one process each (1)")
    _add_output(sweep)
    report = add(
        "report",
        _report,
        "write the leaderboard from the rows",
        "example:\n  kvpress report --results leaderboards/results --out leaderboards\n",
    )
    report.add_argument("--results", type=Path, default=RESULTS, help=f"folder of rows ({RESULTS})")
    report.add_argument("--out", type=Path, default=RESULTS.parent, help=f"where to write ({RESULTS.parent})")
    listing = add(
        "list",
        _list,
        "list presses, tasks and models",
        "examples:\n  kvpress list\n  kvpress list tasks\n",
    )
    listing.add_argument(
        "what",
        nargs="?",
        default="all",
        choices=("all", "presses", "tasks", "models"),
        help="what to list",
    )
    add("doctor", _doctor, "check this installation", "example:\n  kvpress doctor\n")
    # only for --help: main hands everything after `bench` to kvpress_eval.bench
    add("bench", _bench, "measure speed and memory", "example:\n  kvpress bench --help\n")
    return parser


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"folder of rows ({RESULTS})")
    parser.add_argument("--force", action="store_true", help="run again what is already there")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    text = {
        "model": "tiny, tiny-outlier, a folder, or a hub id (tiny)",
        "press": "what to do to the cache, see `kvpress list presses` (full)",
        "task": "see `kvpress list tasks` (kv)",
        "mode": "multi-turn or multi-request (multi-turn)",
        "schedule": "when compression fires: after_turn1_prompt, every_turn_prompt, after_context",
        "history": "answers that later turns see: gold or own (gold)",
        "device": "auto, cpu, cuda, cuda:1, mps (auto)",
        "dtype": "auto, float32, bfloat16, float16 (auto)",
        "attn": "attention implementation outside the press (auto)",
        "chat": "use the chat template: auto, on, off (auto)",
    }
    numbers = {
        "length": "most tokens of a session, questions and answers included (1024)",
        "sessions": "contexts (20)",
        "turns": "questions per context (5)",
        "seed": "of the episodes (0)",
        "chunk": "feed prompts in pieces of this many tokens (0: at once)",
        "batch": "questions answered at once in multi-request mode (0: all if bundled, else 1)",
    }
    for name, about in text.items():
        parser.add_argument(f"--{name}", help=about)
    for name, about in numbers.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=about)
    _add_output(parser)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; a user's mistake is one line on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        if words[:1] == ["bench"]:
            from .bench import main as bench

            return int(bench(words[1:]) or 0)
        return _dispatch(build_parser(), words)
    except SystemExit as exit_:  # argparse: --help or a mistake
        return int(exit_.code or 0)
    except KeyboardInterrupt:
        errors.print("interrupted; finished cells are kept, the same command goes on from here")
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        from kvpress.errors import KVPressError

        if not isinstance(error, KVPressError):
            raise
        errors.print(f"error: {' '.join(str(error).split())}", markup=False)
        return 2


def _dispatch(parser: argparse.ArgumentParser, words: list[str]) -> int:
    options, rest = parser.parse_known_args(words)
    # argparse gives up on positionals after an option: `sweep x.yaml --dry-run sessions=2`
    late = [word for word in rest if options.name == "sweep" and not word.startswith("-")]
    if len(late) < len(rest):
        parser.error(f"unrecognized arguments: {' '.join(w for w in rest if w not in late)}")
    if late:
        options.overrides += late
    code: int = options.action(options)
    return code


def _quiet() -> None:
    """Only our own progress: no weight-loading bars, no advice about generation settings."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _run(options: argparse.Namespace) -> int:
    from dataclasses import fields

    from .config import RunConfig
    from .sweep import Watcher, check_presses, run_sweep

    given = {f.name: getattr(options, f.name) for f in fields(RunConfig)}
    config = RunConfig(**{name: value for name, value in given.items() if value is not None})
    check_presses([config])
    _quiet()
    from .show import cell_text, row_table

    console = Console()
    got: list[tuple[Row, Path, bool]] = []
    with console.status(f"loading {config.model}") as status:
        told = cell_text(config).replace("[", "\\[")
        watcher = Watcher(
            session=lambda done: status.update(f"{told} · session {done}/{config.sessions}"),
            end=lambda config, row, path, ran: got.append((row, path, ran)),
        )
        run_sweep([config], options.results, options.force, watcher)
    row, path, ran = got[0]
    if not ran:
        console.print("already there (--force runs it again)")
    console.print(row_table(row, path, _against_full(config, row, options.results)))
    return 0 if row.status == "ok" else 1


def _against_full(config: RunConfig, row: Row, results: Path) -> str:
    """What the row of the full cache says about this one; it is found by what it measured, not by its id."""
    from .config import with_press
    from .rows import load_rows
    from .show import difference

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


def _sweep(options: argparse.Namespace) -> int:
    from .config import load_sweep
    from .errors import UsageError
    from .show import cell_text, plan_table, row_line
    from .sweep import Watcher, check_presses, finished, run_sweep

    if options.jobs < 1:
        raise UsageError(f"--jobs must be at least 1, got {options.jobs}")
    configs = load_sweep(options.config, options.overrides).cells()
    check_presses(configs)
    console = Console()
    if options.dry_run:
        console.print(plan_table(configs, finished(configs, options.results)))
        return 0
    _quiet()

    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        *(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        ),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("loading", total=len(configs))

        def end(config: RunConfig, row: Row, path: Path, ran: bool) -> None:
            progress.advance(bar)
            progress.console.print(row_line(row, ran), highlight=False, soft_wrap=True)

        watcher = Watcher(
            start=lambda config: progress.update(bar, description=cell_text(config).replace("[", "\\[")),
            end=end,
        )
        outcome = run_sweep(configs, options.results, options.force, watcher, options.jobs)
        progress.update(bar, description="done", total=progress.tasks[0].completed)
    console.print(
        f"{outcome.ran} run, {outcome.skipped} already there, {outcome.failed} failed; rows in {options.results}"
    )
    return 1 if outcome.failed else 0


def _report(options: argparse.Namespace) -> int:
    from .errors import UsageError

    if not options.results.is_dir():
        raise UsageError(f"no such folder: {options.results}; run a sweep first, or name it with --results")
    from .report import write

    written = write(options.results, options.out)
    Console().print(f"written: {written if written is not None else options.out}")
    return 0


def _list(options: argparse.Namespace) -> int:
    from .show import two_columns

    console = Console()
    if options.what in ("all", "presses"):
        import kvpress

        two_columns(console, "presses", kvpress.list_presses())
    if options.what in ("all", "tasks"):
        from .tasks import TASKS

        two_columns(console, "tasks", {task.name: task.about for task in TASKS.values()})
    if options.what in ("all", "models"):
        from .models import BUNDLED

        more = {"a folder": "that save_pretrained wrote", "org/name": "any causal LM of the hub"}
        two_columns(console, "models", {**BUNDLED, **more})
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from rich.markup import escape

    from kvpress import doctor

    console, failed = Console(), False
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    for check in doctor.run():
        failed |= check.status == "fail"
        colour = colours.get(check.status, "white")
        told = f"[bold]{escape(check.name)}[/] {escape(check.detail)}"
        console.print(f"[{colour}]{check.status:<5}[/] {told}")
        if check.status != "ok" and check.advice:
            console.print(f"      {escape(check.advice)}")
    return 1 if failed else 0


def _bench(options: argparse.Namespace) -> int:
    raise AssertionError("main hands bench on before parsing")


if __name__ == "__main__":
    sys.exit(main())
