from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter

import pytest
from kvpress_eval.episode import Request
from kvpress_eval.errors import EpisodeError, UsageError
from kvpress_eval.metrics import score
from kvpress_eval.tasks import build, get_task
from kvpress_eval.tasks.base import Fact, weave
from kvpress_eval.tasks.many_shot import _ITEMS

ROOM = {"dialect": 513, "natural": 2049}


def words(text: str) -> int:
    return len(text.split())


def pieces(text: str) -> int:
    """About the tokens of a real tokenizer."""
    return -(-len(text) // 3)


COUNT = {"dialect": words, "natural": pieces}
# the tasks of the first release; those added since have tests of their own in tasks/
FIRST = ("kv", "prefix_suffix", "vt", "needle", "many_shot")
CASES = [(task, rendering) for task in FIRST for rendering in ("dialect", "natural")]


def request(task: str, rendering: str, **changes: int) -> Request:
    values = {"length": ROOM[rendering], "turns": 5, "seed": 0, "session": 0, **changes}
    return Request(task=task, rendering=rendering, count=COUNT[rendering], **values)


@pytest.mark.parametrize(("task", "rendering"), CASES)
def test_an_episode_fits_its_length_and_uses_it(task: str, rendering: str) -> None:
    for session in range(6):
        episode = build(request(task, rendering, session=session))
        count = COUNT[rendering]
        used = 1 + count(episode.context)
        used += sum(count(turn.question) + episode.max_new_tokens + 1 for turn in episode.turns)
        assert len(episode.turns) == 5
        assert 0.9 * ROOM[rendering] < used <= ROOM[rendering]
        # room for the answer, whatever the turn
        assert all(count(turn.answer) <= episode.max_new_tokens for turn in episode.turns)


@pytest.mark.parametrize(("task", "rendering"), CASES)
def test_evidence_spans_hold_the_answer(task: str, rendering: str) -> None:
    episode = build(request(task, rendering, session=3))
    for turn in episode.turns:
        found = " ".join(episode.context[start:end] for start, end in turn.evidence)
        if task == "many_shot" and rendering == "natural":
            assert len(turn.evidence) >= 2
        else:
            assert all(word in found for word in turn.answer.split()), (found, turn)


@pytest.mark.parametrize(("task", "rendering"), CASES)
def test_right_answers_score_one_and_controls_score_chance(task: str, rendering: str) -> None:
    scorers = ("exact",) if rendering == "dialect" else ("corrected", "reference")
    chance = get_task(task).chance(rendering, 5)
    controls: Counter[str] = Counter()
    constant = build(request(task, rendering, session=200)).turns[0].answer
    n = 0
    for session in range(12):
        here = build(request(task, rendering, session=session))
        there = build(request(task, rendering, session=session + 100))
        before = ""
        for turn, other in zip(here.turns, there.turns, strict=True):
            reference = turn.answer if rendering == "dialect" else turn.reference
            for scorer in scorers:
                assert score(task, turn.answer, reference, scorer) == 1
                assert score(task, "", reference, scorer) == 0
            n += 1
            controls["another session's answer"] += score(task, other.answer, reference, scorers[0])
            controls["a constant"] += score(task, constant, reference, scorers[0])
            controls["the answer before"] += score(task, before, reference, scorers[0])
            before = turn.answer
    spread = 3 * (chance * (1 - chance) / n) ** 0.5
    for control, total in controls.items():
        assert total / n <= chance + spread + 1e-9, control


def test_same_seed_same_text_in_another_process() -> None:
    code = (
        "import hashlib\n"
        "from kvpress_eval.episode import Request\n"
        "from kvpress_eval.tasks import build\n"
        f"FIRST = {FIRST}\n"
        "for r, n in (('dialect', 513), ('natural', 2049)):\n"
        "  for t in FIRST:\n"
        "    e = build(Request(t, r, n, 5, 0, 4, {'dialect': lambda s: len(s.split()),"
        " 'natural': lambda s: -(-len(s) // 3)}[r]))\n"
        "    print(e.id, hashlib.sha256(repr(e).encode()).hexdigest())\n"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    here = [build(request(t, r, session=4)) for r in ("dialect", "natural") for t in FIRST]
    mine = "".join(f"{e.id} {hashlib.sha256(repr(e).encode()).hexdigest()}\n" for e in here)
    assert other == mine


def test_the_text_of_the_first_release_stays() -> None:
    """Change VERSION in episode.py when this fails on purpose: old rows must not pair with new text."""
    found = {f"{t}/{r}": build(request(t, r)).id.split("#")[1] for t, r in CASES}
    assert found == {
        "kv/dialect": "03525180",
        "kv/natural": "711a2126",
        "prefix_suffix/dialect": "bdc62401",
        "prefix_suffix/natural": "924fa122",
        "vt/dialect": "a2fdda66",
        "vt/natural": "9523759d",
        "needle/dialect": "8bd4277f",
        "needle/natural": "7574dfb7",
        "many_shot/dialect": "038f9a50",
        "many_shot/natural": "1a50801d",
    }


@pytest.mark.parametrize("task", FIRST)
def test_a_longer_context_asks_the_same_questions(task: str) -> None:
    short, long = (build(request(task, "natural", length=n)) for n in (2049, 5001))
    assert [t.question for t in short.turns] == [t.question for t in long.turns]
    assert [t.answer for t in short.turns] == [t.answer for t in long.turns]
    for left, right in zip(short.turns, long.turns, strict=True):
        if task not in ("many_shot", "vt"):
            depth = [t.evidence[0][0] / len(e.context) for t, e in ((left, short), (right, long))]
            assert abs(depth[0] - depth[1]) < 0.1


@pytest.mark.parametrize(("task", "rendering"), [c for c in CASES if c[0] not in ("many_shot", "vt")])
def test_every_turn_asks_about_every_part_of_the_context(task: str, rendering: str) -> None:
    parts = [set[int]() for _ in range(5)]
    for session in range(5):
        episode = build(request(task, rendering, session=session))
        for t, turn in enumerate(episode.turns):
            parts[t].add(int(5 * turn.evidence[0][0] / len(episode.context)))
    assert all(len(seen) >= 4 for seen in parts)


@pytest.mark.parametrize(("task", "rendering"), CASES)
def test_no_two_turns_share_their_evidence(task: str, rendering: str) -> None:
    for session in range(8):
        turns = build(request(task, rendering, session=session)).turns
        assert len({turn.evidence for turn in turns}) == 5
        assert len({turn.question for turn in turns}) == 5


def test_half_a_prefix_suffix_question_is_not_enough() -> None:
    episode = build(request("prefix_suffix", "natural"))
    strings = episode.context.split("\n")
    for turn in episode.turns:
        assert sum(s.startswith(turn.answer[:4]) for s in strings) == 3
        assert sum(s.endswith(turn.answer[-4:]) for s in strings) == 3


def test_many_shot_options_do_not_tell_what_earlier_turns_told() -> None:
    items = [item for group in _ITEMS.values() for item in group]
    assert len(items) == len(set(items))
    letters: Counter[str] = Counter()
    for session in range(10):
        episode = build(request("many_shot", "natural", session=session))
        answered: set[str] = set()
        for turn in episode.turns:
            listing = turn.question.split(": ")[1].removesuffix(" ->").split(" ")
            options = dict(zip(listing[::2], listing[1::2], strict=True))
            assert len(options) == 5
            assert not answered & set(options.values())
            answered.add(options[turn.answer])
            letters[turn.answer] += 1
            assert turn.question.split(":")[0] not in episode.context
    # 5 turns of 10 sessions over 5 letters
    assert all(4 <= n <= 16 for n in letters.values())
    assert len(letters) == 5


def test_mistakes_say_what_to_do() -> None:
    with pytest.raises(UsageError, match="did you mean 'needle'"):
        get_task("needel")
    with pytest.raises(EpisodeError, match=r"at least .* tokens, got 64; ask for fewer turns"):
        build(request("kv", "dialect", length=64))
    with pytest.raises(EpisodeError, match=r"at least .* tokens, got 300"):
        build(request("kv", "natural", length=300))
    with pytest.raises(EpisodeError, match="at most 12 turns"):
        build(request("many_shot", "natural", turns=13, length=9001))


def test_weave_puts_facts_in_order_of_depth() -> None:
    facts = [Fact(0.99, "D", 1), Fact(0.5, "B", 0), Fact(0.5, "C", 0), Fact(0.0, "A")]
    text, spans = weave(["x", "y"], facts, "-", "<", ">")
    assert text == "<A-x-B-C-y-D>"
    assert [text[a:b] for a, b in (*spans[0], *spans[1])] == ["B", "C", "D"]
    assert weave([], [Fact(0.3, "A", 0)], "-")[0] == "A"
