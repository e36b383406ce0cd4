"""Presses as their source tells of them: the same names, arguments and mistakes as the registry's, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kvpress import PRESETS, Press
from kvpress.errors import KVPressError
from kvpress.recipe import glance, torchless
from kvpress.recipe.plugins import load_plugins
from tests.helpers import ALL, KEEP_ALL

PLAIN = [name for name in PRESETS if "@" not in name]


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
    monkeypatch.delitem(sys.modules, "kvpress.recipe.press")


TOGETHER = (
    *("ada | tova", "knorm | snapkv", "full | full", "full | snapkv", "kivi | int8", "ada | ada", "pyramid | zigzag"),
    *("ada | lagkv", "ada | keydiff | knorm", "random | pooled", "criticalkv | tova", "criticalkv | kvzip | snapkv"),
    *("criticalkv | expected_attention", "kvzip | ada", "kvzip | pooled | kivi", "knorm(skip=1) | pyramid"),
    *("minicache | h2o", "minicache | think", "minicache | pyramid | snapkv", "streaming_llm | kivi", "think | think"),
    *("snapkv(keep=2)", "snapkv(keep=32)", "random(keep=36)", "ada | snapkv(keep=2)", "kivi(residual=-1)"),
    *("h2o(recent=1.5)", "random(sinks=-2)", "snapkv(pooling=median)", "kivi(bits=3)", "gear(block=7)", "lagkv(lag=0)"),
    *("ada(alpha=7) | snapkvv", "snapkv(window=0) | ada | tova", "ada@paper | tova@paper", "gear | gear_l@authors"),
)
WRONG = (
    *TOGETHER,
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


@pytest.mark.parametrize(
    "texts",
    [tuple(sorted(PRESETS)), tuple({**ALL, **KEEP_ALL}.values()), tuple(f"{a} | {b}" for a in PLAIN for b in PLAIN)],
    ids=["presets", "helpers", "pairs"],
)
@pytest.mark.parametrize("entered", [False, True])
def test_the_verdict_is_that_of_parsing(texts: tuple[str, ...], entered: bool, request: pytest.FixtureRequest) -> None:
    parsed = [_verdict(_parse, text, entered) for text in texts]
    request.getfixturevalue("unloaded")
    assert [_verdict(glance.check, text, entered) for text in texts] == parsed
    assert "" in parsed


def _parse(text: str, entered: bool) -> None:
    press = Press.parse(text)
    if entered:
        press.ready()


def _verdict(judge: Callable[[str, bool], None], text: str, entered: bool) -> str:
    try:
        judge(text, entered)
    except KVPressError as error:
        return f"{type(error).__name__}: {error}"
    return ""


TOLD = """
import json, sys
from kvpress.recipe import glance
from kvpress.errors import KVPressError
for text in json.load(sys.stdin):
    try:
        glance.check(text)
    except KVPressError as error:
        print(json.dumps(str(error)))
assert not {"torch", "transformers", "numpy"} & set(sys.modules), "something slow was imported"
assert not {name for name in sys.modules if name.startswith("kvpress.po")}, "what stands in for presses is to be had"
from kvpress import Press
assert Press.parse("ada | snapkv(keep=0.5)").recipe.evicts and "torch" in sys.modules
"""


def test_parts_that_do_not_go_together_are_told_without_torch() -> None:
    wanted = []
    for text in TOGETHER:
        with pytest.raises(KVPressError) as parsed:
            Press.parse(text)
        wanted.append(str(parsed.value))
    done = subprocess.run(
        [sys.executable, "-c", TOLD], input=json.dumps(TOGETHER), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [json.loads(line) for line in done.stdout.splitlines()] == wanted


def test_what_takes_torch_to_tell_is_left_to_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = torchless._Absent()
    for asked in (lambda: absent.zeros(3), lambda: bool(absent), lambda: isinstance(3, absent), lambda: absent == 3):
        monkeypatch.setattr(torchless, "_press", asked)
        with pytest.raises(RuntimeError, match="not here"):
            asked()
        torchless.check("snapkv(keep=2)")


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
        glance.check("mine | mine")  # what it decides is not known before it is run
        with pytest.raises(KVPressError, match="keep=2 slots leaves no choice"):
            glance.check("mine | snapkv(keep=2)")
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
from kvpress.recipe import glance
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
from kvpress.recipe.press import PRESETS, Press, preset
assert str(Press.parse("snapkv(keep=0.5)")) == "snapkv(keep=0.5)"
assert "kivi" in PRESETS and "snapkv@paper" in set(PRESETS)
"""
TAKEN = """
from kvpress.recipe.press import preset
from kvpress.errors import KVPressError
try:
    @preset("snapkv")
    def snapkv():
        return {}
except KVPressError as error:
    assert "registered twice, by kvpress.policies.snapkv and by __main__" in str(error), error
else:
    raise AssertionError
"""
BARE = """
import threading
from kvpress.recipe.press import PRESETS
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
