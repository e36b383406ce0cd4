"""KV-cache compression for Hugging Face models: ``with press(model): model.generate(...)``.

Importing this package changes nothing in the process.
"""

from __future__ import annotations

from kvpress.cache import Ledger, PressCache
from kvpress.errors import KVPressError
from kvpress.presets import (
    ada,
    cur,
    expected_attention,
    fp8,
    full,
    gear,
    gear_l,
    h2o,
    int8,
    keydiff,
    kivi,
    knorm,
    lagkv,
    leverage,
    list_presses,
    minicache,
    pyramid,
    random,
    snapkv,
    streaming_llm,
    think,
    tova,
    zigzag,
)
from kvpress.press import PRESETS, Press, Recipe
from kvpress.session import Report, Session

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
    "ada",
    "cur",
    "expected_attention",
    "fp8",
    "full",
    "gear",
    "gear_l",
    "h2o",
    "int8",
    "keydiff",
    "kivi",
    "knorm",
    "lagkv",
    "leverage",
    "list_presses",
    "minicache",
    "pyramid",
    "random",
    "snapkv",
    "streaming_llm",
    "think",
    "tova",
    "zigzag",
]
