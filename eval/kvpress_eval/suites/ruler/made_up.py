"""What the RULER-like tasks share: made-up words and keys."""

from __future__ import annotations

import random
from collections.abc import Iterator

from ..task import words
from ..texts.draws import SYLLABLES

__all__ = ["SUITE", "keys", "made_up"]

SUITE = "ruler"
_ENDS = "klmnrstx"
_NOUNS = words(
    "anchor basket bridge candle carpet castle cellar copper cradle curtain desert engine feather forest "
    "fountain garden glacier hammer harbour helmet island jacket kettle ladder lantern market meadow mirror "
    "needle orchard paddle pepper pillow pocket ribbon saddle shovel summit temple thimble valley velvet "
    "violin wagon willow window winter"
)


def made_up(rng: random.Random, taken: set[str], syllables: int = 3) -> Iterator[str]:
    """Words that are not in ``taken`` so far (they are added): all of one length, so that none holds another."""
    while True:
        word = "".join(rng.choices(SYLLABLES, k=syllables)) + rng.choice(_ENDS)
        if word not in taken:
            taken.add(word)
            yield word


def keys(rng: random.Random, taken: set[str]) -> Iterator[str]:
    """Keys like ``solimek-garden``: RULER pairs an adjective with a noun, of which there are too few for 1M tokens."""
    return (f"{word}-{rng.choice(_NOUNS)}" for word in made_up(rng, taken))
