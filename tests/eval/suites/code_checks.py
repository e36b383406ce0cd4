"""What holds for generated tasks, asked of one task at a time."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from collections import Counter

from kvpress_eval.metrics import Scorer, score
from kvpress_eval.suites import build, get_task
from kvpress_eval.suites.episode import Episode, Request


def count(text: str) -> int:
    """About the tokens of a real tokenizer in code and numbers."""
    return math.ceil(len(text) / 3.3)


def episode(task: str, length: int, turns: int = 5, session: int = 0, seed: int = 0) -> Episode:
    return build(Request(task, "natural", length, turns, seed, session, count))


def used(made: Episode) -> int:
    """Tokens of a whole session with the longest answers."""
    return (
        1 + count(made.context) + sum(count(t.question) + (t.max_new_tokens or made.max_new_tokens) for t in made.turns)
    )


def assert_longer_keeps_its_questions(task: str, short: int, long: int, joint: str) -> None:
    left, right = episode(task, short, session=1), episode(task, long, session=1)
    assert [(t.question, t.answer, t.gold) for t in left.turns] == [(t.question, t.answer, t.gold) for t in right.turns]
    pieces, more = (Counter(made.context.split(joint)) for made in (left, right))
    lost = pieces - more
    # a bracket may stand before the first piece and after the last
    assert sum(lost.values()) <= 2
    assert sum(more.values()) > 1.5 * sum(pieces.values())


def assert_same_in_another_process(tasks: tuple[str, ...], length: int) -> None:
    code = (
        "import hashlib, math\n"
        "from kvpress_eval.suites.episode import Request\n"
        "from kvpress_eval.suites import build\n"
        f"for task in {tasks}:\n"
        f"  e = build(Request(task, 'natural', {length}, 5, 0, 3, lambda s: math.ceil(len(s) / 3.3)))\n"
        "  print(e.id, hashlib.sha256(repr(e).encode()).hexdigest())\n"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "1"}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    mine = [episode(task, length, session=3) for task in tasks]
    assert other.stdout == "".join(f"{e.id} {hashlib.sha256(repr(e).encode()).hexdigest()}\n" for e in mine)


def assert_right_answers_score_one_and_controls_chance(task: str, length: int, sessions: int = 12) -> None:
    chance = get_task(task).chance("natural", 5)
    constant = episode(task, length, session=500).turns[0].answer
    controls: Counter[str] = Counter()
    for session in range(sessions):
        here, there = episode(task, length, session=session), episode(task, length, session=session + 100)
        before = ""
        for t, (turn, other) in enumerate(zip(here.turns, there.turns, strict=True)):
            scorers: tuple[Scorer, ...] = ("corrected", "reference")
            for scorer in scorers:
                assert score(turn.task or task, turn.answer, turn.reference, scorer) == 1
                assert score(turn.task or task, "", turn.reference, scorer) == 0
            for control, answer in (
                ("another session's answer", other.answer),
                ("a constant", constant),
                ("the answer before", before),
                ("the answer after", here.turns[(t + 1) % 5].answer),
                ("the question", turn.question),
            ):
                controls[control] += score(turn.task or task, answer, turn.reference) if answer else 0
            before = turn.answer
    n = 5 * sessions
    for control, total in controls.items():
        assert total / n <= chance + 3 * (chance * (1 - chance) / n) ** 0.5 + 1e-9, control
