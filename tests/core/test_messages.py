"""Error messages: short, with the nearest names and not all of them, and with advice that works when it is followed."""

from __future__ import annotations

import ast
import re
from itertools import product
from pathlib import Path

import pytest
from kvpress_eval import errors as harness
from kvpress_eval.errors import choose

import kvpress
from kvpress import PRESETS, Press, full
from kvpress.errors import KVPressError, PressConflictError, nearest, short
from kvpress.recipe.press import PRESETS as REGISTRY
from kvpress.registry import Registry
from tests.models import build, shared, tokens

FAMILY = {name for name in (*kvpress.errors.__all__, *harness.__all__) if name.endswith("Error")} | {"BrokenError"}
FILLED, NUMBER = 25, 10  # characters that a value in a message takes, on average, and a number
BASES = [name for name in PRESETS if "@" not in name]


def longest(node: ast.expr) -> int:
    """Characters of a message, with each value counted as FILLED."""
    if isinstance(node, ast.Constant):
        return len(str(node.value))
    if isinstance(node, ast.JoinedStr):
        return sum(longest(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return longest(node.left) + longest(node.right)
    if isinstance(node, ast.IfExp):
        return max(longest(node.body), longest(node.orelse))
    return NUMBER if isinstance(node, ast.FormattedValue) and node.format_spec is not None else FILLED


def test_no_message_is_long() -> None:
    found = {}
    for package in (Path(kvpress.__file__).parent, Path(harness.__file__).parent):
        for file in sorted(package.rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
                if isinstance(node, ast.Call) and name in FAMILY and node.args:
                    found[f"{file.name}:{node.lineno}"] = longest(node.args[0])
    assert len(found) > 150
    assert {where: size for where, size in found.items() if size >= 300} == {}


@pytest.mark.parametrize("word", ["snapvk", "streamingllm", "h20", "zzz", "x" * 20_000, "snapkv@papers", "ñandú"])
def test_a_wrong_name_gets_the_nearest_and_the_command(word: str) -> None:
    said = ""
    for ask in (lambda: Press.parse(word), lambda: REGISTRY[word]):
        with pytest.raises(KVPressError) as caught:
            ask()
        said = str(caught.value)
        assert len(said) < 300
    if word.isascii():
        assert said.endswith("`kvpress list presses` lists all.")
        assert len(re.findall("'[^']*'", said)) <= 4  # the word, and three names
    near = {"snapvk": "snapkv", "streamingllm": "streaming_llm", "h20": "h2o", "snapkv@papers": "snapkv@paper"}
    assert word not in near or f"did you mean '{near[word]}'" in said


def test_names_of_the_harness() -> None:
    from kvpress_eval.suites import TASKS, get_task

    for word in ("kvv", "rulerniah", "zzz", "x" * 20_000):
        with pytest.raises(KVPressError, match="`kvpress list tasks` lists all") as caught:
            get_task(word)
        assert len(str(caught.value)) < 300
    assert len(TASKS) > 20
    with pytest.raises(KVPressError, match="unknown mode 'zzz'; choose from multi-request, multi-turn"):
        choose("mode", "zzz", ("multi-turn", "multi-request"))


def test_nearest_and_short() -> None:
    many = [f"name{number:03}" for number in range(200)]
    assert nearest("name7", many, "a list").count("'") <= 6
    assert nearest("zzz", many, "a list") == "none of the 200 names is near. `a list` lists all."
    assert nearest("zzz", ["b", "a"], "") == "choose from a, b"
    assert short("a" * 80) == "a" * 80
    assert len(short("a" * 5000)) <= 80 and len(short("a" * 5000, 40)) <= 40
    mine: Registry[int] = Registry("thing", int)
    with pytest.raises(KVPressError, match="Unknown thing 'x'"):
        mine["x"]


_RECOMMENDS = re.compile(r"Use it with a press [^(]*\(([^)]+)\)\.")


def recommended(message: str) -> list[str]:
    """The presses that a message says to use, as they are written there."""
    match = _RECOMMENDS.search(message)
    return match[1].split(", ") if match else []


def scores(name: str) -> bool:
    return "keep" in PRESETS[name].signature.parameters


def test_the_composition_a_conflict_recommends_works() -> None:
    """For every two presses that do not go together: what the message says to use instead of one of them does."""
    model, ids = build("llama", num_hidden_layers=4), tokens(1, 60)
    conflicts, entered = 0, set[str]()
    for a, b in product(BASES, repeat=2):
        try:
            Press.parse(f"{a} | {b}")
            continue
        except PressConflictError as error:
            said = str(error)
        conflicts += 1
        assert len(said) < 300, said
        names = recommended(said)
        if names:
            others = [part for part in (a, b) if not scores(part)]
            assert len(others) == 1, said
            assert not set(names) & {a, b}, said  # it would be what was refused
            instead = [f"{others[0]} | {name}" for name in names]
        elif 'positions="keep"' in said:
            instead = [f"{a} | {b}".replace("streaming_llm", 'streaming_llm(positions="keep")')]
        else:
            assert "use one of them" in said.lower() or "leave it out" in said, said
            instead = [part for part in (a, b) if not Press.parse(part).recipe.unfinished]
        for text in instead:
            press = Press.parse(text)
            press.ready()
            if text not in entered and len(press.parts) > 1:
                entered.add(text)
                with press(model) as session:
                    assert session.prefill(ids).get_seq_length() == 60
    assert conflicts > 100 and len(entered) > 10


@pytest.mark.parametrize("text", ["criticalkv", "ada", "pyramid", "pooled | ada", "criticalkv | kivi(group=4)"])
def test_a_part_by_itself_recommends_what_works(text: str) -> None:
    with pytest.raises(PressConflictError) as caught, Press.parse(text)(shared("llama")):
        raise AssertionError("not reached")
    advice = str(caught.value).partition("for example ")[2].rstrip(".")
    with Press.parse(advice)(shared("llama")) as session:
        assert session.prefill(tokens(1, 60)).nbytes() > 0


def test_presses_that_are_recommended_between_chunks_and_instead_of_eviction() -> None:
    model, ids = shared("llama"), tokens(1, 60)
    with Press.parse("snapkv(keep=0.5)")(model) as session, pytest.raises(KVPressError) as caught:
        session.prefill(ids, chunk=20, between=True)
    for name in re.findall(r"\(([^)]*)\)", str(caught.value))[-1].split(", "):
        with Press.parse(name)(model) as session:
            assert session.prefill(ids, chunk=20, between=True).get_seq_length() == 60


@pytest.mark.parametrize("dim", [18, 20, 24, 28, 40, 48, 80])
@pytest.mark.parametrize("name", ["kivi", "kivi(bits=4, keys=token)", "gear", "int8", "fp8"])
def test_what_is_said_of_heads_of_an_odd_width_helps(dim: int, name: str) -> None:
    model = build("llama", head_dim=dim)
    press = Press.parse(name)
    try:
        press.recipe.fits(dim)
    except PressConflictError as error:
        said = str(error)
        if group := re.search(r"use group=(\d+)", said):
            name = name.replace(")", f", group={group[1]})") if "(" in name else f"{name}(group={group[1]})"
        press = Press.parse(name if group else "int8")
        if not (group or "use int8" in said):
            raise
    with press(model) as session:
        assert session.prefill(tokens(1, 150)).nbytes() > 0


def test_a_long_press_is_cut_in_a_message() -> None:
    press = Press.parse(
        "criticalkv@kvpress | ada@kvpress(alpha=0.25, mode=floor) | snapkv@kvpress(keep=0.5, window=33)"
    )
    with press(shared("llama")) as session, pytest.raises(KVPressError) as caught:
        session.prefill(tokens(1, 60), chunk=20, between=True)
    assert len(str(caught.value)) < 300
    with full()(shared("llama")) as session, pytest.raises(KVPressError) as caught:
        session.prefill(tokens(1, 60), peak=10)
    assert len(str(caught.value)) < 300
