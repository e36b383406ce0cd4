"""What several tasks draw at random: UUIDs, and the syllables of made-up words."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator

__all__ = ["SYLLABLES", "unlike", "uuids"]

SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]


def uuids(rng: random.Random) -> Iterator[str]:
    """Random UUIDs (122 bits: chance repeats none)."""
    while True:
        yield str(uuid.UUID(int=rng.getrandbits(128), version=4))


def unlike(rng: random.Random, taken: set[str]) -> Iterator[str]:
    """UUIDs whose first eight characters nobody else has: ``taken`` so far (they are added)."""
    for text in uuids(rng):
        if text[:8] not in taken:
            taken.add(text[:8])
            yield text
