"""The picture in README: what presses cost on a pretrained model, from the committed rows.

python -m kvpress_eval.report.picture            # leaderboards/results -> docs/smollm2.svg; needs the extra `picture`
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kvpress.errors import KVPressError, extra

from ..errors import UsageError
from ..machine.files import write_whole
from ..rows.parsing import read_rows
from ..rows.press_text import family, keeps_everything, sweep
from ..rows.row import Row
from .measure_changes import mean_of

__all__ = ["draw", "main"]

MODEL = "smollm2-135m"
LENGTH = 1024
TASKS = ("needle",)
KINDS = {
    "drop tokens": "#2166ac",
    "drop, and fewer bits": "#1b9e77",
    "fewer bits": "#d95f02",
    "fewer channels or layers": "#7570b3",
    "control: a random choice": "#888888",
}
_RIGHT = ("drop tokens", "control: a random choice")
_BITS = {"kivi", "int8", "fp8", "gear", "gear_l"}
_PARTS = {"think", "minicache"}


def kind(press: str) -> str:
    """What a press does, as the picture's colours tell it."""
    methods = {stage.partition("@")[0].strip() for stage in family(press).split("|")}
    if methods <= _PARTS or methods <= _BITS | _PARTS:
        return "fewer channels or layers" if methods & _PARTS else "fewer bits"
    if methods & _BITS:
        return "drop, and fewer bits"
    return "control: a random choice" if methods == {"random"} else "drop tokens"


def points(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """KL and share of bytes of each press on the passages of text, mean over its genres, where it has all of them."""
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if (
            row.forced
            and row.length == LENGTH
            and not row.is_full
            and not row.origin
            and "kl" in row.measures
            and not row.kept_all
        ):
            found[row.asked, row.target].append(row)
    genres = {row.task for group in found.values() for row in group}
    return [
        {
            "press": asked,
            "line": sweep(asked, target),
            "kind": kind(asked),
            "bytes": 100 * sum(row.bytes_ratio or 0 for row in group) / len(group),
            "KL": mean_of(group, "kl"),
        }
        for (asked, target), group in sorted(found.items())
        if {row.task for row in group} == genres and not keeps_everything(asked)
    ]


def answers(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Share of right answers of each press on the tasks that the model can do, mean over them."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        asked_later = row.question_visible is False and row.depth is None and row.length == LENGTH
        if row.task in TASKS and asked_later and not row.origin and (row.is_full or not row.kept_all):
            found[row.asked].append(row)
    return [
        {
            "press": asked,
            "kind": "full cache" if group[0].is_full else kind(asked),
            "score": 100 * sum(row.score or 0 for row in group) / len(group),
            "bytes": 100 * sum(row.bytes_ratio or 0 for row in group) / len(group),
        }
        for asked, group in sorted(found.items())
        if len(group) == len(TASKS)
    ]


def draw(rows: Sequence[Row]) -> str:
    """The picture as SVG: KL against bytes on text, and right answers, one colour for what presses have in common.

    Raises:
        UsageError: where the rows of the model are not there, or altair is not.
    """
    rows = [row for row in rows if row.model == MODEL and row.ok and not row.twin]
    text, asked = points(rows), answers(rows)
    if not text or not asked:
        raise UsageError(
            f"no rows of {MODEL} with all genres of text and with {' and '.join(TASKS)}; measure them first"
        )
    try:
        import altair as alt
        import vl_convert
    except ImportError:
        raise UsageError(f"the picture needs altair; {extra('picture')}") from None
    chart = alt.hconcat(_text(alt, text), _answers(alt, asked), spacing=40).resolve_scale(color="shared")
    chart = chart.configure(font="Helvetica, Arial, sans-serif", background="white").configure_view(stroke=None)
    chart = chart.configure_axis(labelFontSize=11, titleFontSize=12, gridColor="#e6e6e6", domainColor="#888")
    chart = chart.configure_title(fontSize=14, anchor="start", subtitleFontSize=11, subtitleColor="#555")
    return str(vl_convert.vegalite_to_svg(chart.to_dict()))


def _colour(alt: Any) -> Any:
    scale = alt.Scale(domain=[*KINDS, "full cache"], range=[*KINDS.values(), "black"])
    legend = alt.Legend(title=None, orient="bottom", columns=6, labelFontSize=12, symbolSize=90)
    return alt.Color("kind:N", scale=scale, legend=legend)


def _text(alt: Any, data: list[dict[str, Any]]) -> Any:
    """KL against bytes, both by powers; the amounts of a press share a line, which is named at its left end."""
    base = alt.Chart(alt.Data(values=data))
    bytes_axis = alt.Axis(values=[5, 10, 15, 25, 50, 80], format="d")
    scale = alt.Scale(type="log", domain=[5, 100], nice=False)
    x = alt.X("bytes:Q", scale=scale, axis=bytes_axis, title="bytes held, % of the full cache")
    ticks = alt.Axis(values=[0.0001, 0.001, 0.01, 0.1, 1], format="~r")
    scale = alt.Scale(type="log", domain=[8e-6, 2], nice=False)
    y = alt.Y("KL:Q", scale=scale, axis=ticks, title="KL to the full cache, nats a token (lower is better)")
    lines = base.mark_line(strokeWidth=1.2, opacity=0.5).encode(x=x, y=y, color=_colour(alt), detail="line:N")
    shown = lines + base.mark_point(filled=True, size=45, opacity=0.9).encode(x=x, y=y, color=_colour(alt))
    named = _apart([{**one, "name": NAMES[one["press"]]} for one in _ends(data) if one["press"] in NAMES])
    for align, dx in (("left", 8), ("right", -8)):  # what drops tokens is named on the right: codecs are on the left
        mine = [one for one in named if (align == "left") == (one["kind"] in _RIGHT)]
        words = alt.Chart(alt.Data(values=mine)).mark_text(align=align, dx=dx, fontSize=11)
        shown += words.encode(x=x, y=alt.Y("place:Q"), text="name:N", color=_colour(alt))
    title = alt.Title(
        "Text: what the next 256 tokens lose", subtitle=f"{MODEL}, 1,024 tokens compressed, mean over genres"
    )
    return shown.properties(width=470, height=380, title=title)


NAMES = {
    **{name: name for name in ("kvzip", "snapkv", "random", "streaming_llm", "keydiff", "knorm", "minicache", "think")},
    **{name: name for name in ("int8", "fp8")},
    "kivi(bits=4)": "kivi 4 bits",
    "kivi(bits=2)": "kivi 2 bits",
    "kivi(bits=4, residual=0)": "kivi 4 bits, no window",
    "gear(bits=4)": "gear 4 bits",
    "h2o": "h2o",
    "tova": "tova",
    "pooled | ada(alpha=0) | keydiff": "pooled | ada | keydiff",
    "kvzip | kivi(bits=4, residual=0)": "kvzip + kivi 4 bits",
}
"""What stands beside a mark; the others are in the leaderboard."""


def _ends(data: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The point of each line with the fewest bytes."""
    lines: dict[str, dict[str, Any]] = {}
    for one in data:
        if one["line"] not in lines or one["bytes"] < lines[one["line"]]["bytes"]:
            lines[one["line"]] = one
    return list(lines.values())


def _apart(named: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Names with a ``place`` of their own: those of marks above each other move up until no two touch."""
    placed: list[dict[str, Any]] = []
    for one in sorted(named, key=lambda one: one["KL"]):
        beside = [other["place"] for other in placed if 0.8 < other["bytes"] / one["bytes"] < 1.25]
        placed.append({**one, "place": max([one["KL"], *(1.42 * place for place in beside)])})  # 12 of 380 pixels
    return placed


def _answers(alt: Any, data: list[dict[str, Any]]) -> Any:
    """A bar a press, the best first, with the bytes it holds."""
    data = [{**one, "told": f"{one['score']:.0f}   ({one['bytes']:.0f} % of bytes)"} for one in data]
    data = [{**one, "press": one["press"].replace("(keep=0.25)", "")} for one in data]
    order = [one["press"] for one in sorted(data, key=lambda one: (-one["score"], one["bytes"]))]
    x = alt.X(
        "score:Q",
        scale=alt.Scale(domain=[0, 125]),
        axis=alt.Axis(values=[0, 25, 50, 75, 100]),
        title="right answers, %",
    )
    y = alt.Y("press:N", sort=order, title=None, axis=alt.Axis(labelLimit=260, labelFontSize=11))
    base = alt.Chart(alt.Data(values=data)).encode(x=x, y=y, color=_colour(alt))
    title = alt.Title("Retrieval: needle", subtitle=f"{MODEL}, 1,024 tokens, question hidden; who drops keeps 25 %")
    words = base.mark_text(align="left", dx=4, fontSize=11).encode(text="told:N")
    return (base.mark_bar(height={"band": 0.7}) + words).properties(width=330, height=380, title=title)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw it; returns an exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m kvpress_eval.report.picture", description="draw the picture in README"
    )
    parser.add_argument("--results", type=Path, default=Path("leaderboards/results"), help="folder of rows")
    parser.add_argument("--out", type=Path, default=Path("docs/smollm2.svg"), help="the file to write")
    options = parser.parse_args(argv)
    try:
        write_whole(options.out, draw(read_rows(options.results)[0]) + "\n")
    except (KVPressError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"drawn: {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
