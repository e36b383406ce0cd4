"""The covering sample keeps every value of every parameter, and every combination of all but the longest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.covering import WHOLE, beyond

SOURCE = """
import pytest

@pytest.mark.parametrize("family", range(4))
@pytest.mark.parametrize("press", range(30))
def test_long(press, family): pass

@pytest.mark.parametrize("way", range(6))
@pytest.mark.parametrize("padded", range(2))
@pytest.mark.parametrize("family", range(7))
def test_three(family, padded, way): pass

@pytest.mark.parametrize("a", range(4))
@pytest.mark.parametrize("b", range(6))
def test_short(a, b): pass

@pytest.mark.parametrize("press", range(99))
def test_one(press): pass
"""


class Collector:
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.items = list(session.items)


def test_every_value_is_met(tmp_path: Path) -> None:
    (tmp_path / "test_made.py").write_text(SOURCE)
    collector = Collector()
    options = ["--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", str(tmp_path / "none.ini")]
    (tmp_path / "none.ini").write_text("[pytest]\n")
    assert pytest.main([*options, "--rootdir", str(tmp_path), str(tmp_path)], plugins=[collector]) == 0
    left = set(beyond(collector.items))
    kept: dict[str, list[dict[str, int]]] = {}
    for item in collector.items:
        if item not in left:
            kept.setdefault(item.originalname, []).append(item.callspec.params)  # type: ignore[attr-defined]
    assert {name: len(found) for name, found in kept.items()} == {
        "test_long": 30 // 4 * 4 + 2,
        "test_three": 12,
        "test_short": WHOLE,
        "test_one": 99,
    }
    assert {one["press"] for one in kept["test_long"]} == set(range(30))
    assert {one["family"] for one in kept["test_long"]} == set(range(4))
    assert {one["family"] for one in kept["test_three"]} == set(range(7))
    assert len({(one["padded"], one["way"]) for one in kept["test_three"]}) == 12
