"""A study as Markdown: a verdict for each finding, its contrasts, and the scores behind them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ..report.markdown import code, markdown_table, text
from ..rows.numbers import points, probability, span
from ..rows.row import Row
from ..rows.stats import holm
from .finding import MARGIN, Finding

__all__ = ["render"]

_HOW = """\
Scores are of 100. Contrasts are in points, paired by session, with 95 % intervals from resampling sessions (10,000; BCa
under 40 sessions); p flips signs of sessions and is Holm-adjusted over all contrasts of this page. A contrast
holds when its whole interval lies on the side that the claim needs; "no difference" holds when the interval lies within
{margin:.0f} points of zero. A finding is shown when all of its contrasts hold."""


def render(
    name: str, about: str, rows: Sequence[Row], findings: Sequence[Finding], cells: int, overrides: Sequence[str]
) -> str:
    """The whole page."""
    checks = [check for finding in findings for check in finding.checks]
    adjusted = dict(zip(map(id, checks), holm([check.p for check in checks]), strict=True))
    command = code(shlex.join(["kvpress", "study", name, *overrides]))
    sessions = " or ".join(map(str, sorted({row.sessions for row in rows})))
    devices = sorted({f"{row.model_label}, {row.dtype} on {row.device}; {row.versions_text}" for row in rows})
    parts = [
        f"# {name}",
        f"{about} Written by {command}: {len(rows)} of {cells} cells, {sessions} sessions each.",
        "\n".join(f"Measured with {text(device)}." for device in devices),
        _HOW.format(margin=100 * MARGIN),
        markdown_table(
            ("finding", "verdict", "claim"),
            3,
            [[finding.id, f"**{finding.verdict}**", finding.claim] for finding in findings],
        ),
    ]
    for finding in findings:
        signs = {-1: "below zero", 0: "no difference", 1: "above zero"}
        lines = [
            [
                check.what,
                f"{points(check.found.mean, sign=True)} {span(check.found.low, check.found.high, sign=True)}".strip(),
                probability(adjusted[id(check)]),
                signs[check.expected],
                "holds" if check.holds else "**does not hold**",
            ]
            for check in finding.checks
        ]
        parts += [
            f"## {finding.id}: {finding.claim}",
            markdown_table(("contrast", "points [95 %]", "p", "claim needs", ""), 1, lines),
            markdown_table(finding.table[0], 1, [[code(line[0]), *line[1:]] for line in finding.table[1:]]),
            finding.note,
        ]
    return "\n\n".join(part for part in parts if part) + "\n"
