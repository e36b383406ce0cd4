"""The page that ``kvpress show --html`` writes: which tokens of a prompt a press kept."""

from __future__ import annotations

import base64

import numpy as np

from ..runs.survivors import Survivors
from .assemble import assemble

__all__ = ["survivors_page"]


def survivors_page(found: Survivors) -> str:
    """A page of its own: nothing is fetched, and tokens enter as text only."""
    data = found.to_dict()
    data["layers"] = [
        {"layer": layer, "heads": [base64.b64encode(np.packbits(head).tobytes()).decode("ascii") for head in heads]}
        for layer, heads in zip(found.layers, found.kept, strict=True)
    ]
    return assemble("survivors.html", ("page.css", "survivors.css"), ("dom.js", "survivors.js"), data)
