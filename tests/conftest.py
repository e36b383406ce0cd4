"""One thread, no network, memory that cannot be mistaken for zeros, and the same presses for every test."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from torch import Tensor

from kvpress import PRESETS
from kvpress.recipe import plugins
from tests.covering import beyond

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What `make test` leaves to `make test-all` is marked, before marks are looked at."""
    for item in beyond(item for item in items if "contracts" in item.path.parts):
        item.add_marker("product")


def _poisoned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def wrapper(*args: Any, **kwargs: Any) -> Tensor:
        out = make(*args, **kwargs)
        if sys._getframe(1).f_globals.get("__name__", "").split(".")[0] == "kvpress":
            out.fill_(torch.nan if out.is_floating_point() else 77)
        return out

    return wrapper


@pytest.fixture(autouse=True)
def poison_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that kvpress allocates without filling it holds NaN, or 77 in integers."""
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, _poisoned(getattr(owner, name)))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that a test (or a command it runs) lets torch compute with are its own."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_presses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Presses that a test registers (plug-ins, the evidence oracle) are forgotten after it."""
    monkeypatch.setattr(plugins, "_tried", set(plugins._tried))
    before = set(PRESETS)
    yield
    for name in set(PRESETS) - before:
        PRESETS.forget(name)
