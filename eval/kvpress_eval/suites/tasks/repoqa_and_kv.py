"""Two kinds of questions about one context (Mix.RepoQA+KV): functions of a code base, and pairs between them.

Paper: SCBench (arXiv 2412.10319). The code is that of ``repoqa``; pairs of UUIDs, as in ``kv``, stand between the
functions as dict literals and comments. Turns alternate; which kind comes first alternates by session. As in the
release nothing is said before the context: every question brings its instruction. The dialect has no code: it asks
for the rest of a string (its long answers) instead.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace

from ..dialect_rendering import builder, solver
from ..episode import Episode, Request, Turn
from ..task import Fact, Filler, Task, Text, depth, finish
from ..texts.draws import unlike
from ..texts.release_prompts import HEADS
from ..texts.renaming import Function
from . import kv, repoqa

__all__ = ["TASK"]

_KEY = "Extract the value corresponding to the specified key in the code above.\n\n"
_EVERY = 4  # functions and pairs in the filler for one pair


def _natural(request: Request) -> Episode:
    kinds = [("repoqa", "kv")[(request.session + t) % 2] for t in range(request.turns)]
    needles = repoqa.draw(request, kinds.count("repoqa"))
    others, functions = repoqa.stream(request, needles)
    rng, placing, taken = request.rng("pairs"), request.rng("placement"), set[str]()
    uuids = unlike(rng, taken)
    pairs = [(next(uuids), next(uuids)) for _ in range(kinds.count("kv"))]

    lead = f"{HEADS['repoqa']}\n\n"
    waiting = {
        "repoqa": iter(zip(repoqa.asked(needles, others, lead), (n.function.text for n in needles), strict=True)),
        "kv": iter([(Turn(_KEY + kv.question(key), value, ()), _line(rng, key, value)) for key, value in pairs]),
    }
    turns, facts = list[Turn](), list[Fact]()
    for t, kind in enumerate(kinds):
        turn, text = next(waiting[kind])
        turns.append(replace(turn, task=kind))
        facts.append(Fact(depth(request, t, placing), text, t))
    filler = Filler(_mixed(request.rng("mix"), functions, unlike(request.rng("other pairs"), taken)))
    return finish(request, Text(filler, facts, repoqa.JOINT, repoqa.head()), turns)


def _line(rng: random.Random, key: str, value: str) -> str:
    """A pair as code: a dict literal or a comment."""
    return rng.choice(("{{{}}}", "# {}")).format(kv.pair(key, value))


def _mixed(rng: random.Random, functions: Iterator[Function], uuids: Iterator[str]) -> Iterator[str]:
    while True:
        yield _line(rng, next(uuids), next(uuids)) if rng.randrange(_EVERY) == 0 else next(functions).text


def _solve(context: str, question: str) -> str:
    if not question.startswith(_KEY):
        return repoqa.found(context, question)
    (key,) = re.findall('Key: "(.+)"', question)
    values = re.findall(f'"{re.escape(key)}": "([^"]+)"', context)
    if len(values) != 1:
        raise ValueError(f"key {key} stands {len(values)} times")
    return str(values[0])


TASK = Task(
    name="repoqa_and_kv",
    about="code retrieval and key-value look-up in turn (dialect: the rest of a string, and look-up)",
    build={"dialect": builder("prefix", "kv", names=("prefix_suffix", "kv")), "natural": _natural},
    solve={"dialect": solver("prefix", "kv"), "natural": _solve},
    chance=lambda rendering, turns: 1e-4 if rendering == "dialect" else 0.0,
)
