"""Filler prose: sentences from a small grammar, without digits or repetition by design.

Far less compressible than the classic repeated "The grass is green." noise, which flatters methods
that drop slots.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

__all__ = ["items", "sentences"]


def items(text: str) -> list[str]:
    """A table of phrases, with commas between them."""
    return text.split(",")


_WHO = items(
    "the baker,the old gardener,a tired painter,the younger sister,a quiet clerk,"
    "the harbour master,our neighbour,the schoolteacher,a travelling singer,the watchmaker,"
    "the miller,a retired sailor,the librarian,the carpenter,a careful surgeon,"
    "the night porter,the beekeeper,a curious student,the tailor,the ferry pilot"
)
_DID = items(
    "mended,carried,described,forgot,painted,counted,borrowed,returned,polished,hid,sold,"
    "measured,praised,examined,dropped,ordered,wrapped,repaired,sketched,weighed"
)
_WHAT = items(
    "a broken chair,the green lantern,two baskets of plums,an unsigned letter,"
    "the copper kettle,a bundle of maps,the garden gate,a woollen coat,some dried herbs,"
    "the church bell,a jar of honey,the wooden ladder,an old violin,the fishing nets,"
    "a box of candles,the silver spoon,a torn umbrella,the heavy anchor,a stack of plates,"
    "the blue notebook"
)
_WHERE = items(
    "near the bridge,behind the station,in the upper room,by the river,at the market,"
    "under the lime trees,outside the chapel,on the quay,in the narrow lane,beside the orchard,"
    "at the edge of the village,in the attic,across the square,below the mill,on the stairs"
)
_WHEN = items(
    "before breakfast,late in the evening,after the storm,while it rained,during the fair,"
    "at the end of winter,soon after noon,on the way home,without a word,as everyone slept,"
    "in a great hurry,when the bells rang,just before dawn,for the second time,"
    "to no one's surprise"
)


def sentences(rng: random.Random) -> Iterator[str]:
    """Endless sentences of 9 to 16 words."""
    while True:
        who, did, what = rng.choice(_WHO), rng.choice(_DID), rng.choice(_WHAT)
        where, when = rng.choice(_WHERE), rng.choice(_WHEN)
        shape = rng.randrange(3)
        if shape == 0:
            text = f"{who} {did} {what} {where} {when}."
        elif shape == 1:
            text = f"{when}, {who} {did} {what} {where}."
        else:
            text = f"{where}, {who} {did} {what} {when}."
        yield text[0].upper() + text[1:]
