"""The public surface, and that importing it changes nothing."""

from __future__ import annotations

import subprocess
import sys

import kvpress

CORE = {"KVPressError", "Ledger", "PRESETS", "Press", "PressCache", "Recipe", "Report", "Session", "__version__"}


def test_public_names() -> None:
    """The core, every press that is not a variant, and their list; nothing else leaks out."""
    presses = {name for name in kvpress.PRESETS if "@" not in name}
    assert sorted(kvpress.__all__) == sorted(CORE | presses | {"list_presses"})
    assert all(hasattr(kvpress, name) for name in kvpress.__all__)
    assert all(getattr(kvpress, name) is kvpress.PRESETS[name] for name in presses)


def test_every_press_has_a_line_of_its_own() -> None:
    found = kvpress.list_presses()
    assert set(found) == set(kvpress.PRESETS)
    assert all(len(line) > 20 and line.endswith(".") for line in found.values())


def test_every_error_is_one_family_and_a_usual_kind() -> None:
    from kvpress import errors

    for name in errors.__all__:
        kind = getattr(errors, name)
        assert issubclass(kind, errors.KVPressError) or (name == "PremiseWarning" and issubclass(kind, UserWarning))
    assert issubclass(errors.BudgetError, ValueError) and issubclass(errors.SessionError, RuntimeError)
    assert issubclass(errors.UnsupportedError, NotImplementedError)


_IMPORT = """
import random, warnings, torch, numpy
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as masks
def state():
    return (sorted(attention.valid_keys()), sorted(masks.valid_keys()), torch.get_rng_state().sum().item(),
            random.getstate(), torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(),
            len(warnings.filters), torch.backends.cuda.matmul.allow_tf32)
import sys
before, modules = state(), set(sys.modules)
import kvpress
assert state() == before, "import kvpress changed the process"
assert "kvpress" not in attention.valid_keys()
new = {name.split(".")[0] for name in set(sys.modules) - modules}
assert not {"kvpress_eval", "rich", "datasets", "omegaconf"} & new, "an extra was imported"
"""


def test_import_has_no_side_effects() -> None:
    done = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
