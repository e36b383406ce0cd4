"""A model as methods see it: how keys move, what values add, and weights that were trained for a method."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from safetensors.torch import load
from torch import Tensor
from transformers import PreTrainedModel

from kvpress.errors import UnsupportedError, short
from kvpress.evidence.output import Projection
from kvpress.evidence.rope import Rotate
from kvpress.hf.model import output_projections
from kvpress.session.probe import move, moves


class ModelView:
    """See kvpress.evidence.bind.View. instead(): what to do where keys cannot be moved, for messages.

    projections: layer -> the output projection that was given. prints: path -> sha256 of the weights that were given.
    """

    def __init__(self, model: PreTrainedModel, instead: Callable[[], str]) -> None:
        self._model, self._instead = model, instead
        self.projections: dict[int, Projection] = {}
        self.prints: dict[str, str] = {}
        self._read: dict[str, Mapping[str, Tensor]] = {}

    @cached_property
    def _moves(self) -> tuple[Rotate, frozenset[int]]:
        return moves(self._model, self._instead())

    @cached_property
    def _outputs(self) -> dict[int, Projection]:
        return output_projections(self._model)

    def rotation(self, layer: int) -> Rotate:
        """How keys of a layer move to other positions. Raises UnsupportedError."""
        rotate, still = self._moves
        return move(rotate, still, layer)

    def output(self, layer: int) -> Projection:
        """What a value can add to the output of a layer. Raises UnsupportedError."""
        return self.projections.setdefault(layer, self._outputs[layer])

    def weights(self, path: str) -> Mapping[str, Tensor]:
        """The tensors of a safetensors file. Raises UnsupportedError where it cannot be read."""
        if path not in self._read:
            try:
                data = Path(path).read_bytes()
                self._read[path] = load(data)
            except Exception as error:
                raise UnsupportedError(
                    f"{short(path)} cannot be read as weights of a method ({type(error).__name__}). Train them, or "
                    "give the path of the safetensors file that holds them."
                ) from error
            self.prints[path] = hashlib.sha256(data).hexdigest()
        return self._read[path]
