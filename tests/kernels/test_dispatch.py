"""Kernels are optional: without a compiler, or where the environment says so, the reference gives the same numbers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kvpress import doctor, full, kivi, snapkv
from kvpress.attention import backends as kernels
from kvpress.attention.backends import build, cpu
from kvpress.attention.partial import Partial, attend_reference
from kvpress.errors import KVPressError
from kvpress.recipe.press import Press
from tests.models import shared


@pytest.fixture
def fresh_build() -> object:
    """The build forgets what it found, before and after."""
    for cached in (build._load, cpu._function):
        cached.cache_clear()
    yield None
    for cached in (build._load, cpu._function):
        cached.cache_clear()


def logits_of(press: Press, rows: int = 2) -> torch.Tensor:
    model = shared("llama")
    ids = torch.randint(1, 60, (rows, 90), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[-1, :7] = 0
    out = []
    with torch.no_grad(), press(model) as session:
        cache = session.prefill(ids, mask)
        for token in range(3):
            mask = torch.cat([mask, mask[:, -1:]], 1)
            out.append(model(torch.full((rows, 1), 5 + token), attention_mask=mask, past_key_values=cache).logits)
    return torch.cat(out)


@pytest.mark.parametrize(
    "press", [full(), snapkv(keep=0.3, window=8), kivi(bits=4), snapkv(keep=0.5) | kivi(bits=2)], ids=str
)
def test_the_reference_gives_the_same(press: Press, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = logits_of(press)
    monkeypatch.setenv(kernels.VARIABLE, "reference")
    torch.testing.assert_close(logits_of(press), fast, rtol=0, atol=1e-5)


def test_unknown_choice_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.VARIABLE, "fastest")
    with pytest.raises(KVPressError, match="reference"):
        kernels.enabled()


def test_no_compiler_falls_back(monkeypatch: pytest.MonkeyPatch, fresh_build: object) -> None:
    monkeypatch.setattr(build, "_compilers", lambda: iter(()))
    assert build.load().library is None and "no C compiler" in build.load().detail
    assert torch.isfinite(logits_of(kivi(bits=4))).all()
    check = doctor.kernel_check()
    assert check.status == "warn" and "no C compiler" in check.detail and check.advice


def test_a_compiler_that_fails_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh_build: object
) -> None:
    broken = tmp_path / "cc"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "error: no such header" >&2\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert build.load().library is None and "no such header" in build.load().detail


@pytest.mark.skipif(build.load().library is None, reason="no compiler")
def test_read_only_home_builds_privately(monkeypatch: pytest.MonkeyPatch, fresh_build: object) -> None:
    monkeypatch.setattr(build, "_folder", lambda: None)
    built = build.load()
    assert built.library is not None and "this process only" in built.detail


@pytest.mark.skipif(build.load().library is None, reason="no compiler")
def test_builds_at_the_same_time_do_not_clash(tmp_path: Path) -> None:
    """Two processes start with an empty cache; both load a whole library, and one file remains."""
    code = "from kvpress.attention.backends import build; b = build.load(); assert b.library, b.detail"
    root = str(Path(__file__).parents[2])
    environment = {"XDG_CACHE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": root}
    both = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [one.wait(120) for one in both] == [0, 0]
    assert len(list((tmp_path / "kvpress").iterdir())) == 1


def test_importing_builds_nothing() -> None:
    code = "import kvpress; from kvpress.attention.backends import build; assert build._load.cache_info().currsize == 0"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_doctor_says_how_it_was_built() -> None:
    check = doctor.kernel_check()
    assert check.name == "cpu kernels" and check.status in ("ok", "warn")


def test_a_kernel_is_entered_by_registration() -> None:
    """The one of highest priority that reads all parts on that device is asked; one that declines leaves the next."""
    k, q = torch.randn(2, 5, 16), torch.randn(2, 1, 16)
    wanted = attend_reference(q[None], k[None], k[None], 1.0)
    asked: list[str] = []

    def answers(name: str, out: Partial | None) -> Callable[..., Partial | None]:
        def attend(*_: object) -> Partial | None:
            asked.append(name)
            return out

        return attend

    mine = Partial(wanted.out[0] + 1, wanted.lse[0])
    made = [
        kernels.Kernel("elsewhere", "cuda", frozenset({"dense"}), answers("elsewhere", mine), priority=9),
        kernels.Kernel("absent", "cpu", frozenset({"dense"}), answers("absent", mine), lambda: False, 8),
        kernels.Kernel("codes", "cpu", frozenset({"token"}), answers("codes", mine), priority=7),
        kernels.Kernel("declines", "cpu", frozenset({"dense", "token"}), answers("declines", None), priority=6),
        kernels.Kernel("mine", "cpu", frozenset({"dense"}), answers("mine", mine), priority=5),
    ]
    try:
        for kernel in made:
            kernels.register(kernel)
        got = kernels.attend([kernels.Part(k, k, 5)], q, 1.0, None)
        assert got is mine and asked == ["declines", "mine"]
    finally:
        for kernel in made:
            kernels.forget(kernel.name)
    assert kernels.attend([kernels.Part(k, k, 5)], q, 1.0, None) is not mine
