"""``kvpress bench``: its options, and what it prints."""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvpress.recipe import glance

from ..bench import sweep_proof
from ..errors import UsageError
from ..machine.console import console
from ..machine.disturbance import Disturbance, about, quiet
from ..machine.files import check_folder, write_out
from ..machine.threads import choose
from ..models.loading import find, load_model, note_of
from ..models.quiet import be_quiet
from ..models.random_model import LAYERS
from .parser import Parser

if TYPE_CHECKING:
    from ..bench.long_prompt import LongPrompt
    from ..bench.speed import Timing

__all__ = ["main"]

PRESSES = ("full", "snapkv(keep=0.25)", "kivi(bits=4)")
CONTEXTS = [1024, 4096, 16384]
PROMPT = 4096
LONG = 1 << 16
PARTS = ["decode", "prefill", "peak", "long", "sweep", "kills"]


def _count(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `kvpress bench`."""
    parser = Parser(
        prog="kvpress bench",
        description="Time and memory of presses as ratios to DynamicCache, measured in one process.",
        epilog="example: kvpress bench --contexts 1024 16384 --batches 1 --presses full 'snapkv(keep=0.25)'. "
        "Exit codes: 0 done, 1 a killed sweep differs, 2 a mistake in the command.",
    )
    parser.add_argument("--presses", nargs="+", default=list(PRESSES), metavar="PRESS")
    parser.add_argument(
        "--contexts", nargs="+", type=_count, metavar="N", help=f"default {CONTEXTS}, as far as they fit"
    )
    parser.add_argument("--batches", nargs="+", type=_count, default=[1, 4], metavar="B")
    parser.add_argument("--steps", type=_count, default=48, help="decode steps counted (default 48)")
    parser.add_argument("--prompt", type=_count, help=f"tokens of the prefill timings (default {PROMPT})")
    parser.add_argument("--model", default="", help="see `kvpress models` (a random one of the bundled shape)")
    parser.add_argument("--layers", type=_count, help=f"of the random model (default {LAYERS})")
    parser.add_argument("--threads", type=_count, default=choose(), help="(OMP_NUM_THREADS, else all cores)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--only", choices=PARTS, help="one part; long, sweep and kills only when asked")
    parser.add_argument("--long", type=_count, help="tokens of the long prompt (default 65536, or what the model has)")
    parser.add_argument("--chunk", type=_count, default=1024, help="tokens it is read in at a time (default 1024)")
    parser.add_argument("--grid", type=Path, help="sweep file for --only sweep and kills (one of their own)")
    parser.add_argument(
        "--rounds", type=_count, default=3, help="of --only sweep, or kills of --only kills (default 3)"
    )
    parser.add_argument("--jobs", type=_count, default=2, help="of --only sweep and kills (default 2)")
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args(argv)
    if arguments.output:
        check_folder(arguments.output.parent, "--output")
    if arguments.only in ("sweep", "kills"):
        return _sweeps(arguments)
    if arguments.model and arguments.layers:
        raise UsageError("--layers is of the random model; leave it out with --model")
    if arguments.model:
        find(arguments.model, arguments.dtype)
    for text in arguments.presses:
        glance.check(text, entered=True)

    import torch

    from kvpress import Press

    for text in arguments.presses:
        Press.parse(text).ready()
    torch.set_num_threads(arguments.threads)
    rows: list[Any] = list(_long_rows(arguments) if arguments.only == "long" else _rows(arguments))
    if arguments.output:
        write_out(arguments.output, json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0


def _rows(arguments: argparse.Namespace) -> Iterator[Timing]:
    import torch

    from ..bench.speed import DENSE, HQQ, QUARTER, decode, model_for, peak, prefill

    out = console()
    be_quiet()
    layers = arguments.layers or LAYERS
    model = model_for(arguments.model, layers, arguments.dtype, arguments.device)
    contexts, prompt = _fitting(arguments, model)
    shown = note_of(arguments.model) or arguments.model or f"random model, {layers} layers of the bundled shape"
    out.print(
        f"{shown}, {arguments.dtype} on {arguments.device}, {arguments.threads} threads, torch {torch.__version__}; "
        "medians, competitors taking turns",
    )
    out.print(f"{'':32}{'context':>8}{'batch':>6}{'absolute':>13}{'/ dense':>9}", style="bold")

    watched = Disturbance(torch.device(arguments.device))

    def show(timings: Sequence[Timing]) -> Sequence[Timing]:
        watched.probe()
        mark = "‡" if quiet(watched.read()) is False else ""
        for t in timings:
            absolute = f"{t.seconds / 2**20:.1f} MiB" if "memory" in t.what else f"{1e3 * t.seconds:.2f}{mark} ms"
            out.print(f"{t.name:32}{t.context:8}{t.batch:6}{absolute:>13}{t.ratio:9.2f}")
        return timings

    if arguments.only in (None, "decode"):
        out.print("decode step", style="bold")
        hqq = [HQQ] if _has_hqq() and arguments.device == "cpu" else []
        for context in contexts:
            for batch in arguments.batches:
                names = [DENSE, QUARTER, *arguments.presses, *(hqq if batch == 1 else [])]
                yield from show(decode(model, names, context, batch, arguments.steps))
                gc.collect()
    if arguments.only in (None, "prefill"):
        out.print("prefill, compression included", style="bold")
        yield from show(prefill(model, [DENSE, *arguments.presses, "h2o(keep=0.25)"], prompt, 9))
    if arguments.only in (None, "peak") and arguments.device == "cpu":
        out.print("memory added at the peak of prefill", style="bold")
        names = [DENSE, *arguments.presses, "h2o(keep=0.25)"]
        yield from show(peak(names, max(contexts), layers, arguments.model, arguments.dtype))
    if quiet(found := watched.read()) is False:
        out.print(f"‡ other programs disturbed the times: {about(found)}. Compare ratios only.", soft_wrap=True)


def _fitting(arguments: argparse.Namespace, model: Any) -> tuple[list[int], int]:
    """The contexts and the prompt to measure; those that nobody named are cut to what the model has positions for.

    Raises:
        UsageError: for a context that was named and does not fit.
    """
    from ..bench.speed import WARM_UP

    most = getattr(model.config.get_text_config(), "max_position_embeddings", None) or max(CONTEXTS) + arguments.steps
    room = most - arguments.steps - WARM_UP  # every step appends a token
    for length, limit in [(n, room) for n in arguments.contexts or ()] + [(arguments.prompt, most)]:
        if length and length > limit:
            raise UsageError(f"{length} tokens are more than the model has positions for; give {limit} or less")
    # of a small model, what every competitor takes: hqq packs whole groups only
    fitting = [context for context in CONTEXTS if context <= room] or [room - room % 64]
    return arguments.contexts or fitting, arguments.prompt or min(PROMPT, most)


def _long_rows(arguments: argparse.Namespace) -> Iterator[LongPrompt]:
    from ..bench.long_prompt import long_prompts

    out = console()
    tokens = arguments.long or _most(arguments.model)
    out.print(
        f"{tokens} tokens in chunks of {arguments.chunk}, MiB: declared before, of it the cache's, held by the "
        "cache at most, process above the loaded model (activations too), a dense cache",
        soft_wrap=True,
    )
    for row in long_prompts(tokens, arguments.chunk, arguments.threads, model_name=arguments.model):
        sizes = [row.declared, row.held, row.measured, row.process or 0, row.dense]
        figures = "".join(f"{size / 2**20:9.1f}" for size in sizes)
        how = "between" if row.between else "at the end"
        out.print(f"{row.name:34}{how:12}{figures}{row.seconds:9.1f} s", soft_wrap=True)
        yield row


def _most(model: str) -> int:
    """Tokens of the long prompt where nobody said how many."""
    return min(LONG, (load_model(model).max_positions if model else None) or LONG)


def _sweeps(arguments: argparse.Namespace) -> int:
    if arguments.grid is not None and not arguments.grid.is_file():
        raise UsageError(f"no such sweep file: {arguments.grid}; eval/configs/ holds examples")
    grid = arguments.grid.read_text() if arguments.grid else None
    found: Any
    if arguments.only == "sweep":
        found = sweep_proof.speed_up(grid or sweep_proof.SPEED_GRID, arguments.jobs, arguments.rounds, _print_run)
        print(f"{found.cells} cells, one thread a job: {found.jobs} jobs are {found.ratio:.2f} times as fast as one")
    else:
        found = sweep_proof.kills(grid or sweep_proof.KILLS_GRID, arguments.rounds, arguments.jobs)
        print(*found.differences, sep="\n", end="\n" if found.differences else "")
        same = "differs from" if found.differences else "equals"
        told = ", ".join(map(str, found.rows))
        print(f"{found.cells} cells, killed with {told} rows there and resumed: {same} a sweep left alone")
    if arguments.output:
        write_out(arguments.output, json.dumps(asdict(found), indent=1) + "\n")
    return 1 if getattr(found, "differences", None) else 0


def _print_run(jobs: int, seconds: float) -> None:
    print(f"{'1 job' if jobs == 1 else f'{jobs} jobs':8}{seconds:8.1f} s", flush=True)


def _has_hqq() -> bool:
    try:
        import hqq  # noqa: F401
    except ImportError:
        return False
    return True
