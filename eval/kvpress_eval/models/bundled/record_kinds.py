"""The records of the retrieval language: one function per kind makes as many as fit.

Each takes (rng, room in tokens, easy) and never writes more than ``room`` tokens. Order within a
kind matters for ``trace`` (a variable copies an earlier one) and is kept when kinds are
interleaved.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .words import ATTRIBUTES, CONSONANTS, FILLERS, LABELS, NAMES, NUMBERS, SYLLABLES, VOWELS

_filler_rng = random.Random(1234)
_SUCCESSORS = {word: _filler_rng.sample(FILLERS, 6) for word in FILLERS}
_MAX_LABEL_QUESTIONS = 60
_MAX_HOPS = 4


@dataclass
class Part:
    """Records of one kind, and questions that name their evidence by record index."""

    records: list[list[str]] = field(default_factory=list)
    questions: list[tuple[str, list[str], list[str], list[int]]] = field(default_factory=list)
    size: int = 0

    def add(self, record: list[str]) -> int:
        """Append a record; its index."""
        self.records.append(record)
        self.size += len(record)
        return len(self.records) - 1


def filler_words(rng: random.Random, n: int) -> list[str]:
    """``n`` words of a first-order Markov chain, the last one a full stop."""
    words: list[str] = []
    word = rng.choice(FILLERS)
    for _ in range(n):
        words.append(word)
        word = rng.choice(_SUCCESSORS[word])
    if words:
        words[-1] = "."
    return words


def _numbers(rng: random.Random, easy: bool) -> list[str]:
    return rng.choices(NUMBERS, k=rng.randint(1, 2) if easy else rng.randint(2, 4))


def _syllables(rng: random.Random, lengths: Sequence[int], seen: set[tuple[str, ...]]) -> tuple[str, ...]:
    """A new word; it grows where chance repeats one, so short words cannot run out."""
    word = tuple(rng.choices(SYLLABLES, k=rng.choice(lengths)))
    while word in seen:
        word += (rng.choice(SYLLABLES),)
    seen.add(word)
    return word


def _kv(rng: random.Random, room: int, easy: bool) -> Part:
    part, seen = Part(), set[tuple[str, ...]]()
    while True:
        key = _syllables(rng, (1, 1, 2) if easy else (1, 2, 2, 3, 3), seen)
        value = _numbers(rng, easy)
        record = [*key, "=", *value, ";"]
        if part.size + len(record) > room:
            return part
        part.questions.append(("kv", ["?", *key, "="], [*value, ";"], [part.add(record)]))


def _fact(rng: random.Random, room: int, easy: bool) -> Part:
    part, seen = Part(), set[tuple[str, str]]()
    while len(seen) < 600:  # of 768 possible: past this, drawing a new one gets slow
        about = (rng.choice(ATTRIBUTES), rng.choice(NAMES))
        if about in seen:
            continue
        seen.add(about)
        prompt, value = [*about, "is"], _numbers(rng, easy)
        if part.size + len(prompt) + len(value) + 1 > room:
            break
        index = part.add([*prompt, *value, ";"])
        part.questions.append(("fact", ["?", *prompt], [*value, ";"], [index]))
    return part


def _prefix(rng: random.Random, room: int, easy: bool) -> Part:
    part, seen = Part(), set[tuple[str, ...]]()
    extra = rng.choice((-1, 0, 0, 1, 2))  # strings of 4 + extra syllables, -1: mixed lengths
    while True:
        string = rng.choices(SYLLABLES, k=4 + (extra if extra >= 0 else rng.randrange(4)))
        if tuple(string[:2]) in seen:
            continue
        seen.add(tuple(string[:2]))
        if part.size + len(string) + 2 > room:
            return part
        index = part.add(["str", *string, ";"])
        part.questions.append(("prefix", ["?", "pre", *string[:2], ":"], [*string[2:], ";"], [index]))


def _trace(rng: random.Random, room: int, easy: bool) -> Part:
    """Variables that hold a number or copy another one: chains of up to four, several at once."""
    part, seen = Part(), set[tuple[str, ...]]()
    # value, variables, records of each chain
    chains: list[tuple[list[str], list[tuple[str, ...]], list[int]]] = []
    while True:
        name = _syllables(rng, (1,) if easy else (1, 2), seen)
        growing = [chain for chain in chains if len(chain[1]) < _MAX_HOPS]
        if growing and rng.random() < 0.6:
            chain = rng.choice(growing[-6:])
            source: Sequence[str] = chain[1][-1]
        else:
            chain = (rng.choices(NUMBERS, k=rng.randint(1, 2)), [], [])
            source = chain[0]
        if part.size + len(name) + len(source) + 3 > room:
            break
        if not chain[1]:
            chains.append(chain)
        chain[2].append(part.add(["let", *name, "=", *source, ";"]))
        chain[1].append(name)
    for value, names, records in chains:
        last = len(names) - 1
        for j in dict.fromkeys((last, rng.randrange(len(names)))):  # all of it, and a random part
            hops = [word for name in reversed(names[:j]) for word in (*name, "=")]
            answer = [*hops, *value, ";"]
            part.questions.append(("trace", ["?", "trace", *names[j], "="], answer, records[: j + 1]))
    return part


def _label(rng: random.Random, room: int, easy: bool) -> Part:
    part = Part()
    n = rng.randint(2, 4) if easy else rng.randint(3, 12)
    classes = rng.sample(CONSONANTS, n)
    # some documents give several classes the same label, most do not
    labels = rng.choices(LABELS, k=n) if rng.random() < 0.3 else rng.sample(LABELS, n)
    shown: dict[int, list[int]] = {}

    def word(c: int) -> list[str]:
        return [rng.choice(SYLLABLES), classes[c] + rng.choice(VOWELS)]

    while part.size + 5 <= room:
        c = rng.randrange(n)
        shown.setdefault(c, []).append(part.add([*word(c), "->", labels[c], ";"]))
    for _ in range(min(_MAX_LABEL_QUESTIONS, len(part.records))):
        c = rng.choice(sorted(shown))
        part.questions.append(("label", ["?", *word(c), "->"], [labels[c], ";"], shown[c]))
    return part


RECORDS: dict[str, Callable[[random.Random, int, bool], Part]] = {
    "kv": _kv,
    "fact": _fact,
    "prefix": _prefix,
    "trace": _trace,
    "label": _label,
}
