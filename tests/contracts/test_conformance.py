"""The kit that checks methods from outside the tree finds nothing in those inside it."""

from __future__ import annotations

import pytest

from kvpress import PRESETS, conformance
from tests.contracts.test_pairs import SMALL

# What its own defaults would do only on prompts that take long.
LARGE = {"snapkv@paper": "keep=0.5", "kivi@paper": "bits=4, group=8, residual=9"}
DOUBTS = {"gear": ["I5 bytes shrink, keys", "I5 bytes shrink, values"]}  # blocks of 8 slots are small for factors
DOUBTS["gear_l"] = DOUBTS["gear"]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_press_passes(name: str) -> None:
    arguments = {**SMALL, **LARGE}.get(name)
    checks = conformance.run(name if arguments is None else f"{name}({arguments})")
    assert not [check for check in checks if check.status == "fail"]
    assert [check.name for check in checks if check.status == "warn"] == DOUBTS.get(name, [])
    assert sum(check.status == "ok" for check in checks) >= 14
