"""What a method gets from a model, once for every layer, when its press is entered: functions and weights.

A decision that needs something has a method `bind(view, layer)`. What it returns is kept for that layer, and comes
back as `seen.of(self)` when the decision is asked. Nothing is looked up while a model runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from kvpress.evidence.output import Output
from kvpress.evidence.rope import Rotate, stay

MOMENTS = "moments of queries"  # evidence and the pipeline are given what they need under these names
SINKS = "sinks that move"


class View(Protocol):
    """A model, as far as methods see it. Everything raises UnsupportedError where it cannot be had exactly."""

    def rotation(self, layer: int) -> Rotate:
        """How keys of a layer move to other positions."""
        ...

    def output(self, layer: int) -> Output:
        """What a value can add to the output of a layer."""
        ...

    def weights(self, path: str) -> Mapping[str, Tensor]:
        """The tensors of a safetensors file that was trained for the method; its hash is kept with the cache."""
        ...


@runtime_checkable
class Binds(Protocol):
    """A decision that needs something of the model."""

    def bind(self, view: View, layer: int) -> Any:
        """What it needs of `layer`."""
        ...


class Asked:
    """A view that only notes what it is asked for. names: "rotation", "output", "weights"."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def rotation(self, layer: int) -> Rotate:
        self.names.add("rotation")
        return stay

    def output(self, layer: int) -> Output:
        self.names.add("output")
        return lambda v: v.float().abs().sum(-1)

    def weights(self, path: str) -> Mapping[str, Tensor]:
        self.names.add("weights")
        return {}
