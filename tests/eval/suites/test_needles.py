from __future__ import annotations

import re

import pytest
from kvpress_eval.errors import EpisodeError
from kvpress_eval.models.rendering import Rendering
from kvpress_eval.runs.config import RunConfig
from kvpress_eval.runs.loaded import load
from kvpress_eval.runs.prepare import prepare
from kvpress_eval.runs.runner import run_cell
from kvpress_eval.sources.scbench_records import SCBENCH_TASKS
from kvpress_eval.suites import build, suite
from kvpress_eval.suites.episode import Episode, Request

COUNT = {"dialect": lambda text: len(text.split()), "natural": lambda text: -(-len(text) // 3)}


def episode(
    name: str,
    rendering: Rendering,
    length: int = 1025,
    turns: int = 1,
    session: int = 0,
    depth: float | None = None,
) -> Episode:
    return build(Request(name, rendering, length, turns, 0, session, COUNT[rendering], depth=depth))


def test_the_suites() -> None:
    assert suite("needles") == ["needle", "needle_grid", "passkey"]
    assert set(suite("scbench")) == set(SCBENCH_TASKS)
    assert len(suite("scbench")) == 12


@pytest.mark.parametrize("rendering", ["dialect", "natural"])
@pytest.mark.parametrize("name", ["needle_grid", "passkey"])
def test_the_needle_is_at_its_depth_and_the_question_stays(name: str, rendering: Rendering) -> None:
    questions = set()
    for depth in (0.0, 0.3, 0.7, 1.0):
        for length in (513, 1501):
            made = episode(name, rendering, length, depth=depth)
            (turn,) = made.turns
            ((start, end),) = turn.evidence
            head = made.context.rfind("\n\n", 0, start) + 2 if "\n\n" in made.context[:start] else 0
            # to a sentence
            assert abs(start - head - depth * (len(made.context) - head - (end - start))) <= 100
            questions.add((turn.question, turn.answer))
    assert len(questions) == 1


def test_the_document_of_a_needle_holds_what_is_asked_about_and_nothing_else() -> None:
    for turns in (1, 3):
        made = episode("needle_grid", "dialect", turns=turns)
        assert made.context.split().count("is") == made.context.split().count(";") == turns
        assert {made.context[a:b] for turn in made.turns for a, b in turn.evidence} == {
            f"{turn.question[2:]} {turn.answer}" for turn in made.turns
        }
    together = episode("needle_grid", "dialect", turns=3, depth=0.5)
    starts = sorted(turn.evidence[0][0] for turn in together.turns)
    assert starts[-1] - starts[0] < 60


def test_noise_repeats_itself_and_other_filler_does_not() -> None:
    def repeated(text: str) -> float:
        pieces = re.split(r"(?<=\.) |(?<=;) ", text.split("\n\n")[-1])
        return 1 - len(set(pieces)) / len(pieces)

    assert repeated(episode("passkey", "natural").context) > 0.9
    assert repeated(episode("passkey", "dialect").context) > 0.9
    assert repeated(episode("needle_grid", "natural").context) == 0
    assert repeated(episode("needle_grid", "dialect").context) < 0.05
    # another session, another sentence
    noise = {episode("passkey", "dialect", session=s, depth=1.0).context.split(".")[0] for s in range(5)}
    assert len(noise) == 5


def test_the_passkey_is_told_twice_and_the_answer_opened() -> None:
    made = episode("passkey", "natural", turns=5)
    (turn,) = made.turns
    assert made.context.count(turn.answer) == 2
    assert re.fullmatch(r"[1-9][0-9]{4}", turn.answer)
    assert turn.opening == "The pass key is"
    assert made.context.startswith(made.instruction)


def test_the_limit_of_an_answer_does_not_tell_its_length() -> None:
    made = [episode("passkey", "dialect", session=s) for s in range(40)]
    assert len({len(e.turns[0].answer.split()) for e in made}) == 3
    assert {e.max_new_tokens for e in made} == {6}


@pytest.mark.parametrize("name", ["needle_grid", "passkey"])
def test_too_short_a_length_names_the_least(name: str) -> None:
    for rendering in ("dialect", "natural"):
        with pytest.raises(EpisodeError, match="needs a length of at least") as error:
            episode(name, rendering, length=11)
        (least,) = re.findall(r"at least (\d+)", str(error.value))
        assert episode(name, rendering, length=int(least)).turns


@pytest.mark.parametrize("name", ["needle_grid", "passkey", "ruler_niah_multikey_1"])
def test_the_bundled_model_finds_the_needle_wherever_it_is(name: str) -> None:
    tiny = load("tiny")
    for depth in (0, 50, 100):
        row = run_cell(prepare(RunConfig(task=name, length=301, sessions=4, turns=3, depth=depth), tiny))
        assert row.status == "ok", row.error
        assert row.score == 1
        assert row.depth == depth
        # one question, whatever is asked for: the row says how many there were
        assert row.n_by_turn == ([4] if name == "passkey" else [4, 4, 4])
        assert row.turns == sum(row.n_by_turn)
