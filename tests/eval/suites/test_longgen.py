from __future__ import annotations

import re
from collections import Counter

import pytest
from kvpress_eval.errors import EpisodeError, UsageError
from kvpress_eval.metrics import score_corrected, score_reference
from kvpress_eval.suites import build, get_task
from kvpress_eval.suites.episode import Episode, Request

STEP = re.compile(r"(\d+) ([*+-]) (\d+) = (\d+)")


def episode(length: int, session: int = 0, **changes: float) -> Episode:
    return build(Request("longgen", "natural", length, 1, 0, session, lambda text: -(-len(text) // 4), **changes))


def problems(made: Episode) -> list[str]:
    return re.findall(r"^Question_\d+: (.+)$", made.context, flags=re.MULTILINE)


def test_sixty_problems_or_thirty_or_what_fits() -> None:
    sizes = {length: len(problems(episode(length))) for length in (601, 1001, 2501, 3501, 5001, 20001)}
    assert 2 <= sizes[601] < sizes[1001] < 30
    assert sizes[2501] == sizes[3501] - 30 == 30
    assert sizes[3501] == sizes[5001] == sizes[20001] == 60


def test_a_longer_context_has_more_examples_and_the_same_problems() -> None:
    short, long = episode(1001), episode(20001)
    assert problems(short) == problems(long)[: len(problems(short))]
    assert long.context.count("Example ") > 100
    assert re.findall(r"Example (\d+)", long.context)[:3] == ["1", "2", "3"]
    gold = short.turns[0].gold
    assert isinstance(gold, tuple)
    assert gold == (long.turns[0].gold or ())[: len(gold)]  # type: ignore[index]


def test_examples_and_answers_add_up() -> None:
    made = episode(6001)
    steps = STEP.findall(made.context + made.turns[0].answer)
    assert len(steps) > 120
    for a, sign, b, result in steps:
        assert int(result) == {"*": int(a) * int(b), "+": int(a) + int(b), "-": int(a) - int(b)}[sign]
    lines = made.turns[0].answer.split("\n")
    for i, (line, gold) in enumerate(zip(lines, made.turns[0].gold or (), strict=True), 1):
        assert line.startswith(f"Answer_{i}: ")
        assert line.endswith(f" = {gold}. The answer is {gold}.")


def test_some_problems_need_the_price_list_and_its_span_is_evidence() -> None:
    made = episode(6001)
    kinds = Counter(re.findall(r"packs|buys|gets", " ".join(problems(made))))
    assert min(kinds["packs"], kinds["buys"], kinds["gets"]) > 10
    (start, end), *asked = made.turns[0].evidence
    assert made.context[start:end].startswith("Prices in francs: ")
    assert [made.context[a:b].split(": ", 1)[1] for a, b in asked] == problems(made)
    other = made.context.replace(made.context[start:end], re.sub(r"\d+", "2", made.context[start:end]))
    assert get_task("longgen").solve["natural"](other, made.turns[0].question) != made.turns[0].answer


def test_an_answer_left_out_costs_one_by_its_index_and_the_rest_by_position() -> None:
    turn = episode(6001).turns[0]
    lines = turn.answer.split("\n")
    for scorer in (score_corrected, score_reference):
        assert scorer("longgen", turn.answer, turn.reference) == 1
        assert scorer("longgen", "\n".join(lines[:-1]), turn.reference) == pytest.approx(59 / 60)
    without = "\n".join([*lines[:10], *lines[11:]])
    assert score_corrected("longgen", without, turn.reference) == pytest.approx(59 / 60)
    assert score_reference("longgen", without, turn.reference) < 0.25


def test_answers_are_spread_and_the_output_has_room() -> None:
    golds = [int(gold) for session in range(8) for gold in episode(6001, session).turns[0].gold or ()]  # type: ignore[union-attr]
    assert min(golds) >= 100
    assert max(golds) <= 999
    assert Counter(golds).most_common(1)[0][1] <= 6
    assert 430 < sum(golds) / len(golds) < 670
    made = episode(6001)
    assert made.max_new_tokens > 1.4 * len(made.turns[0].answer) / 4


def test_mistakes_say_what_to_do() -> None:
    with pytest.raises(EpisodeError, match="needs a length of at least") as error:
        episode(100)
    (least,) = re.findall(r"at least (\d+)", str(error.value))
    assert len(problems(episode(int(least)))) == 2
    with pytest.raises(UsageError, match="cannot put its evidence at a depth"):
        episode(6001, depth=0.5)
