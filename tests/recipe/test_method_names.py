"""No method is named outside its own file: what goes together is decided by what a method declares of itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Tensor

import kvpress
from kvpress import PRESETS, KVPressError
from kvpress.errors import PressConflictError
from kvpress.evidence.evidence import Evidence, Needs
from kvpress.recipe.kinds import check_traits
from kvpress.recipe.press import Press, like
from kvpress.storage.block import Block

ROOT = Path(kvpress.__file__).parent
WORDS = {"random", "full", "every", "int8", "fp8"}  # presses whose names are words of torch or of English
FREE = ("policies", "quant", "lowrank", "doctor.py", "conformance")  # methods, and checks that run some


def said(source: str) -> Iterator[str]:
    """Names and texts of a program, but not what its docstrings tell."""
    tree = ast.parse(source)
    told = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.value
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.name


def named(source: str) -> set[str]:
    methods = {name for name in PRESETS if "@" not in name} - WORDS
    return {word for text in said(source) for word in re.findall(r"\w+", text) if word in methods}


def test_no_method_is_named_outside_its_file() -> None:
    found = {}
    for path in ROOT.rglob("*.py"):
        place = path.relative_to(ROOT)
        if place.parts[0] not in FREE and (names := named(path.read_text(encoding="utf-8"))):
            found[str(place)] = names
    assert not found


@pytest.mark.parametrize(
    "text",
    ["x = snapkv", "import kvpress.policies.h2o", "x.pyramid", "'use snapkv(keep=0.5)'\nx = 'kivi'", "f'{1} ada'"],
)
def test_a_name_is_found_wherever_it_stands(text: str) -> None:
    assert named(text)


def test_what_a_docstring_tells_is_no_rule() -> None:
    assert not named('"""As snapkv."""\ndef f():\n    """kivi"""')


def test_messages_name_presses_that_would_do() -> None:
    with pytest.raises(PressConflictError, match=r"knorm mean nothing across heads.*\(.*h2o.*\)"):
        Press.parse("ada | knorm(keep=0.3)")
    for name in like(lambda recipe: bool(getattr(recipe.scorer, "comparable", False)), most=99).split(", "):
        if not PRESETS[name]().recipe.heads.compares:
            Press.parse(f"ada | {name}")
    assert like(lambda recipe: False) == ""


@dataclass(frozen=True)
class Misspelled:
    needs = Needs()
    comparible = True

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        return block.k.float().norm(dim=-1)


def test_a_trait_that_is_misspelled_is_an_error() -> None:
    with pytest.raises(KVPressError, match=r"'comparible'.*'comparable'"):
        check_traits("scorer", Misspelled())
    for name in PRESETS:
        PRESETS[name]()  # none of ours is
