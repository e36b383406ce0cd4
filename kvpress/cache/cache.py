"""The cache a press gives to a model: logical length outside, compressed slots inside, a ledger of its bytes."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache

from kvpress.cache.files import load_cache, save_cache
from kvpress.cache.layer import StoreLayer
from kvpress.cache.ledger import Entry, Ledger
from kvpress.cache.own import can_crop, copy_layer, own_tensors
from kvpress.errors import CropError, SessionError, short
from kvpress.evidence.repetition import Repetition
from kvpress.hf.model import layer_types, own_layer
from kvpress.pipeline.layer import Layer
from kvpress.pipeline.state import State
from kvpress.recipe.press import Press
from kvpress.storage.modes import steady


class Compresses(Protocol):
    """What a cache asks of the session that ran it last: to apply the press to a prompt that is complete."""

    open: bool

    def compress(self, cache: PressCache) -> None: ...


class PressCache(Cache):  # type: ignore[misc]
    """Cache of one batch under a press. Made by `session.new_cache()`, `session.prefill` or injection.

    next_logits: (B, V) logits after the last token given to `session.prefill`, or None. peak: the most bytes its
    pressed layers held at once while that prompt was read, or 0.
    """

    layers: list[Any]

    def __init__(self, press: Press, types: list[str], arguments: list[dict[str, Any]], model: PreTrainedModel) -> None:
        self.press, self.model = press, weakref.ref(model)
        self.session: weakref.ref[Compresses] | None = None  # the last one that ran this cache
        self._types, self._arguments = types, arguments
        recipe = press.recipe
        layers = [
            StoreLayer(recipe, index) if kind == "full_attention" else own_layer(kind, kwargs)
            for index, (kind, kwargs) in enumerate(zip(types, arguments, strict=True))
        ]
        super().__init__(layers=layers)
        self.state: State[Layer] = State()
        self.prints: dict[str, str] | None = None  # path -> hash of the weights that its methods were given
        self.next_logits: Tensor | None = None
        self.peak = 0
        self.broken = False
        self._share_state()

    def _share_state(self) -> None:
        stores = self.stores
        self.state.layers = [*stores]
        for layer in stores:
            layer.state = self.state
        if self.press.recipe.sharer is not None:
            for low, high in self.press.recipe.sharer.pairs(len(stores)):
                stores[low].upper, stores[high].follows = stores[high], True

    @property
    def stores(self) -> list[StoreLayer]:
        """The layers that are under the press."""
        return [layer for layer in self.layers if isinstance(layer, StoreLayer)]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Logical length: tokens the model has seen."""
        layer = self.layers[layer_idx] if layer_idx < len(self.layers) else None
        if isinstance(layer, StoreLayer):
            return layer.logical
        return self.stores[0].logical

    def tensors(self) -> Iterator[tuple[int, str, str, str, Tensor]]:
        """(layer, name, side, ledger kind, tensor) of everything held; a shared storage may come more than once."""
        for index, layer in enumerate(self.layers):
            if isinstance(layer, StoreLayer):
                for name, side, kind, tensor in layer.tensors():
                    yield index, name, side, kind, tensor
                continue
            for name, tensor in own_tensors(layer).items():
                yield index, name, {"keys": "k", "values": "v"}.get(name, "-"), "other", tensor

    def ledger(self) -> Ledger:
        """Bytes by layer, side and kind, from the storages really held; shared storage is counted once."""
        self.settle()
        seen: set[int] = set()
        entries = []
        for layer, _, side, kind, tensor in self.tensors():
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen and storage.nbytes():
                seen.add(storage.data_ptr())
                entries.append(Entry(layer, side, kind, storage.nbytes()))
        return Ledger(tuple(entries))

    def nbytes(self) -> int:
        """Bytes held, everything included: codes, scales, indices, positions, masks, the dense window."""
        return self.ledger().total

    def bytes_read(self) -> int:
        """Bytes of keys and values that a decoded token reads in the pressed layers: of all slots, or of the pages that
        a selector chose for the queries of the last one.
        """
        self.settle()
        return sum(layer.bytes_read() for layer in self.stores if layer.is_initialized)

    def dense_nbytes(self) -> int:
        """Bytes the same tokens take in a dense cache (keys and values only, spare room not counted)."""
        total = 0
        for index, layer in enumerate(self.layers):
            if isinstance(layer, StoreLayer) and layer.is_initialized:
                batch, heads = layer.tail.k.shape[:2]
                slot = sum(x.shape[-1] * x.element_size() for x in (layer.tail.k, layer.tail.v))
                total += batch * heads * layer.logical * slot
            else:
                total += sum(e.bytes for e in self.ledger().entries if e.layer == index)
        return total

    def settle(self) -> None:
        """Fire the press where a prompt was read and the press waits for the prompt to be complete.

        Raises SessionError while another thread runs a forward on this cache.
        """
        self.state.check_free()
        if self._check_settles():
            assert self.session is not None
            session = self.session()
            assert session is not None
            session.compress(self)
        for layer in self.stores:
            if layer.due_now:
                layer.fire()

    def _check_settles(self) -> bool:
        """Whether settling takes a session, which SessionError says where there is none."""
        if self.press.recipe.needs.repeat is None or not any(layer.due_now for layer in self.stores):
            return False
        session = self.session() if self.session is not None else None
        if session is None or not session.open:
            raise SessionError(
                f"{short(self.press)} reads the prompt a second time. Enter it and session.compress(cache)."
            )
        return True

    @contextlib.contextmanager
    def borrowed(self, part: Repetition) -> Iterator[None]:
        """Within, the prompt is repeated: what a forward adds to the cache is taken out again at the end."""
        own = self.layers
        before = [(layer, layer.logical, layer.seen_mask, dict(vars(layer.tail))) for layer in self.stores]
        self.layers = [layer if isinstance(layer, StoreLayer) else copy_layer(layer) for layer in own]
        self.state.part = part
        try:
            yield
        finally:
            self.layers, self.state.part, self.broken = own, None, False
            for layer, logical, mask, tail in before:
                layer.logical, layer.seen_mask, layer.staged = logical, mask, None
                vars(layer.tail).update(tail)  # with the buffers of before: what grew is let go

    def fork(self, rows: int | Tensor | None = None) -> PressCache:
        """An independent continuation: segments are shared, the dense tail is copied.

        rows: None keeps the batch; an int repeats a batch of one to that many rows, which all read the one
        prefix; an int64 tensor (B',) picks rows. Raises SessionError for an int with a larger batch.
        """
        self.settle()  # in the modes of the caller: the model may run
        return self._forked(rows)

    @steady
    def _forked(self, rows: int | Tensor | None) -> PressCache:
        other = PressCache.__new__(PressCache)
        other.__dict__.update(self.__dict__)
        other.state, other.next_logits = State(), None
        other.layers = []
        for layer in self.layers:
            if isinstance(layer, StoreLayer):
                other.layers.append(layer.fork())
            else:
                other.layers.append(copy_layer(layer))
        other._share_state()
        if isinstance(rows, int):
            batch = self.stores[0].batch_size
            if batch != 1:
                raise SessionError(f"fork(rows={rows}) repeats a cache of one row; this one has {max(batch, 0)}.")
            rows = torch.zeros(rows, dtype=torch.long, device=self.stores[0].device)
        if rows is not None:
            other.reorder_cache(rows)  # the one row operation that every kind of layer has
        return other

    @steady
    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Batch row i becomes what row beam_idx[i] (int64) was."""
        super().reorder_cache(beam_idx.clone())  # kept where rows share a prefix: not the tensor of the caller

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last -tokens_to_remove tokens.

        Raises CropError where they are no longer dense, or where the press has counted their attention.
        """
        self.state.check_free()
        for layer in self.layers:
            if isinstance(layer, StoreLayer):
                layer.check_crop(tokens_to_remove)
            elif int(tokens_to_remove) and not can_crop(layer):
                raise CropError(
                    "A sliding or linear layer of this model no longer holds what stood before the last tokens. Fork "
                    "the cache before reading what you may want to undo."
                )
        self._check_settles()
        super().crop(tokens_to_remove)
        self.settle()

    def reset(self) -> None:
        """Back to a cache that has seen nothing."""
        self.state.check_free()
        super().reset()
        self._share_state()
        self.next_logits, self.broken, self.peak = None, False, 0

    def to_dense(self) -> DynamicCache:
        """Every surviving slot decoded, as a DynamicCache, when all heads and rows hold the same number of slots.

        The positions of dropped slots are gone: hand it to code that only reads keys and values.
        """
        self.settle()
        return self._dense()

    @steady
    def _dense(self) -> DynamicCache:
        out = DynamicCache()
        for index, layer in enumerate(self.layers):
            if isinstance(layer, StoreLayer):
                block = layer.block()
                counts = block.valid.sum(-1)
                if not bool((counts == counts.flatten()[0]).all()):
                    raise SessionError(
                        "Heads or rows of this cache hold different numbers of slots; read layer.block()."
                    )
                order = torch.where(block.valid, block.pos, 2**31 - 1).argsort(-1)[..., : int(counts.flatten()[0])]
                at = order.unsqueeze(-1)
                k = block.k.gather(2, at.expand(-1, -1, -1, block.k.shape[-1]))
                out.update(k, block.v.gather(2, at.expand(-1, -1, -1, block.v.shape[-1])), index)
            elif layer.is_initialized:
                out.update(layer.keys.clone(), layer.values.clone(), index)
        return out

    def save(self, path: str | Path, model: PreTrainedModel) -> None:
        """Write everything held to a safetensors file that `PressCache.load` checks against press and model.

        Raises CacheFileError when `model` is not the one that filled the cache.
        """
        save_cache(self, Path(path), model)

    @staticmethod
    def load(path: str | Path, model: PreTrainedModel) -> PressCache:
        """Read a saved cache. Raises CacheFileError when format or model do not match."""
        return load_cache(Path(path), model, lambda press: PressCache(press, *layer_types(model), model))
