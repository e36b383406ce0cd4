"""What the training log says between two lines."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import Tensor


class Meter:
    """Running means between two log lines; exact match per task on answers not yet trained on."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.exact: dict[tuple[int, str], list[bool]] = defaultdict(list)

    def add(
        self,
        length: int,
        loss: float,
        norm: float,
        right: Tensor,
        answers: list[tuple[int, int, str]],
    ) -> None:
        """One batch: ``right`` (m,) says which loss rows were predicted."""
        self.losses.append(loss)
        self.norms.append(norm)
        flags = right.tolist()
        for start, end, task in answers:
            self.exact[length, task].append(all(flags[start:end]))

    def summary(self, length: int) -> dict[str, Any]:
        """The fields of a log line for a stage of this length."""

        def mean(values: list[Any]) -> float:
            return round(sum(values) / len(values), 3)

        shorter: dict[int, list[bool]] = defaultdict(list)
        for (n, _), values in self.exact.items():
            if n != length:
                shorter[n] += values
        return {
            "loss": mean(self.losses),
            "grad_norm": mean(self.norms),
            "exact": {task: mean(v) for (n, task), v in sorted(self.exact.items()) if n == length},
            "exact_shorter": {str(n): mean(v) for n, v in sorted(shorter.items())},
        }
