"""The kit that checks methods from outside the tree finds nothing in those inside it.

Variants are the same methods with defaults for long prompts; tests/contracts/test_every_preset.py has them.
"""

from __future__ import annotations

import pytest

from kvpress import PRESETS, conformance
from tests.contracts.test_pairs import SMALL

DOUBTS = {"gear": ["I5 bytes shrink, keys", "I5 bytes shrink, values"]}  # blocks of 8 slots are small for factors
DOUBTS["gear_l"] = DOUBTS["gear"]
LEAST = 14  # checks that apply to any press
VARIANTS = ["cur@random", "pyramid@authors", "think@kvpress", "tova@paper"]


@pytest.mark.parametrize("name", [*sorted(name for name in PRESETS if "@" not in name), *VARIANTS])
def test_every_press_passes(name: str) -> None:
    checks = conformance.run(f"{name}({SMALL[name]})" if name in SMALL else name)
    assert not [check for check in checks if check.status == "fail"]
    if name != "tova@paper":  # its 512 slots are more than the prompts of the checks
        assert [check.name for check in checks if check.status == "warn"] == DOUBTS.get(name, [])
    alone = name == "full"  # a press by itself: it goes with no other
    assert sum(check.status == "ok" for check in checks) >= LEAST - alone
