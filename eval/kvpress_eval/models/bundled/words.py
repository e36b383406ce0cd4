"""The closed vocabulary of the small retrieval language: 366 words, one token each.

The order is part of the trained weights (row i of the embedding is ``VOCAB[i]``): append, never
reorder. Keywords without a task (``the``, ``of``, ``suf``, ``value``, ``list``, ``max``, ``min``, ``mode``,
``count``) are reserved.
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CONSONANTS = _words("b d f g h j k l m n p r s t v w z sh ch kr")
VOWELS = tuple("aeiou")
SYLLABLES = tuple(c + v for c in CONSONANTS for v in VOWELS)
NUMBERS = tuple(f"{i:02d}" for i in range(100))
ATTRIBUTES = _words("color size weight shape price age code rank height depth speed score phase level grade pin")
NAMES = _words(
    "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa quebec "
    "romeo sierra tango uniform victor whiskey xray yankee zulu amber basil cedar daisy ember fern grape "
    "hazel iris jade kelp lotus maple nettle olive poppy quince rose sage thyme umber violet"
)
LABELS = tuple(f"L{i}" for i in range(16))
FILLERS = _words(
    "a an and as at but by can day each end far few from good had has hot her here him his home how if in "
    "into it its just keep know last left life like long look made make many may more most much must my near "
    "new night nice not now old on one only or our out over own"
)
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
PUNCTUATION = (":", ";", "?", "=", "->", ".")
KEYWORDS = _words("the of is str pre suf let trace value list max min mode count")

VOCAB: list[str] = [
    *(SPECIALS + PUNCTUATION + KEYWORDS),
    *(SYLLABLES + NUMBERS + ATTRIBUTES + NAMES + LABELS + FILLERS),
]
TOKEN_ID: dict[str, int] = {word: i for i, word in enumerate(VOCAB)}
VOCAB_ROWS = 384
"""Rows of the embedding: the vocabulary rounded up to a multiple of 128."""
