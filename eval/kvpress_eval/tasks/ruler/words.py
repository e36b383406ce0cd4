"""What the RULER-like tasks share: made-up words, keys, and the depths of a turn's facts."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator

from ...episode import Request
from ..base import depth, words

__all__ = ["SUITE", "keys", "made_up", "places", "uuids"]

SUITE = "ruler"
_SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
_ENDS = "klmnrstx"
_NOUNS = words(
    "anchor basket bridge candle carpet castle cellar copper cradle curtain desert engine feather forest "
    "fountain garden glacier hammer harbour helmet island jacket kettle ladder lantern market meadow mirror "
    "needle orchard paddle pepper pillow pocket ribbon saddle shovel summit temple thimble valley velvet "
    "violin wagon willow window winter"
)


def made_up(rng: random.Random, taken: set[str], syllables: int = 3) -> Iterator[str]:
    """Words that are in ``taken`` so far (they are added): all of one length, so that none holds another."""
    while True:
        word = "".join(rng.choices(_SYLLABLES, k=syllables)) + rng.choice(_ENDS)
        if word not in taken:
            taken.add(word)
            yield word


def keys(rng: random.Random, taken: set[str]) -> Iterator[str]:
    """Keys like ``solimek-garden``: RULER pairs an adjective with a noun, of which there are too few for 1M tokens."""
    return (f"{word}-{rng.choice(_NOUNS)}" for word in made_up(rng, taken))


def uuids(rng: random.Random) -> Iterator[str]:
    """Random UUIDs (122 bits: chance repeats none)."""
    while True:
        yield str(uuid.UUID(int=rng.getrandbits(128), version=4))


def places(request: Request, turn: int, n: int, rng: random.Random) -> list[float]:
    """Depths of a turn's ``n`` facts in rising order: all at the request's depth, where it names one.

    A single fact is in the turn's part of the context, several are anywhere.
    """
    if n == 1 or request.depth is not None:
        return [depth(request, turn, rng)] * n
    return sorted(rng.random() for _ in range(n))
