"""The ``kvpress`` command. Exit codes: 0 done, 1 a cell or a check failed, 2 a mistake in what was
asked, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from ..machine.printable import plain
from ..machine.signals import Stopped, stoppable
from ..machine.threads import begin, settled, threads_text, waiting
from ..sweeps.fork_server import warm_up
from ..sweeps.launch_options import mistake, worker_threads
from .parser import build_parser

__all__ = ["main"]

EXTRA = ("omegaconf", "rich", "msgspec", "datasets", "pyarrow", "evaluate")  # what the extra "eval" brings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; a user's mistake is one line on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        for stream in (sys.stdout, sys.stderr):  # a character that the terminal does not have is no reason to end
            with suppress(AttributeError, ValueError):
                stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a stream without it is left
    os.environ.update(waiting())  # read by OpenMP when torch is imported
    code = _guarded(words)
    try:
        sys.stdout.flush()
    except OSError as error:  # a reader that left, a full disk: nothing more can be said there
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError) and not code:  # else it was said already
            print(f"error: cannot write what is printed: {error.strerror}", file=sys.stderr)
            return 2
    return code


def _guarded(words: list[str]) -> int:
    try:
        with stoppable():
            return _command(words)
    except SystemExit as exit_:  # argparse: --help or a mistake
        if isinstance(exit_.__context__, BrokenPipeError):  # rich leaves with 1 where nobody reads on
            return 0
        if isinstance(exit_.code, str):  # what a library says as it leaves
            print(f"error: {exit_.code}", file=sys.stderr)
            return 2
        return int(exit_.code or 0)
    except KeyboardInterrupt as stop:
        goes_on = words[:1] in (["run"], ["sweep"], ["study"])
        told = "; finished cells are kept, the same command goes on from here" if goes_on else ""
        word, code = (stop.word, stop.code) if isinstance(stop, Stopped) else ("interrupted", 130)
        print(f"{word}{told}", file=sys.stderr)
        return code
    except BrokenPipeError:
        return 0
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA:
            raise
        from kvpress.errors import extra

        print(f"error: {package} is not installed; {extra('eval')}", file=sys.stderr)
        return 2
    except OSError as error:  # the machine's fault and not this program's: a file, a folder, a disk
        print(f"error: {_told(error)}", file=sys.stderr)
        return 2
    except Exception as error:
        from kvpress.errors import KVPressError

        if not isinstance(error, KVPressError):
            raise
        print(f"error: {_told(error)}", file=sys.stderr)
        return 2


def _told(error: Exception) -> str:
    """A mistake in one plain line; what the operating system says names the file, without the number of its error."""
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"cannot use {error.filename}: "
        return plain(" ".join(f"{where}{error.strerror}".split()))
    return plain(" ".join(str(error).split()))


def _command(words: list[str]) -> int:
    if words[:1] == ["bench"]:
        from .bench_command import main as bench

        return int(bench(words[1:]) or 0)
    if words[:1] == ["lm-eval"] and words[1:] not in (["-h"], ["--help"]):
        threads = settled()
        from ..runs.lm_eval_arguments import check

        check(words[1:])
        from ..runs.lm_eval_model import main as lm_eval

        if threads:
            print(threads_text(begin(threads)), file=sys.stderr)
        return lm_eval(words[1:])
    return _dispatch(build_parser(), words)


def _dispatch(parser: argparse.ArgumentParser, words: list[str]) -> int:
    options, rest = parser.parse_known_args(words)
    # argparse gives up on positionals after an option: `sweep x.yaml --dry-run sessions=2`
    late = [word for word in rest if options.name in ("sweep", "study") and not word.startswith("-")]
    if len(late) < len(rest):
        parser.error(f"unrecognized arguments: {' '.join(w for w in rest if w not in late)}")
    if late:
        options.overrides += late
    if options.name in ("sweep", "study"):
        asked = (options.launcher, options.jobs, options.cpus_per_cell, options.gpus_per_cell)
        if problem := mistake(*asked, options.address):
            parser.error(problem)
        if (threads := worker_threads(*asked)) and not options.dry_run:
            warm_up(threads)  # workers import torch while this process does
    options.settled = settled(getattr(options, "threads", None) or 0)
    from .actions import ACTIONS  # rich and the like; torch only where a command computes

    return ACTIONS[options.name](options)


if __name__ == "__main__":
    sys.exit(main())
