"""The committed pages of the methods are what the code and the rows say, and every method has one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kvpress_eval.report import cards

from kvpress import PRESETS

ROOT = Path(__file__).parents[3]


def test_committed_pages_are_fresh() -> None:
    """Run `make docs` when this fails."""
    texts = cards.pages(ROOT / cards.RESULTS, ROOT / "tests")
    assert cards.stale(texts, ROOT / cards.OUT) == []
    assert set(texts) == {f"{name}.md" for name in cards.bases()} | {"README.md"}
    assert {name.split("@")[0] for name in PRESETS} - {"full"} == set(cards.bases())


def test_the_table_in_the_readme_is_fresh() -> None:
    """Run `make docs` when this fails."""
    readme = (ROOT / cards.README).read_text(encoding="utf-8")
    assert cards.with_table(readme) == readme
    assert all(f"[`{name}`]" in readme for name in cards.bases())
    with pytest.raises(ValueError, match="lacks the marks"):
        cards.with_table("# nothing")


def test_what_pages_say_of_methods_is_what_the_code_says() -> None:
    """Run `make docs` when this fails."""
    assert (ROOT / cards.METHODS).read_text(encoding="utf-8") == cards.described()
    assert json.loads(cards.described())["snapkv"] == {"paper": "2404.14469", "decides": ["scorer"], "control": False}


def test_every_method_has_tests_of_its_own() -> None:
    texts = cards.pages(ROOT / cards.RESULTS, ROOT / "tests")
    assert [name for name, text in texts.items() if "\n- nothing of its own" in text] == []


def test_a_head_without_a_field_is_named() -> None:
    with pytest.raises(ValueError, match=r"kvpress\.errors lacks: paper, idea, formula, cost, deviates"):
        cards.header("kvpress.errors")
    assert cards.header("kvpress.policies.h2o")["formula"].startswith("score_j = sum over queries")


def test_stale_pages_are_found(tmp_path: Path) -> None:
    (tmp_path / "old.md").write_text("x")
    (tmp_path / "same.md").write_text("y")
    assert cards.stale({"same.md": "y", "new.md": "z"}, tmp_path) == ["new.md", "old.md"]
