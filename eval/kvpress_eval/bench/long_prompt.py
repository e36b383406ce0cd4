"""A long prompt read in chunks: the peak that was declared before, what the cache held, and the process's memory.

Each press reads in a fresh process, so that one does not inherit the other's memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..machine.environment import Peak
from .fresh_process import in_fresh_process
from .speed import model_for, random_ids

# press, and whether it is applied between the chunks
LONG = (
    ("full", False),
    ("knorm(keep=0.25)", True),
    ("h2o(keep=0.125)", True),
    ("kivi(bits=2)", True),
    ("knorm(keep=0.25) | kivi(bits=4)", True),
)
LAYERS = 4  # of the bundled model


@dataclass(frozen=True)
class LongPrompt:
    """One press, all in bytes but `seconds`.

    declared: `session.peak_nbytes`; held: its part that is the cache's, a bound; measured: the most the cache held,
    from the storages; process: resident memory above the loaded model at its highest, None where a platform does not
    tell (activations of a chunk are in it); dense: the same tokens in a dense cache.
    """

    name: str
    between: bool
    tokens: int
    chunk: int
    declared: int
    held: int
    measured: int
    process: int | None
    dense: int
    seconds: float
    what: str = "long prompt"


def read_one(
    name: str, between: bool, tokens: int, chunk: int, layers: int = LAYERS, model_name: str = ""
) -> LongPrompt:
    """Read a prompt of random tokens through a model (without a name the bundled one's shape), in this process."""
    from kvpress import Press

    model = model_for(model_name, layers, tokens=tokens)
    ids = random_ids(model, 1, tokens)
    with torch.no_grad(), Press.parse(name)(model) as session:
        model(ids[:, : min(chunk, tokens)], use_cache=False, logits_to_keep=1)  # what a chunk takes without a cache
        bound = session.peak(tokens, chunk=chunk, between=between)
        high = Peak(model.device)
        high.start()
        start = time.perf_counter()
        cache = session.prefill(ids, chunk=chunk, between=between, peak=bound.total)
        seconds = time.perf_counter() - start
        process = high.read()[0]
        return LongPrompt(
            name,
            between,
            tokens,
            chunk,
            bound.total,
            bound.held,
            cache.peak,
            process,
            cache.dense_nbytes(),
            seconds,
        )


def long_prompts(
    tokens: int, chunk: int, threads: int, presses: Sequence[tuple[str, bool]] = LONG, model_name: str = ""
) -> Iterator[LongPrompt]:
    """Every press in a process of its own. Raises UsageError where one fails."""
    for name, between in presses:
        problem = f"{name} could not read {tokens} tokens in chunks of {chunk}"
        yield in_fresh_process(problem, threads, read_one, name, between, tokens, chunk, LAYERS, model_name)
