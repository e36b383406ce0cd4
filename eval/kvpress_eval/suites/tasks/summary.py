"""Summaries (En.Sum): each turn asks for the summary of one of several reports.

Paper: SCBench (arXiv 2412.10319), which concatenates papers. The reports here are made up from templates: ROUGE
rewards what their summaries share, so look at the recall of key facts beside it (``extras`` of a row).
"""

from __future__ import annotations

from ..episode import Episode, Request, Turn
from ..task import Task, finish, no_depth
from ..texts.report_text import reports
from ..texts.reports import CHANCE, SPREAD, Report, summary_of, summary_question

__all__ = ["TASK"]


def _natural(request: Request) -> Episode:
    no_depth(request, SPREAD)
    text = reports(request, range(request.turns))
    asked = [item.what for item in text.items if isinstance(item.what, Report)]
    return finish(request, text, [Turn(summary_question(r.title), r.summary, ()) for r in asked])


TASK = Task(
    name="summary",
    about="the summary of one of several made-up reports",
    build={"natural": _natural},
    solve={"natural": summary_of},
    chance=lambda rendering, turns: CHANCE,
)
