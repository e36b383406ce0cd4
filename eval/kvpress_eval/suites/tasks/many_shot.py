"""Many-shot learning (ICL.ManyShot): which made-up label belongs to a thing, from examples only.

Every session draws its own labels for the groups, so that nothing but the examples tells them. A
turn asks about a group that no turn before it was asked about, and its wrong options are labels of
groups not asked about so far: neither the history nor the options narrow the answer down.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from ...errors import EpisodeError
from ..dialect_rendering import builder, solver
from ..episode import Episode, Request, Turn
from ..task import Fact, Filler, Task, Text, finish, no_depth, option

__all__ = ["TASK"]

_OPTIONS = 5
_SHOWN = 2  # examples of each group that even the shortest context holds
_HEAD = "Each item belongs to a group with a made-up name. Learn the names from the examples.\n\n"
_GROUPS = {
    "animal": "heron otter badger lynx gecko mole stork weasel bison toad moose ferret",
    "tool": "hammer wrench chisel pliers saw drill rasp spanner mallet crowbar trowel clamp",
    "fruit": "plum cherry mango quince papaya lemon apricot melon guava peach pear fig",
    "metal": "copper zinc nickel cobalt iron tin lead chromium titanium silver tungsten mercury",
    "vehicle": "tram lorry canoe scooter ferry sled bicycle tractor glider wagon barge taxi",
    "instrument": "flute cello banjo oboe harp trumpet tuba lute piano clarinet fiddle bassoon",
    "clothing": "scarf jacket mitten sandal apron vest skirt sock bonnet cloak trousers belt",
    "furniture": "table sofa cupboard stool wardrobe bench desk armchair bookcase dresser bed",
    "weather": "drizzle hail fog thunder breeze sleet frost blizzard rainbow gale mist snow",
    "building": "barn castle chapel garage lighthouse cottage school museum hangar palace hut",
    "body": "elbow ankle shoulder knee wrist chin thumb forehead heel hip rib nostril",
    "profession": "plumber notary surgeon baker pilot butcher lawyer tailor nurse barber miner",
    "colour": "crimson violet teal beige indigo scarlet turquoise maroon olive magenta ochre khaki",
    "sport": "hockey archery tennis rowing judo cricket fencing surfing golf boxing rugby polo",
    "spice": "cumin saffron pepper cinnamon clove nutmeg ginger turmeric paprika cardamom vanilla",
    "landscape": "valley glacier canyon meadow desert swamp cliff plateau lagoon dune fjord",
}
_ITEMS = {group: words.split() for group, words in _GROUPS.items()}
_TEST = 4  # the last items of a group are asked about, never shown


def _letter(i: int) -> str:
    return chr(ord("A") + i)


def _listing(labels: list[str]) -> str:
    return " ".join(f"({_letter(i)}) {label}" for i, label in enumerate(labels))


def _shot(rng: random.Random, group: str, labels: dict[str, str]) -> str:
    others = rng.sample([g for g in labels if g != group], _OPTIONS - 1)
    options = [labels[g] for g in (group, *others)]
    rng.shuffle(options)
    item = rng.choice(_ITEMS[group][:-_TEST])
    return f"{item}: {_listing(options)} -> ({_letter(options.index(labels[group]))})"


def _natural(request: Request) -> Episode:
    no_depth(request, "examples of every group stand all over the context")
    n_groups = max(9, request.turns + _OPTIONS - 1)
    if n_groups > len(_ITEMS):
        raise EpisodeError(
            f"task 'many_shot' has at most {len(_ITEMS) - _OPTIONS + 1} turns, got {request.turns}; ask for fewer"
        )
    rng = request.rng("facts")
    groups = rng.sample(sorted(_ITEMS), n_groups)
    syllables = [c + v for c in "bdfgklmnprtvz" for v in "aiou"]
    names: list[str] = []
    while len(names) < n_groups:
        name = "".join(rng.sample(syllables, 2)) + rng.choice("kmpx")
        if name not in names:
            names.append(name)
    labels = dict(zip(groups, names, strict=True))

    placing, ordering = request.rng("placement"), request.rng("order")
    facts = [Fact(placing.random(), _shot(rng, group, labels)) for group in groups * _SHOWN]
    turns = []
    for t in range(request.turns):
        unasked = groups[t + 1 :]
        options = [labels[g] for g in ordering.sample(unasked, _OPTIONS - 1)]
        gold = option(request, t, _OPTIONS)
        options.insert(gold, labels[groups[t]])
        item = ordering.choice(_ITEMS[groups[t]][-_TEST:])
        turns.append(Turn(f"{item}: {_listing(options)} ->", f"({_letter(gold)})", (), _letter(gold)))

    filler = Filler(_shots(request.rng("filler"), labels))
    text = Text(filler, facts, "\n", _HEAD)
    return finish(request, text, turns, lambda context, t: _evidence(context, groups[t]))


def _shots(rng: random.Random, labels: dict[str, str]) -> Iterator[str]:
    while True:
        yield _shot(rng, rng.choice(list(labels)), labels)


def _evidence(context: str, group: str) -> tuple[tuple[int, int], ...]:
    """Every example of the group."""
    lines = re.finditer(r"^(\w+): .*$", context, flags=re.MULTILINE)
    return tuple(m.span() for m in lines if m[1] in _ITEMS[group])


def _solve(context: str, question: str) -> str:
    item, listing = question.removesuffix(" ->").split(": ")
    (group,) = (g for g, items in _ITEMS.items() if item in items)
    seen = set()
    for start, end in _evidence(context, group):
        options, letter = context[start:end].split(": ")[1].split(" -> ")
        seen.add(dict(re.findall(r"(\(\w\)) (\w+)", options))[letter])
    if len(seen) != 1:
        raise ValueError(f"group {group} has {len(seen)} labels")
    label = seen.pop()
    (answer,) = (letter for letter, name in re.findall(r"(\(\w\)) (\w+)", listing) if name == label)
    return str(answer)


def _chance(rendering: str, turns: int) -> float:
    # dialect: 16 labels, and a guesser may leave out those seen in the history
    return 1 / max(1, 17 - turns) if rendering == "dialect" else 1 / _OPTIONS


TASK = Task(
    name="many_shot",
    about="in-context learning: the label of a new item from many labelled examples",
    build={"dialect": builder("label"), "natural": _natural},
    solve={"dialect": solver("label"), "natural": _solve},
    chance=_chance,
)
