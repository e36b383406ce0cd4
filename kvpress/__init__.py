"""KV-cache compression for Hugging Face models: ``with press(model): model.generate(...)``.

Importing this package changes nothing in the process.
"""

from __future__ import annotations

from kvpress.cache import Ledger, PressCache
from kvpress.errors import KVPressError
from kvpress.presets import *  # noqa: F403  every press by its name, as presets lists them
from kvpress.presets import __all__ as _presses
from kvpress.press import PRESETS, Press, Recipe
from kvpress.report import Report
from kvpress.session import Session
from kvpress.variants import UNSETTLED as _unsettled  # noqa: F401  importing it registers name@whose

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "KVPressError",
    "Ledger",
    "Press",
    "PressCache",
    "Recipe",
    "Report",
    "Session",
    "__version__",
]
__all__ += _presses
