"""What a press costs in time and memory, as ratios measured in one process.

Absolute times on a shared machine say little, so competitors take turns step by step in the same process, and a
ratio is the median over the rounds of one competitor's time by DynamicCache's in the same round. Shape: the bundled
model's architecture, random weights, more layers; or a model that is named.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from ..machine.environment import Peak
from ..models import load_model
from ..models.random_model import LAYERS, random_model
from .fresh_process import in_fresh_process

DENSE = "DynamicCache"
QUARTER = "DynamicCache, a quarter"  # of the tokens: what evicting into a dense cache can reach at keep=0.25
HQQ = "QuantizedCache(hqq, 4 bits)"
PLAIN = (DENSE, QUARTER, HQQ)
WARM_UP = 4  # decode steps that are not counted


@dataclass(frozen=True)
class Timing:
    """One competitor in one setting: median seconds of a step, and the median ratio to DynamicCache's."""

    what: str
    name: str
    context: int
    batch: int
    seconds: float
    ratio: float


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
    ids = random_ids(model, batch, context)
    with torch.no_grad():
        racers = [Competitor(name, model, ids) for name in names]
        rounds = [[racer.step() for racer in racers] for _ in range(steps + WARM_UP)][WARM_UP:]
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

    ids = random_ids(model, 1, context)

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


def model_for(name: str, layers: int = LAYERS, dtype: str = "float32", device: str = "cpu", tokens: int = 0) -> Any:
    """The model that is measured: the one that is named, or with "" a random one of `layers` layers.

    Raises:
        UsageError: where it is not here, or has fewer than `tokens` positions.
    """
    if not name:
        return random_model(layers, getattr(torch, dtype), device)
    loaded = load_model(name, device, dtype)
    loaded.check_length(tokens)
    return loaded.model


def random_ids(model: Any, batch: int, context: int) -> torch.Tensor:
    """The prompt that is read: `(batch, context)` tokens, the same ones for every model that has 380 of them."""
    words = min(380, model.config.get_text_config().vocab_size)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, words, (batch, context), generator=generator, dtype=torch.int64, device="cpu")
    return ids.to(model.device)


def _peak_of(name: str, context: int, layers: int, of: str = "", dtype: str = "float32") -> int | None:
    model = model_for(of, layers, dtype)
    ids = random_ids(model, 1, context)
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


def peak(
    names: Sequence[str], context: int, layers: int = LAYERS, of: str = "", dtype: str = "float32"
) -> list[Timing]:
    """Bytes of resident memory a prompt adds at its peak, each in a fresh process; `seconds` holds bytes here.

    The model is that of `model_for`, called `of`.
    """
    found: list[int] = []
    for name in names:
        taken = in_fresh_process(
            f"{name} could not read {context} tokens", 2, _peak_of, name, context, layers, of, dtype
        )
        if taken is None:
            return []  # a platform that does not tell
        found.append(taken)
    dense = found[list(names).index(DENSE)]
    return [
        Timing("peak memory of prefill", name, context, 1, taken, taken / dense)
        for name, taken in zip(names, found, strict=True)
    ]
