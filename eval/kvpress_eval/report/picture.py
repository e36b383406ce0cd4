"""The picture in README: what presses cost on a pretrained model, from the committed rows.

python -m kvpress_eval.report.picture            # leaderboards/results -> docs/smollm2.svg; needs the extra `picture`
"""

from __future__ import annotations

import argparse
import math
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
from .charts import SCATTER, colour, filled
from .kinds import KINDS, kind
from .measure_changes import mean_of

__all__ = ["draw", "main"]

MODEL = "smollm2-135m"
LENGTH = 1024
TASKS = ("needle",)
WIDTH, HEIGHT = 520, 400
BYTES, LOSS = [5, 110], [8e-6, 2]  # the ends of the axes
LIGHT = {
    "ink": "#1b1d20",
    "soft": "#5d636b",
    "paper": "#ffffff",
    "grid": "#ececea",
    "line": "#a9adb2",
    "font": "Helvetica, Arial, sans-serif",
    "colours": [kind.light for kind in KINDS.values()],
}
"""The colours of the page (page.css) where it is light."""


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
            "kind": KINDS[kind(asked)].name,
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
            "kind": KINDS[kind(asked)].name,
            "score": 100 * sum(row.score or 0 for row in group) / len(group),
            "bytes": 100 * sum(row.bytes_ratio or 0 for row in group) / len(group),
        }
        for asked, group in sorted(found.items())
        if len(group) == len(TASKS)
    ]


def draw(rows: Sequence[Row]) -> str:
    """The picture as SVG: KL against bytes on text, and right answers, one colour for what presses have in common.

    Raises:
        UsageError: where the rows of the model are not there, or vl-convert is not.
    """
    rows = [row for row in rows if row.model == MODEL and row.ok and not row.twin]
    text, asked = points(rows), answers(rows)
    if not text or not asked:
        raise UsageError(
            f"no rows of {MODEL} with all genres of text and with {' and '.join(TASKS)}; measure them first"
        )
    try:
        import vl_convert
    except ImportError:
        raise UsageError(f"the picture needs vl-convert; {extra('picture')}") from None
    left = _text(text)
    del left["autosize"]
    chart = {"config": left.pop("config"), "hconcat": [left, _answers(asked)], "spacing": 40, "padding": 10}
    return str(vl_convert.vegalite_to_svg(chart))


def _text(data: list[dict[str, Any]]) -> dict[str, Any]:
    """KL against bytes, both by powers. Of each press one point has its name, where there is room for it."""
    shown = [{**one, "x": one["bytes"], "y": one["KL"], "whole": True, "place": "rest"} for one in data]
    front = _front(shown)
    for one in front:
        one["place"] = "front"
    kinds = [one["kind"] for one in shown]
    present = [kind.name for kind in KINDS.values() if kind.name in kinds]
    values = {
        **LIGHT,
        "title": _title("Text: what the next 256 tokens lose", "compressed, mean over genres"),
        "width": WIDTH,
        "height": HEIGHT,
        "xScale": "log",
        "xDomain": BYTES,
        "xTicks": [6.25, 12.5, 25, 50, 100],
        "xLabel": "format(datum.value, '~r') + ' %'",
        "xTitle": "bytes held, % of the full cache (log scale)",
        "yScale": "log",
        "yReverse": True,
        "yDomain": LOSS,
        "yTicks": [1e-5, 1e-4, 1e-3, 0.01, 0.1, 1],
        "yLabel": "format(datum.value, '~r')",
        "yTitle": "KL to the full cache, nats a token: less is better, and up",
        "titleX": -44,
        "align": "left",
        "legend": {"orient": "bottom", "columns": 7, "values": present},
        "rest": [one for one in shown if one["place"] == "rest"],
        "standing": front,
        "front": front,
        "sweeps": shown,
        "names": _beside(shown),
    }
    chart: dict[str, Any] = filled(SCATTER, values)
    chart["layer"] = [layer for layer in chart["layer"] if layer["name"] != "hit" and layer["data"].get("values")]
    return chart


def _front(data: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What nothing with as few bytes beats."""
    found: list[dict[str, Any]] = []
    for one in sorted(data, key=lambda one: (one["x"], one["y"])):
        if not found or one["y"] < found[-1]["y"]:
            found.append(one)
    return found


def _beside(data: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Names on the right or left of their marks, of the front first and then of the best, as long as none touches
    another one or a mark. Widths are guessed: there is no browser here that knows the fonts.
    """
    across, down = WIDTH / math.log(BYTES[1] / BYTES[0]), HEIGHT / math.log(LOSS[1] / LOSS[0])
    at = [(across * math.log(one["x"] / BYTES[0]), down * math.log(one["y"] / LOSS[0])) for one in data]
    taken = [(x - 5, x + 5, y - 4, y + 4) for x, y in at]
    placed: list[dict[str, Any]] = []
    named: set[str] = set()
    for one, (x, y) in sorted(zip(data, at, strict=True), key=lambda pair: (pair[0]["place"] != "front", pair[0]["y"])):
        name = one["press"] if one["place"] == "front" else family(one["press"])
        for left in (x + 8, x - 8 - 6.6 * len(name)):
            box = (left, left + 6.6 * len(name), y - 6, y + 6)
            if name not in named and box[1] < WIDTH and box[0] > 0 and not any(_touch(box, other) for other in taken):
                placed.append({**one, "x": BYTES[0] * math.exp(left / across), "name": name, "order": len(placed)})
                named.add(name)
                taken.append(box)
    return placed


def _touch(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


def _title(text: str, about: str) -> dict[str, Any]:
    told = f"{MODEL}, {LENGTH:,} tokens {about}"
    return {"text": text, "subtitle": told, "anchor": "start", "subtitleColor": LIGHT["soft"], "offset": 24}


def _answers(data: list[dict[str, Any]]) -> dict[str, Any]:
    """A bar a press, the best first, with the bytes it holds."""
    data = [{**one, "told": f"{one['score']:.0f}   ({one['bytes']:.0f} % of bytes)"} for one in data]
    data = [{**one, "press": one["press"].replace("(keep=0.25)", "")} for one in data]
    order = [one["press"] for one in sorted(data, key=lambda one: (-one["score"], one["bytes"]))]
    scale = {"domain": [0, 125]}
    x = {"field": "score", "type": "quantitative", "scale": scale, "title": "right answers, %"}
    x["axis"] = {"values": [0, 25, 50, 75, 100]}
    y = {"field": "press", "type": "nominal", "sort": order, "title": None, "axis": {"labelLimit": 260}}
    words = {"type": "text", "align": "left", "dx": 4, "fontSize": 11}
    title = _title("Retrieval: needle", "with the question hidden; who drops keeps 25 %")
    return {
        "width": 300,
        "height": HEIGHT,
        "title": title,
        "data": {"values": data},
        "encoding": {"x": x, "y": y, "color": colour(None)},
        "layer": [
            {"mark": {"type": "bar", "height": {"band": 0.7}}},
            {"mark": words, "encoding": {"text": {"field": "told"}}},
        ],
    }


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
