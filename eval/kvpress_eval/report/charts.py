"""Charts as Vega-Lite: what the pages and the picture in README draw, written once.

A text that begins with "$" stands for a value that whoever draws fills in (`filled`, and the same in page/chart.js):
the rows, the size, the colours of the page. Text of rows is data in every chart, and never part of an expression.
The layer "names" is where its rows say: in the page Vega moves its texts apart, which takes a browser to measure them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .kinds import KINDS

__all__ = ["LINES", "SCATTER", "colour", "filled"]

_KIND = {"domain": [kind.name for kind in KINDS.values()]}
_SHAPES = {**_KIND, "range": [kind.shape for kind in KINDS.values()]}
_COLOURS = {**_KIND, "range": "$colours"}

_CONFIG = {
    "font": "$font",
    "background": "$paper",
    "aria": False,  # the panel says what it shows, and the table has the numbers
    "view": {"stroke": None},
    "axis": {
        "labelColor": "$soft",
        "titleColor": "$soft",
        "titleFontWeight": "normal",
        "titleFontSize": 11.5,
        "labelFontSize": 11.5,
        "gridColor": "$grid",
        "domainColor": "$line",
        "tickColor": "$line",
        "labelFlush": False,
    },
    "legend": {"labelColor": "$soft", "labelFontSize": 12, "symbolSize": 80, "title": None},
}


def colour(legend: Any = "$legend") -> dict[str, Any]:
    """By the kind of a press. Layers that share a legend have to say the same of it."""
    return {"field": "kind", "type": "nominal", "scale": _COLOURS, "legend": legend}


def _place(stands_out: float, rest: float, dim: float) -> dict[str, Any]:
    """By a mark's `place`: on the "front" or "lit", which is selected; "rest"; "dim", beside a selection."""
    tests = [("rest", rest), ("dim", dim)]
    return {
        "condition": [{"test": f"datum.place === '{place}'", "value": value} for place, value in tests],
        "value": stands_out,
    }


def _axes() -> dict[str, Any]:
    return {
        "x": {
            "field": "x",
            "type": "quantitative",
            "scale": {"type": "$xScale", "domain": "$xDomain", "nice": False, "zero": "$xZero"},
            "axis": {
                "title": "$xTitle",
                "values": "$xTicks",
                "labelExpr": "$xLabel",
                "labelOverlap": False,
                "grid": False,
                "titlePadding": 6,
            },
        },
        "y": {
            "field": "y",
            "type": "quantitative",
            "scale": {
                "type": "$yScale",
                "domain": "$yDomain",
                "reverse": "$yReverse",
                "nice": False,
                "zero": "$yZero",
            },
            # the title lies over the axis, where it can be read without turning one's head
            "axis": {
                "title": "$yTitle",
                "values": "$yTicks",
                "labelExpr": "$yLabel",
                "labelOverlap": False,
                "tickCount": "$yCount",
                "domain": False,
                "ticks": False,
                "titleAngle": 0,
                "titleAlign": "left",
                "titleAnchor": "end",
                "titleX": "$titleX",
                "titleY": -14,
            },
        },
    }


def _names() -> dict[str, Any]:
    return {
        "name": "names",
        "data": {"values": "$names"},
        "mark": {"type": "text", "fontSize": 11.5, "fontWeight": 600, "limit": "$limit", "align": "$align"},
        "encoding": {"text": {"field": "name"}, "color": colour(), "order": {"field": "order"}},
    }


_MARK = {
    "shape": {"field": "kind", "type": "nominal", "scale": _SHAPES, "legend": "$legend"},
    "fill": colour(),
    "stroke": colour(),
    "opacity": _place(1, 0.42, 0.12),
    # hollow: not on all tasks, so that it compares with nothing
    "fillOpacity": {"condition": {"test": "datum.whole", "value": 1}, "value": 0},
}
_HIT = {
    "name": "hit",  # a fingertip is wider than a mark
    "data": {"values": "$points"},
    "mark": {"type": "point", "size": 420, "opacity": 0, "filled": True, "cursor": "pointer"},
    "encoding": {"tooltip": {"field": "press"}},
}

SCATTER: dict[str, Any] = {
    "width": "$width",
    "height": "$height",
    "padding": "$padding",
    "autosize": "none",
    "title": "$title",
    "config": _CONFIG,
    "encoding": _axes(),
    "layer": [
        {
            "name": "band",
            "data": {"values": "$references"},
            "mark": {"type": "rect", "color": "$ink", "opacity": 0.07},
            "encoding": {"x": {"value": 0}, "x2": {"value": "width"}, "y": {"field": "low"}, "y2": {"field": "high"}},
        },
        {
            "name": "reference",
            "data": {"values": "$references"},
            "mark": {"type": "rule", "color": "$ink", "strokeDash": [4, 4], "opacity": 0.55},
            "encoding": {"x": {"value": 0}, "x2": {"value": "width"}},
        },
        {
            "name": "front",
            "data": {"values": "$front"},
            "mark": {
                "type": "line",
                "interpolate": "step-after",
                "color": "$ink",
                "opacity": 0.16,
                "strokeWidth": 5,
                "strokeJoin": "round",
                "strokeCap": "round",
            },
            "encoding": {},
        },
        {
            "name": "sweep",
            "data": {"values": "$sweeps"},
            "mark": {"type": "line", "strokeWidth": 1.4},
            "encoding": {"detail": {"field": "line"}, "color": colour(), "opacity": _place(0.8, 0.35, 0.08)},
        },
        {
            "name": "interval",
            "data": {"values": "$intervals"},
            "mark": {"type": "rule", "strokeWidth": 1.6},
            "encoding": {"y": {"field": "low"}, "y2": {"field": "high"}, "color": colour()},
        },
        {
            "name": "rest",
            "data": {"values": "$rest"},
            "mark": {"type": "point", "strokeWidth": 1.2},
            "encoding": {**_MARK, "size": _place(85, 34, 34)},
        },
        {
            "name": "points",
            "data": {"values": "$standing"},
            "mark": {"type": "point", "strokeWidth": 1.4},
            "encoding": {**_MARK, "size": _place(85, 34, 34)},
        },
        {
            "name": "reference names",
            "data": {"values": "$references"},
            "mark": {"type": "text", "align": "left", "dx": 4, "dy": -7, "fontStyle": "italic", "color": "$soft"},
            "encoding": {"x": {"value": 0}, "text": {"field": "name"}},
        },
        _names(),
        _HIT,
    ],
}

LINES: dict[str, Any] = {
    "width": "$width",
    "height": "$height",
    "padding": "$padding",
    "autosize": "none",
    "config": _CONFIG,
    "encoding": _axes(),
    "layer": [
        {
            "name": "sweep",
            "data": {"values": "$points"},
            "mark": {"type": "line", "strokeWidth": 1.4},
            "encoding": {"detail": {"field": "line"}, "color": colour(), "opacity": _place(1, 0.45, 0.12)},
        },
        {
            "name": "points",
            "data": {"values": "$points"},
            "mark": {"type": "point", "strokeWidth": 1.2, "size": 40},
            "encoding": {**_MARK, "opacity": _place(1, 0.7, 0.12)},
        },
        _names(),
        _HIT,
    ],
}


def filled(part: Any, values: Mapping[str, Any]) -> Any:
    """A chart with its values; what has none is left out. What is filled in is not looked into again."""
    if isinstance(part, str):
        return values.get(part[1:]) if part.startswith("$") else part
    if isinstance(part, list):
        return [filled(one, values) for one in part]
    if not isinstance(part, dict):
        return part
    there = {name: one for name, one in part.items() if not _open(one) or one[1:] in values}
    return {name: filled(one, values) for name, one in there.items()}


def _open(part: Any) -> bool:
    return isinstance(part, str) and part.startswith("$")
