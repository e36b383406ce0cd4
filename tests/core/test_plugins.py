"""Presses of other packages: found by their entry point when a name is not known, and unable to harm the others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "tests" / "plugin"


def python(path: list[Path], *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with `path` before this checkout, in `folder`."""
    search = os.pathsep.join(map(str, [*path, ROOT, ROOT / "eval"]))
    environment = {**os.environ, "PYTHONPATH": search, "COLUMNS": "200"}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example of tests/plugin, installed by pip into a folder of its own."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(EXAMPLE, folder / "source")  # setuptools writes build folders beside what it builds
    site = folder / "site"
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check"]
    said(python([], "-m", "pip", "install", *offline, "--target", str(site), str(source), folder=folder))
    return site


_USE = """
import sys
import kvpress
assert "aged_norm" not in sys.modules and "aged_norm" not in kvpress.PRESETS, "imported before it was asked for"
from kvpress import Press
from kvpress.conformance.case import tiny_model, tokens
press = Press.parse("aged_norm(keep=0.5, half_life=99) | kivi(bits=4, group=4, residual=4)")
assert press.recipe.scorer.half_life == 99 and Press.parse(press.spec()).recipe == press.recipe
model, ids = tiny_model(16), tokens(1, 61)
with press(model) as session:
    out = model.generate(ids, max_new_tokens=5, do_sample=False, return_dict_in_generate=True)
    report = session.report(out.past_key_values)
assert out.sequences.shape[1] == 66 and report.layers[0].slots == 34, report
print(report)
"""


def test_an_installed_press_is_found_and_generates(installed: Path, tmp_path: Path) -> None:
    assert "aged_norm(keep=0.5, half_life=99)" in said(python([installed], "-c", _USE, folder=tmp_path))


def test_the_command_line_knows_it(installed: Path, tmp_path: Path) -> None:
    listed = said(python([installed], "-m", "kvpress_eval", "list", "presses", folder=tmp_path))
    assert "Slots with small keys stay" in listed and "(from the package aged_norm)" in listed and "snapkv" in listed
    cell = ["run", "--press", "aged_norm(keep=0.25)", "--task", "kv", "--length", "300", "--sessions", "1"]
    row = said(python([installed], "-m", "kvpress_eval", *cell, "--turns", "1", folder=tmp_path))
    assert "aged_norm(keep=0.25, half_life=4096" in row


@pytest.mark.parametrize("target", ["aged_norm:AgedKeyNorm", "aged_norm(keep=0.4)"])
def test_check_passes(installed: Path, tmp_path: Path, target: str) -> None:
    found = said(python([installed], "-m", "kvpress_eval", "check", target, folder=tmp_path))
    assert "I2 rows of a padded batch" in found and "I10 save and load" in found and "fail" not in found


def plugin(site: Path, name: str, source: str, *entries: str) -> None:
    """What pip leaves behind of a package of one module."""
    (site / f"{name}.py").write_text(source)
    info = site / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[kvpress.presses]\n" + "\n".join(entries) + "\n")


_PRESET = """
from kvpress.policies.knorm import KeyNorm
from kvpress.recipe.press import preset
@preset("{name}")
def made(keep: float = 0.5):
    "A press of a test."
    return {{"keep": keep, "scorer": KeyNorm()}}
"""


def test_broken_plugins_are_named_and_harm_no_other(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    plugin(site, "raising", _PRESET.format(name="half") + "1 / 0\n", "half = raising:made")
    plugin(site, "leaving", "raise SystemExit(3)\n", "leaving = leaving")
    plugin(site, "empty", "made = 3\n", "number = empty:made", "gone = nothing_here:made")
    plugin(site, "thief", _PRESET.format(name="snapkv"), "snapkv = thief:made")
    plugin(site, "whole", _PRESET.format(name="whole"), "anything = whole")
    code = """
import warnings, kvpress
kvpress.Press  # what this package imports warns by itself
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert str(kvpress.Press.parse("snapkv(keep=0.5)")) == "snapkv(keep=0.5)" and not caught
    print(kvpress.Press.parse("whole(keep=0.25) | kivi"))
    for name in ("half", "whole", "number"):
        print(name, name in kvpress.PRESETS)
    assert kvpress.PRESETS["snapkv"] is kvpress.snapkv
    told = [str(warning.message) for warning in caught]
    try:
        kvpress.Press.parse("half")
    except kvpress.KVPressError as error:
        print(error)
    assert len(caught) == len(told), "told twice"
print(*told, sep="\\n")
"""
    out = said(python([site], "-c", code, folder=tmp_path))
    assert "whole(keep=0.25) | kivi\nhalf False\nwhole True\nnumber False\nUnknown press 'half'" in out
    for words in (
        "'half' (raising:made) of raising 1.2 is left out: ZeroDivisionError",
        "'leaving' (leaving) of leaving 1.2 is left out: SystemExit",
        "'number' (empty:made) of empty 1.2 is left out: TypeError: it is a int, expected a press",
        "'gone' (nothing_here:made) of empty 1.2 is left out: ModuleNotFoundError",
        "'snapkv' (thief:made) of thief 1.2 is left out: KVPressError: press 'snapkv' is registered twice, "
        "by kvpress.policies.snapkv and by thief; choose another name.",
    ):
        assert words in out, words
