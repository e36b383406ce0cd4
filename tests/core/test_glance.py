"""Presses as their source tells of them: the same names, arguments and mistakes as the registry's, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kvpress import PRESETS, Press, glance
from kvpress.errors import KVPressError
from kvpress.plugins import load_plugins


def test_the_source_tells_what_the_registry_holds() -> None:
    load_plugins(PRESETS)
    seen = glance.glimpses()
    assert seen is not None
    assert set(seen) == set(PRESETS)
    for name in PRESETS:
        real = PRESETS[name]
        assert seen[name].summary == real.summary
        assert dict(seen[name].parameters) == {p.name: p.annotation for p in real.signature.parameters.values()}
        assert seen[name].package == real.build.__module__.partition(".")[0]


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that knows no press yet."""
    monkeypatch.delitem(sys.modules, "kvpress.press")


WRONG = (
    *("snapkvv", "snapkv(keep=2.5)", "snapkv(keep=0.5", "snapkv(windw=3)", "snapkv(window='x')", "snapkv(0.5, keep=1)"),
    *("", "|", "snapkv |", "snapkv(keep=)", "snapkv(keep=0.5, keep=0.25)", "knorm(1, 2, 3, 4, 5)", "kivi(bits=[4])"),
    *("ada(alpha=0.5, compression_ratio=0.5)", "snapkv(keep=0.5, compression_ratio=0.5)", "pyramid@nobody"),
    *("snapkv(compression_ratio='x')", "snapkv(keep=true)", "snapkv(pooling=3)", "snapkv(window=1.5)", "7", "a b"),
)
RIGHT = (
    *("full", "snapkv(keep=0.25) | kivi(bits=2)", "SnapKV(0.5)", "h2o@paper", "snapkv(pooling=max, every_prompt=true)"),
    *("evidence(turn=0)", "expected-attention(compression_ratio=0.75)", "knorm(keep=512)"),
)


@pytest.mark.parametrize("text", WRONG)
def test_a_mistake_is_told_in_the_words_of_parsing(text: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(KVPressError) as parsed:
        Press.parse(text)
    request.getfixturevalue("unloaded")
    with pytest.raises(KVPressError) as seen:
        glance.check(text)
    assert str(seen.value) == str(parsed.value)
    assert type(seen.value) is type(parsed.value)


@pytest.mark.parametrize("text", RIGHT)
def test_what_parses_passes(text: str, request: pytest.FixtureRequest) -> None:
    Press.parse(text)
    request.getfixturevalue("unloaded")
    glance.check(text)


def test_a_plug_in_is_seen_by_its_source_and_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unloaded: None
) -> None:
    package = tmp_path / "their_presses"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "mine.py").write_text(
        "raise RuntimeError('imported')\n"
        "@preset('mine')\ndef of_mine(keep: float | int = 0.5, *, twist: bool = False):\n    'Theirs.'\n"
    )
    info = tmp_path / "their_presses-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: their-presses\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[kvpress.presses]\nmine = their_presses.mine:of_mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    glance.glimpses.cache_clear()
    try:
        glance.check("mine(twist=true)")
        with pytest.raises(KVPressError, match=r"mine has no argument 'twits'; it takes: keep, twist"):
            glance.check("mine(twits=true)")
        # a module may register what stands elsewhere: then nothing is said of names
        (info / "entry_points.txt").write_text("[kvpress.presses]\nmine = their_presses.mine\n")
        glance.glimpses.cache_clear()
        glance.check("who_knows")
        with pytest.raises(KVPressError, match="Cannot read"):
            glance.check("who knows")
    finally:
        glance.glimpses.cache_clear()


LIGHT = """
import sys
import kvpress, kvpress.checks, kvpress.errors
from kvpress import glance
glance.check("snapkv(keep=0.25) | kivi(bits=2)")
assert not {"torch", "transformers", "numpy"} & set(sys.modules), "something slow was imported"
assert kvpress.snapkv(keep=0.5) == kvpress.Press.parse("snapkv(keep=0.5)")
assert "snapkv@paper" in kvpress.PRESETS and "torch" in sys.modules
from kvpress import *
assert random is kvpress.PRESETS["random"] and Press is kvpress.Press
assert {"Press", "snapkv", "session"} <= set(dir(kvpress))
try:
    kvpress.nothing
except AttributeError as error:
    assert "has no attribute 'nothing'" in str(error)
else:
    raise AssertionError
"""


def test_importing_the_package_is_quick_and_all_of_it_comes_when_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


ALONE = """
from kvpress.press import PRESETS, Press, preset
assert str(Press.parse("snapkv(keep=0.5)")) == "snapkv(keep=0.5)"
assert "kivi" in PRESETS and "snapkv@paper" in set(PRESETS)
"""
TAKEN = """
from kvpress.press import preset
from kvpress.errors import KVPressError
try:
    @preset("snapkv")
    def snapkv():
        return {}
except KVPressError as error:
    assert "registered twice, by kvpress.presets and by __main__" in str(error), error
else:
    raise AssertionError
"""
BARE = """
import threading
from kvpress.press import PRESETS
found = []
threads = [threading.Thread(target=lambda: found.append(len(set(PRESETS)))) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(found) == 6 and len(set(found)) == 1 and found[0] > 50, found
"""


@pytest.mark.parametrize("code", [ALONE, TAKEN, BARE])
def test_the_press_module_alone_knows_every_press(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
