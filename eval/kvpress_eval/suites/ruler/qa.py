"""Questions about numbered documents: one document answers (qa_1) or two do (qa_2).

Paper: RULER (arXiv 2404.06654), which takes paragraphs of SQuAD and HotpotQA. Here they are about people of a
made-up world, so that no model knows them. A further turn asks about further people.
"""

from __future__ import annotations

import itertools
import re
from functools import partial

from ..episode import Episode, Request, Span, Turn
from ..task import Fact, Filler, Numbered, Task, finish, places
from .made_up import SUITE
from .people import FACTS, people, read

__all__ = ["TASKS"]

_INSTRUCTION = (
    "Answer the question based on the given documents. Only give me the answer and do not output any other words.\n\n"
)
_HEAD = f"{_INSTRUCTION}The following are given documents.\n\n"
_FOOT = f"\n\n{_INSTRUCTION.strip()}"
_QUESTIONS = {
    "birth": "In which town was {} born?",
    "home": "In which town does {} live today?",
    "teacher": "Who was the teacher of {}?",
}


def _natural(request: Request, hops: int) -> Episode:
    rng, placing = request.rng("facts"), request.rng("placement")
    taken: set[str] = set()
    known = people(rng, taken)
    facts, turns, asked = list[Fact](), list[Turn](), list[tuple[tuple[str, str], ...]]()
    for t in range(request.turns):
        chain = list(itertools.islice(known, hops))
        next(known)  # the last one's teacher has no document: turns share no one
        kind = rng.choice(FACTS)
        at = places(request, t, hops, placing)
        placing.shuffle(at)
        facts += [Fact(d, person.text, t) for d, person in zip(at, chain, strict=True)]
        subject = "the teacher of " * (hops - 1) + chain[0].name
        gold = chain[-1].facts[kind]
        turns.append(Turn(f"Question: {_QUESTIONS[kind].format(subject)}", gold, (), (gold,), opening="Answer:"))
        asked.append((*(("teacher", person.name) for person in chain[:-1]), (kind, chain[-1].name)))
    filler = Filler(person.text for person in people(request.rng("filler"), taken))
    text = Numbered(filler, facts, "\n\n", _HEAD, _FOOT, instruction=_INSTRUCTION, label="Document {}:\n")
    return finish(request, text, turns, lambda context, t: tuple(_span(context, *fact) for fact in asked[t]))


def _span(context: str, kind: str, name: str) -> Span:
    start = read(context, kind, name)[1]
    return start, context.index(".", start) + 1


def _solve(context: str, question: str) -> str:
    for kind, wording in _QUESTIONS.items():
        if found := re.search(re.escape(wording).replace(r"\{\}", "(.+)"), question):
            *hops, name = found[1].split("the teacher of ")
            for _ in hops:
                name = read(context, "teacher", name)[0]
            return read(context, kind, name)[0]
    raise ValueError(f"no question that is known: {question!r}")


def _task(number: int, about: str) -> Task:
    return Task(
        name=f"ruler_qa_{number}",
        about=f"RULER-like: {about}",
        build={"natural": partial(_natural, hops=number)},
        solve={"natural": _solve},
        chance=lambda rendering, turns: 0.0,
        suite=SUITE,
    )


TASKS = (
    _task(1, "a question that one of many documents answers"),
    _task(2, "a question that two of many documents answer together"),
)
