from __future__ import annotations

import ast

import pytest
from kvpress_eval.errors import EpisodeError
from kvpress_eval.metrics import score
from kvpress_eval.suites import build, get_task
from kvpress_eval.suites.episode import Episode, Request
from kvpress_eval.suites.tasks import repoqa
from kvpress_eval.suites.texts.release_prompts import HEADS

from tests.eval.suites.code_checks import (
    assert_longer_keeps_its_questions,
    assert_right_answers_score_one_and_controls_chance,
    count,
    episode,
    used,
)

TASK = "repoqa_and_kv"
LONG = 3001


def dialect(session: int, turns: int = 5, length: int = 513) -> Episode:
    return build(Request(TASK, "dialect", length, turns, 0, session, lambda text: len(text.split())))


def test_right_answers_score_one_and_controls_nothing() -> None:
    assert_right_answers_score_one_and_controls_chance(TASK, LONG)
    # the mix as a whole is scored by the shape of its golds
    made = episode(TASK, LONG)
    assert all(score(TASK, turn.answer, turn.reference) == 1 for turn in made.turns)


def test_a_longer_context_asks_the_same_questions() -> None:
    assert_longer_keeps_its_questions(TASK, LONG, 9001, repoqa.JOINT)


@pytest.mark.parametrize(("length", "turns"), [(512, 1), (LONG, 5), (5003, 8)])
def test_an_episode_fits_its_length_and_uses_it(length: int, turns: int) -> None:
    for session in range(6):
        made = episode(TASK, length, turns, session)
        assert length - 0.2 * length - 400 < used(made) <= length
        assert len(made.turns) == turns
        most = {turn.task: turn.max_new_tokens for turn in made.turns}
        for turn in made.turns:
            assert count(turn.answer) <= turn.max_new_tokens == most[turn.task]


def test_turns_alternate_and_either_kind_comes_first() -> None:
    for session in range(2):
        made = episode(TASK, 5003, 8, session)
        kinds = ["repoqa", "kv"] * 4 if session == 0 else ["kv", "repoqa"] * 4
        assert [turn.task for turn in made.turns] == kinds
        assert made.instruction == ""
        for turn in made.turns:
            ((start, end),) = turn.evidence
            found = made.context[start:end]
            if turn.task == "kv":
                assert f'"{turn.answer}"' in found
                assert turn.question.split('"')[1] in found
                assert found[:2] in ('{"', "# ")
            else:
                assert turn.answer == f"```\n{found}\n```"
                assert turn.question.startswith(HEADS["repoqa"])


def test_pairs_stand_between_functions_in_code_that_parses() -> None:
    made = episode(TASK, 20011, session=1)
    body = ast.parse(made.context).body
    literals = [node for node in body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Dict)]
    comments = [line for line in made.context.split("\n") if line.startswith('# "')]
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    assert len(literals) + len(functions) == len(body)
    assert min(len(literals), len(comments)) > 10
    assert len(functions) > 2 * (len(literals) + len(comments))


def test_a_key_that_stands_twice_has_no_answer() -> None:
    made = episode(TASK, LONG, session=1)
    turn = made.turns[0]
    assert turn.task == "kv"
    ((start, end),) = turn.evidence
    solve = get_task(TASK).solve["natural"]
    with pytest.raises(ValueError, match="stands 2 times"):
        solve(made.context + "\n\n\n" + made.context[start:end], turn.question)


def test_a_short_length_says_what_to_do() -> None:
    with pytest.raises(EpisodeError, match=r"at least .* tokens, got 700; ask for fewer turns"):
        episode(TASK, 700)
    with pytest.raises(EpisodeError, match=r"at least .* tokens, got 64; ask for fewer turns"):
        dialect(0, length=64)


def test_the_dialect_asks_for_ends_of_strings_and_values_in_turn() -> None:
    for session in range(12):
        made = dialect(session)
        kinds = [("prefix_suffix", "kv")[(session + t) % 2] for t in range(5)]
        assert [turn.task for turn in made.turns] == kinds
        assert len({turn.evidence for turn in made.turns}) == 5
        for turn in made.turns:
            assert turn.question.startswith("? pre ") == (turn.task == "prefix_suffix")
            assert turn.max_new_tokens == (8 if turn.task == "prefix_suffix" else 6)
            assert len(turn.answer.split()) <= turn.max_new_tokens
            assert score(TASK, turn.answer, turn.answer, "exact") == 1
            ((start, end),) = turn.evidence
            assert made.context[start:end].endswith(turn.answer)
        assert 420 < len(made.context.split()) < 513


def test_the_dialect_controls_score_nothing() -> None:
    hits = 0.0
    for session in range(20):
        here, there = dialect(session), dialect(session + 100)
        for turn, other in zip(here.turns, there.turns, strict=True):
            hits += score(TASK, other.answer, turn.answer, "exact")
            hits += score(TASK, here.turns[0].answer, turn.answer, "exact") if turn is not here.turns[0] else 0
    assert hits == 0


def test_the_text_of_the_dialect_stays() -> None:
    assert [dialect(session).id.split("#")[1] for session in range(2)] == ["030ff8d1", "00222ac8"]
