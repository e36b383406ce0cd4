"""The needle grid: one fact in filler, at every depth of every length.

After Kamradt's needle in a haystack, with random keys and values instead of a famous sentence. ``--depth``
says where (percent of the context); without it the turns spread over the context. The natural text is that of
``needle``; in the dialect the document holds the facts asked about and nothing else. Where filler ends decides
how near the fact comes to its depth: the spans of the evidence say where it really stands.
"""

from __future__ import annotations

from ..dialect_rendering import solver
from ..task import Task
from ..texts.haystack import needle_builder
from . import needle

__all__ = ["TASK"]

TASK = Task(
    name="needle_grid",
    about="one fact at a given depth of filler text (length x depth)",
    build={"dialect": needle_builder(), "natural": needle.TASK.build["natural"]},
    solve={"dialect": solver("fact"), "natural": needle.TASK.solve["natural"]},
    chance=needle.TASK.chance,
    suite="needles",
)
