"""KV-cache compression for Hugging Face models: ``with press(model): model.generate(...)``.

Importing this package changes nothing in the process, and imports neither torch nor transformers: what it names is
imported when it is asked for, all of it at once.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from kvpress.errors import KVPressError as KVPressError

if TYPE_CHECKING:  # `as`: these names are for whoever imports this package
    from kvpress.cache.cache import PressCache as PressCache
    from kvpress.cache.ledger import Ledger as Ledger
    from kvpress.recipe.press import PRESETS as PRESETS
    from kvpress.recipe.press import Press as Press
    from kvpress.recipe.press import list_presses as list_presses
    from kvpress.recipe.recipe import Recipe as Recipe
    from kvpress.session.report import Report as Report
    from kvpress.session.session import Session as Session

__version__ = "0.1.0"

_HOMES = {
    "PRESETS": "recipe.press",
    "Ledger": "cache.ledger",
    "Press": "recipe.press",
    "PressCache": "cache.cache",
    "Recipe": "recipe.recipe",
    "Report": "session.report",
    "Session": "session.session",
    "list_presses": "recipe.press",
}
METHODS = ("policies", "quant", "lowrank")  # rooms whose files hold a method each


def _load() -> None:
    """Bring in everything that this package names: what is above, and every press of the files of methods."""
    found = {name: getattr(import_module(f"{__name__}.{home}"), name) for name, home in _HOMES.items()}
    for room in METHODS:
        for file in iter_modules(import_module(f"{__name__}.{room}").__path__):
            made = vars(import_module(f"{__name__}.{room}.{file.name}"))
            found |= {name: item for name, item in made.items() if isinstance(item, found["PRESETS"].of)}
    globals().update(found, __all__=sorted([*found, "KVPressError", "__version__"]))


def __getattr__(name: str) -> Any:
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = f"{__name__}.{name}"
    if name not in _HOMES and find_spec(module) is not None:
        return import_module(module)  # `kvpress.recipe.press` needs no import of its own, as if all were here
    if "__all__" not in globals():
        _load()
        if name in globals():
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    if "__all__" not in globals():
        _load()
    return sorted(set(globals()) | {name for name in sys.modules if name.startswith(f"{__name__}.")})
