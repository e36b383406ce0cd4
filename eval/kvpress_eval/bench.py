"""`kvpress bench`: what a press costs in time and memory, as ratios measured in one process.

Absolute times on a shared machine say little, so competitors take turns step by step in the same process, and a
ratio is the median over the rounds of one competitor's time by DynamicCache's in the same round. Shape: the bundled
model's architecture, random weights, more layers.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .environment import Peak
from .fresh import in_fresh_process
from .long_prompt import LongPrompt, long_prompts

DENSE = "DynamicCache"
QUARTER = "DynamicCache, a quarter"  # of the tokens: what evicting into a dense cache can reach at keep=0.25
HQQ = "QuantizedCache(hqq, 4 bits)"
PLAIN = (DENSE, QUARTER, HQQ)
PRESSES = ("full", "snapkv(keep=0.25)", "kivi(bits=4)")
LAYERS = 8
PARTS = ["decode", "prefill", "peak", "long", "sweep", "kills"]


@dataclass(frozen=True)
class Timing:
    """One competitor in one setting: median seconds of a step, and the median ratio to DynamicCache's."""

    what: str
    name: str
    context: int
    batch: int
    seconds: float
    ratio: float


def random_model(layers: int = LAYERS, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """The bundled architecture's shape with `layers` layers and random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=1 << 17,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(device=device, dtype=dtype).eval()


def _synchronize(model: Any) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize()


class Competitor:
    """A cache of some kind, filled with a prompt, that decodes one token when asked."""

    def __init__(self, name: str, model: Any, ids: torch.Tensor) -> None:
        self.name, self.model = name, model
        self.token = ids[:, :1]
        if name in PLAIN:
            self.cache = self._plain(ids[:, : ids.shape[1] // 4] if name == QUARTER else ids)
        else:
            from kvpress import Press

            self.press = Press.parse(name)
            with self.press(model) as session:
                self.cache = session.prefill(ids)

    def _plain(self, ids: torch.Tensor) -> Any:
        from transformers import DynamicCache, QuantizedCache

        cache: Any = DynamicCache(config=self.model.config)
        if self.name == HQQ:
            cache = QuantizedCache(
                backend="hqq", config=self.model.config, nbits=4, q_group_size=64, axis_key=1, axis_value=1
            )
        self.model(ids, past_key_values=cache, logits_to_keep=1)
        return cache

    def step(self) -> float:
        """Seconds of one decode step; competitors take turns."""
        with nullcontext() if self.name in PLAIN else self.press(self.model):
            _synchronize(self.model)
            start = time.perf_counter()
            self.model(self.token, past_key_values=self.cache)
            _synchronize(self.model)
            return time.perf_counter() - start


def decode(model: Any, names: Sequence[str], context: int, batch: int, steps: int) -> list[Timing]:
    """Seconds per decode step of each competitor after a prompt of `context` tokens, taking turns."""
    ids = torch.randint(4, 380, (batch, context), generator=torch.Generator().manual_seed(1)).to(model.device)
    with torch.no_grad():
        racers = [Competitor(name, model, ids) for name in names]
        rounds = [[racer.step() for racer in racers] for _ in range(steps + 4)][4:]
    return _timings("decode step", names, context, batch, rounds)


def _timings(what: str, names: Sequence[str], context: int, batch: int, rounds: list[list[float]]) -> list[Timing]:
    base = list(names).index(DENSE)
    out = []
    for number, name in enumerate(names):
        seconds = statistics.median(times[number] for times in rounds)
        ratio = statistics.median(times[number] / times[base] for times in rounds)
        out.append(Timing(what, name, context, batch, seconds, ratio))
    return out


def prefill(model: Any, names: Sequence[str], context: int, repeats: int) -> list[Timing]:
    """Seconds to read a prompt (compression included), taking turns, over the plain model's."""
    from kvpress import Press

    ids = torch.randint(4, 380, (1, context), generator=torch.Generator().manual_seed(1)).to(model.device)

    def plain() -> None:
        model(ids, logits_to_keep=1)

    def pressed(text: str) -> Callable[[], None]:
        def read() -> None:
            with Press.parse(text)(model) as session:
                session.prefill(ids)

        return read

    racers = [plain if name == DENSE else pressed(name) for name in names]

    def seconds(racer: Callable[[], None]) -> float:
        _synchronize(model)
        start = time.perf_counter()
        racer()
        _synchronize(model)
        return time.perf_counter() - start

    with torch.no_grad():
        rounds = [[seconds(racer) for racer in racers] for _ in range(repeats + 1)][1:]
    return _timings("prefill", names, context, 1, rounds)


def _peak_of(name: str, context: int, layers: int) -> int | None:
    model = random_model(layers)
    ids = torch.randint(4, 380, (1, context), generator=torch.Generator().manual_seed(1))
    high = Peak(model.device)
    with torch.no_grad():
        model(ids[:, :256])
        high.start()
        if name == DENSE:
            cache = model(ids, logits_to_keep=1).past_key_values
        else:
            from kvpress import Press

            with Press.parse(name)(model) as session:
                cache = session.prefill(ids)
        found = high.read()[0]
    del cache
    return found


def peak(names: Sequence[str], context: int, layers: int = LAYERS) -> list[Timing]:
    """Bytes of resident memory a prompt adds at its peak, each in a fresh process; `seconds` holds bytes here."""
    found: list[int] = []
    for name in names:
        taken = in_fresh_process(f"{name} could not read {context} tokens", 2, _peak_of, name, context, layers)
        if taken is None:
            return []  # a platform that does not tell
        found.append(taken)
    dense = found[list(names).index(DENSE)]
    return [
        Timing("peak memory of prefill", name, context, 1, taken, taken / dense)
        for name, taken in zip(names, found, strict=True)
    ]


def _count(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `kvpress bench`."""
    from kvpress import Press

    parser = argparse.ArgumentParser(
        prog="kvpress bench",
        description="Time and memory of presses as ratios to DynamicCache, measured in one process.",
        epilog="example: kvpress bench --contexts 1024 16384 --batches 1 --presses full 'snapkv(keep=0.25)'. "
        "Exit codes: 0 done, 1 a killed sweep differs, 2 a mistake in the command.",
    )
    parser.add_argument("--presses", nargs="+", default=list(PRESSES), metavar="PRESS")
    parser.add_argument("--contexts", nargs="+", type=_count, default=[1024, 4096, 16384], metavar="N")
    parser.add_argument("--batches", nargs="+", type=_count, default=[1, 4], metavar="B")
    parser.add_argument("--steps", type=_count, default=48, help="decode steps counted (default 48)")
    parser.add_argument("--prompt", type=_count, default=4096, help="tokens of the prefill timings (default 4096)")
    parser.add_argument("--layers", type=_count, default=LAYERS)
    parser.add_argument("--threads", type=_count, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--only", choices=PARTS, help="one part; long, sweep and kills only when asked")
    parser.add_argument("--long", type=_count, default=1 << 16, help="tokens of the long prompt (default 65536)")
    parser.add_argument("--chunk", type=_count, default=1024, help="tokens it is read in at a time (default 1024)")
    parser.add_argument("--grid", type=Path, help="sweep file for --only sweep and kills (one of their own)")
    parser.add_argument(
        "--rounds", type=_count, default=3, help="of --only sweep, or kills of --only kills (default 3)"
    )
    parser.add_argument("--jobs", type=_count, default=2, help="of --only sweep and kills (default 2)")
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args(argv)
    if arguments.only in ("sweep", "kills"):
        return _sweeps(arguments)
    for text in arguments.presses:
        Press.parse(text).ready()
    torch.set_num_threads(arguments.threads)
    rows: list[Any] = list(_long_rows(arguments) if arguments.only == "long" else _rows(arguments))
    if arguments.output:
        arguments.output.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0


def _rows(arguments: argparse.Namespace) -> Iterator[Timing]:
    from rich.console import Console

    console = Console()
    model = random_model(arguments.layers, getattr(torch, arguments.dtype), arguments.device)
    console.print(
        f"random model, {arguments.layers} layers of the bundled shape, {arguments.dtype} on {arguments.device}, "
        f"{arguments.threads} threads, torch {torch.__version__}; medians, competitors taking turns",
        highlight=False,
    )
    console.print(f"{'':32}{'context':>8}{'batch':>6}{'absolute':>13}{'/ dense':>9}", style="bold", highlight=False)

    def show(timings: Sequence[Timing]) -> Sequence[Timing]:
        for t in timings:
            absolute = f"{t.seconds / 2**20:.1f} MiB" if "memory" in t.what else f"{1e3 * t.seconds:.2f} ms"
            console.print(f"{t.name:32}{t.context:8}{t.batch:6}{absolute:>13}{t.ratio:9.2f}", highlight=False)
        return timings

    if arguments.only in (None, "decode"):
        console.print("decode step", style="bold")
        hqq = [HQQ] if _has_hqq() and arguments.device == "cpu" else []
        for context in arguments.contexts:
            for batch in arguments.batches:
                names = [DENSE, QUARTER, *arguments.presses, *(hqq if batch == 1 else [])]
                yield from show(decode(model, names, context, batch, arguments.steps))
                gc.collect()
    if arguments.only in (None, "prefill"):
        console.print("prefill, compression included", style="bold")
        yield from show(prefill(model, [DENSE, *arguments.presses, "h2o(keep=0.25)"], arguments.prompt, 9))
    if arguments.only in (None, "peak") and arguments.device == "cpu":
        console.print("memory added at the peak of prefill", style="bold")
        yield from show(peak([DENSE, *arguments.presses, "h2o(keep=0.25)"], max(arguments.contexts)))


def _long_rows(arguments: argparse.Namespace) -> Iterator[LongPrompt]:
    from rich.console import Console

    console = Console()
    console.print(
        f"{arguments.long} tokens in chunks of {arguments.chunk}, MiB: declared before, of it the cache's, held by the "
        "cache at most, process above the loaded model (activations too), a dense cache",
        highlight=False,
        soft_wrap=True,
    )
    for row in long_prompts(arguments.long, arguments.chunk, arguments.threads):
        sizes = [row.declared, row.held, row.measured, row.process or 0, row.dense]
        figures = "".join(f"{size / 2**20:9.1f}" for size in sizes)
        how = "between" if row.between else "at the end"
        console.print(f"{row.name:34}{how:12}{figures}{row.seconds:9.1f} s", highlight=False, soft_wrap=True)
        yield row


def _sweeps(arguments: argparse.Namespace) -> int:
    from . import sweep_proof
    from .errors import UsageError

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
        arguments.output.write_text(json.dumps(asdict(found), indent=1) + "\n")
    return 1 if getattr(found, "differences", None) else 0


def _print_run(jobs: int, seconds: float) -> None:
    print(f"{'1 job' if jobs == 1 else f'{jobs} jobs':8}{seconds:8.1f} s", flush=True)


def _has_hqq() -> bool:
    try:
        import hqq  # noqa: F401
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
