"""The life of a cache beside its answers: compression alone, a compressed prefix on disk and back, the bytes that a
decoding step reads, and the largest batch that a memory holds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..machine.clock import Clock
from ..suites.prompt import Prompt
from .config import RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from kvpress import Press, PressCache, Session

__all__ = ["Batches", "Life", "largest_batch", "live", "step_bytes"]

_ON_DISK = 1 << 30  # bytes: a larger cache is not written, a disk may not have the room


@dataclass(frozen=True)
class Life:
    """What one compressed prefix went through; times in seconds.

    ``press_s`` is the time that compressing takes alone, after a dense prefill. ``reload_exact``: attention reads as
    many bytes of the cache read back, and it gives the same logits for the next tokens, bit for bit. The fields of the
    file are None where the cache was too large to be written (1 GiB) or could not be, which ``not_measured`` says.
    """

    press_s: float
    not_measured: str = ""
    save_s: float | None = None
    load_s: float | None = None
    file_bytes: int | None = None
    reload_exact: bool | None = None


@torch.no_grad()
def live(model: Any, session: Session, prompt: Prompt, config: RunConfig, rehearse: bool) -> Life:
    """Take the first prompt of a session through compression, to disk and back.

    While sessions run, compression is interleaved with the prefill (layer by layer, for a lower
    peak), where it cannot be timed. ``rehearse`` compresses a fork first, so that one-time costs
    are left out.
    """
    ids = list(prompt.context)
    if config.question_visible:
        ids += prompt.questions[0]
    row = torch.tensor([ids], device=model.device, dtype=torch.int64)
    cache = session.prefill(row, chunk=config.chunk or None, compress=False)
    if rehearse:
        session.compress(cache.fork())
    clock = Clock(model.device)
    session.compress(cache)
    press_s = clock.seconds()
    if cache.nbytes() > _ON_DISK:
        return Life(press_s, f"files of more than {_ON_DISK >> 20} MiB")
    following = torch.tensor([prompt.alone[-1]], device=model.device, dtype=torch.int64)
    try:
        return replace(Life(press_s), **_to_disk_and_back(model, session, cache, following))
    except (OSError, SafetensorError) as error:  # no room in the folder for temporary files
        return Life(press_s, f"files: {' '.join(str(error).split())}"[:200])


def _to_disk_and_back(model: Any, session: Session, cache: PressCache, following: Tensor) -> dict[str, Any]:
    """The fields of a `Life` that tell of the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prefix.safetensors"
        clock = Clock(model.device)
        cache.save(path, model)
        save_s, clock = clock.seconds(), Clock(model.device)
        again = type(cache).load(path, model)
        load_s, size = clock.seconds(), path.stat().st_size
    same = step_bytes(again) == step_bytes(cache)
    ours, theirs = (session.prefill(following, cache=c.fork(), compress=False).next_logits for c in (cache, again))
    assert ours is not None and theirs is not None
    exact = same and bool(torch.equal(ours, theirs))
    return {"save_s": save_s, "load_s": load_s, "file_bytes": size, "reload_exact": exact}


def step_bytes(cache: PressCache) -> int:
    """Bytes of keys and values, with their scales, that attention reads for one further token.

    Spare room of the dense tail is not read; what only scores or counts (evidence, positions) is not either. Layers
    that share a storage each read it. Layers left to transformers are read whole.
    """
    return sum(_read(layer) for layer in cache.layers)


def _read(layer: Any) -> int:
    if not hasattr(layer, "held"):
        from kvpress.cache.own import own_tensors

        return sum(tensor.nbytes for tensor in own_tensors(layer).values())
    if not layer.is_initialized:
        return 0
    tail = sum(part.nbytes for part in (layer.tail.keys, layer.tail.values))
    return tail + sum(tensor.nbytes for tensor in _packed(layer))


def _packed(layer: Any) -> Iterator[Tensor]:
    for item in layer.held:
        for _, side, kind, tensor in item.segment.tensors():
            if side in ("k", "v") and kind != "evidence":
                yield tensor


@dataclass(frozen=True)
class Batches:
    """How many sessions a memory holds at once. ``row_bytes``: the cache of one; ``dense_bytes``: the same dense."""

    memory: int
    row_bytes: int
    dense_bytes: int

    @property
    def pressed(self) -> int:
        """Rows under the press."""
        return self.memory // self.row_bytes

    @property
    def dense(self) -> int:
        """Rows of the dense cache."""
        return self.memory // self.dense_bytes


@torch.no_grad()
def largest_batch(press: Press, model: PreTrainedModel, length: int, memory: int) -> Batches:
    """The most rows of ``length`` tokens whose caches ``memory`` bytes hold, from the ledger of one row.

    A row is filled with random tokens and compressed; a batch of B rows holds B times its bytes, because every row has
    its own slots. Weights, activations and the dense prompt (``session.peak``) come on top.
    """
    high = int(model.config.get_text_config().vocab_size)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, high, (1, length), generator=generator, dtype=torch.int64, device="cpu").to(model.device)
    with press(model) as session:
        cache = session.prefill(ids)
        return Batches(memory, cache.nbytes(), cache.dense_nbytes())
