"""What the metric modules of ``evaluate`` share. Needs ``evaluate`` and ``datasets``: not imported by the package.

Golds are text, numbers, lists or mappings, also mixed in one call, which one Arrow column cannot hold: they
travel through evaluate's cache as JSON. The modules import this one as a module, because evaluate's loader
takes the first metric class it finds in a module, imported ones included.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

import datasets
import evaluate

from ..errors import UsageError
from . import Scorer, score
from .golds import Gold

__all__ = ["ScoreMetric"]


class ScoreMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate is not typed
    """Mean and list of the scores of one task, or of one task an answer."""

    scorer: ClassVar[Scorer]

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=f"Scores of long-context answers in 0..1, {self.scorer} scorer.",
            citation="SCBench (arXiv 2412.10319)",
            inputs_description="predictions: texts; references: golds; task: one name, or one an answer",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def add(self, *, prediction: str, reference: Gold, **others: Any) -> None:
        """One answer and its gold."""
        super().add(prediction=prediction, reference=_pack(reference), **others)

    def add_batch(self, *, predictions: Sequence[str], references: Sequence[Gold], **others: Any) -> None:
        """Answers and their golds."""
        super().add_batch(predictions=list(predictions), references=[_pack(r) for r in references], **others)

    def _compute(
        self, *, predictions: Sequence[str], references: Sequence[str], task: str | Sequence[str]
    ) -> dict[str, Any]:
        if not predictions:
            raise UsageError("no answers to score; give at least one prediction and its reference")
        tasks = [task] * len(predictions) if isinstance(task, str) else list(task)
        if len(tasks) != len(predictions):
            raise UsageError(f"{len(tasks)} tasks for {len(predictions)} answers; give one name, or one an answer")
        pairs = zip(tasks, predictions, references, strict=True)
        scores = [score(name, answer, json.loads(gold), self.scorer) for name, answer, gold in pairs]
        return {"score": sum(scores) / len(scores), "scores": scores}


def _pack(reference: Gold) -> str:
    return json.dumps(reference, default=_plain)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        return value.tolist()
    raise UsageError(
        f"a reference is text, a number, a list or a mapping, got {type(value).__name__}; convert it first"
    )
