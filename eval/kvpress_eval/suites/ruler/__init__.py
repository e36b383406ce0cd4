"""RULER-like tasks: the 13 of RULER (arXiv 2404.06654) with its wording, without its essays, word lists and data sets.

RULER asks one question per context. Here an episode may have more turns where the context allows it: an episode
has at most as many turns as its task has questions. Scores of these tasks are not RULER scores.
"""

from __future__ import annotations

from . import counting, niah, qa, tracing

__all__ = ["TASKS"]

TASKS = (*niah.TASKS, *tracing.TASKS, *counting.TASKS, *qa.TASKS)
