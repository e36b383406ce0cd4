"""A package is a list of rooms, and imports go down that list: no arrow up, no circle, lazy imports included."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rooms import arrows, circles, problems, repeated, room, sources

ROOT = Path(__file__).parents[1]
ROOMS = {
    # from top to bottom; a package that is added here is held to its list
    "kvpress": (
        ROOT / "kvpress",
        (
            "method",  # what methods of other packages import
            "conformance",
            "doctor",
            "session",
            "plan",
            "cache",
            "pipeline",
            "hf",
            "policies",
            "lowrank",
            "quant",
            "recipe",
            "evidence",
            "storage",
            "attention",
            "checks",
            "registry",
            "errors",
        ),
    ),
    "kvpress_eval": (
        ROOT / "eval" / "kvpress_eval",
        (
            "__main__",
            "lm_eval",  # two public names that the guides and README show; nothing here imports them
            "tiny",
            "cli",
            "bench",
            "studies",
            "report",
            "importers",
            "sweeps",
            "runs",
            "sources",
            "suites",
            "metrics",
            "models",
            "rows",
            "machine",
            "errors",
        ),
    ),
}


@pytest.mark.parametrize("package", ROOMS)
def test_imports_go_down(package: str) -> None:
    folder, order = ROOMS[package]
    assert problems(order, arrows(package, sources(folder))) == []


@pytest.mark.parametrize("package", ROOMS)
def test_no_modules_import_each_other_in_a_round(package: str) -> None:
    folder, _ = ROOMS[package]
    assert circles(arrows(package, sources(folder))) == []


def test_a_module_of_the_evaluation_is_known_by_its_name_alone() -> None:
    folder, _ = ROOMS["kvpress_eval"]
    names = arrows("kvpress_eval", sources(folder))
    assert repeated(name for name in names if room(name) != "tiny") == []


MADE = {
    "__init__": "",
    "top.cook": "from ..low import salt\nfrom ..low.pans import pan",
    "top.__init__": "",
    "low.salt": "",
    "low.pans": "pan = 1",
    "low.__init__": "",
}


def told(**more: str) -> list[str]:
    return problems(("top", "low"), made(**more))


def made(**more: str) -> dict[str, frozenset[str]]:
    """The arrows of the package above with more files in it: ``low__fire`` is ``low.fire``, ``low`` that room's own."""
    names = {name: f"{name}.__init__" if name == "low" else name.replace("__", ".") for name in more}
    return arrows("made", {**MADE, **{names[name]: text for name, text in more.items()}})


@pytest.mark.parametrize(
    "text",
    [
        "from ..top import cook",
        "from ..top.cook import x",
        "from made.top import cook",
        "import made.top.cook as c",
        "def late():\n    from ..top.cook import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..top.cook import x",
        "class A:\n    def f(self):\n        import made.top.cook",
    ],
)
def test_an_arrow_up_is_found_wherever_it_stands(text: str) -> None:
    assert told() == []
    assert told(low__fire=text) == ["low.fire imports top.cook, which is above it"]


def test_a_room_imports_from_inside_itself() -> None:
    assert made(low="from .salt import x\nfrom . import pans")["low"] == {"low.salt", "low.pans"}
    assert told(low="from ..top import cook") == ["low imports top.cook, which is above it"]


def test_a_module_outside_every_room_is_found() -> None:
    assert told(attic="") == ["attic is in no room"]


def test_a_name_that_is_there_twice_is_found() -> None:
    assert repeated(made()) == []
    assert repeated(made(top__salt="")) == [["low.salt", "top.salt"]]


def test_a_round_is_found_in_one_room_too() -> None:
    lazy = {"low__salt": "def f():\n    from .pans import pan", "low__pans": "from . import lids"}
    assert circles(made(**lazy, low__lids="")) == []
    assert circles(made(**lazy, low__lids="from .salt import x")) == [["low.lids", "low.pans", "low.salt"]]
    assert circles(made(low="from .salt import x", low__salt="from . import y")) == [["low", "low.salt"]]
