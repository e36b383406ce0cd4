from __future__ import annotations

import ast
import builtins
import re

import pytest
from kvpress_eval.errors import EpisodeError
from kvpress_eval.metrics import exact_line_recall, score
from kvpress_eval.suites import build, get_task
from kvpress_eval.suites.episode import Request
from kvpress_eval.suites.tasks import repoqa
from kvpress_eval.suites.texts.describe import describe
from kvpress_eval.suites.texts.holes import read
from kvpress_eval.suites.texts.renaming import Words

from tests.eval.suites.code_checks import (
    assert_longer_keeps_its_questions,
    assert_right_answers_score_one_and_controls_chance,
    assert_same_in_another_process,
    count,
    episode,
    used,
)

LONG = 3001


def parsed(text: str) -> ast.FunctionDef:
    (node,) = ast.parse(text).body
    assert isinstance(node, ast.FunctionDef)
    return node


def test_right_answers_score_one_and_controls_nothing() -> None:
    assert_right_answers_score_one_and_controls_chance("repoqa", LONG)


def test_a_longer_context_asks_the_same_questions() -> None:
    assert_longer_keeps_its_questions("repoqa", LONG, 9001, repoqa.JOINT)


def test_same_seed_same_text_in_another_process() -> None:
    assert_same_in_another_process(("mf", "repoqa", "repoqa_and_kv"), LONG)


@pytest.mark.parametrize(("length", "turns"), [(512, 1), (LONG, 5), (6007, 8)])
def test_an_episode_fits_its_length_and_uses_it(length: int, turns: int) -> None:
    for session in range(6):
        made = episode("repoqa", length, turns, session)
        # pieces are whole functions
        assert length - 0.2 * length - 400 < used(made) <= length
        assert len(made.turns) == turns
        assert all(count(turn.answer) <= made.max_new_tokens for turn in made.turns)


def test_evidence_is_the_function_asked_for_in_every_part_of_the_context() -> None:
    parts = [set[int]() for _ in range(5)]
    for session in range(5):
        made = episode("repoqa", 9001, session=session)
        assert made.context.startswith(made.instruction + "\n\n# Python 3.")
        for t, turn in enumerate(made.turns):
            ((start, end),) = turn.evidence
            assert turn.answer == f"```\n{made.context[start:end]}\n```"
            assert isinstance(turn.gold, dict)
            assert made.context[start:].startswith(f"def {turn.gold['func_name']}(")
            parts[t].add(int(5 * start / len(made.context)))
    assert all(len(seen) >= 4 for seen in parts)


def test_a_context_is_code_without_comments_or_names_told_by_the_question() -> None:
    made = episode("repoqa", 20011, session=2)
    functions = ast.parse(made.context.split(":\n\n", 1)[1]).body
    assert all(isinstance(node, ast.FunctionDef) and not node.decorator_list for node in functions)
    names = [node.name for node in functions if isinstance(node, ast.FunctionDef)]
    assert len(set(names)) == len(names) > 100
    assert not any(ast.get_docstring(node) for node in functions if isinstance(node, ast.FunctionDef))
    for turn in made.turns:
        own = {n.id for n in ast.walk(parsed(turn.answer.strip("`\n"))) if isinstance(n, ast.Name)}
        said = set(re.findall(r"\w+", turn.question))
        assert not said & {name for name in own if name not in dir(builtins) and len(name) > 4}


def test_the_library_by_heart_is_no_answer() -> None:
    """The strongest context-free guess: the original of the very function that is asked for."""
    for session in range(12):
        request = Request("repoqa", "natural", LONG, 5, 0, session, count)
        needles = repoqa.draw(request, 5)
        for turn, needle in zip(build(request).turns, needles, strict=True):
            assert turn.answer == f"```\n{needle.function.text}\n```"
            assert score("repoqa", f"```\n{needle.source.original}\n```", turn.reference) == 0
            assert needle.changed
            assert exact_line_recall(turn.answer, needle.changed) == 1
            assert exact_line_recall(needle.source.original, needle.changed) == 0


def test_the_answer_is_the_nearest_of_all_functions_it_is_compared_with() -> None:
    made = episode("repoqa", LONG)
    for turn in made.turns:
        assert isinstance(turn.gold, dict)
        assert len(turn.gold["needles"]) == 10
        assert turn.gold["needles"][-1]["needle"] in episode("repoqa", 9001).context
        for other in turn.gold["needles"]:
            mine = other["name"] == turn.gold["func_name"]
            assert score("repoqa", f"```\n{other['needle']}\n```", turn.gold) == mine


def test_no_description_is_near_that_of_another_function_in_the_context() -> None:
    made = episode("repoqa", 30011, session=4)
    said = [set(re.findall("[A-Za-z]+", describe(parsed(p)))) for p in made.context.split("\n\n\n") if p[:4] == "def "]
    assert len(said) > 150
    for turn in made.turns:
        words = set(re.findall("[A-Za-z]+", describe(parsed(turn.answer.strip("`\n")))))
        near = [len(words & other) / len(words | other) > 0.7 for other in said]
        assert sum(near) == 1


def test_the_solver_wants_one_match_and_reads_the_context() -> None:
    made = episode("repoqa", LONG)
    turn = made.turns[0]
    ((start, end),) = turn.evidence
    solve = get_task("repoqa").solve["natural"]
    assert solve(made.context, turn.question) == turn.answer
    twice = made.context + "\n\n\n" + made.context[start:end].replace("def ", "def un", 1)
    with pytest.raises(ValueError, match="fits 2 functions"):
        solve(twice, turn.question)
    with pytest.raises(ValueError, match="fits 0 functions"):
        solve(made.context[:start] + made.context[end:], turn.question)


def test_a_short_length_says_what_to_do() -> None:
    with pytest.raises(EpisodeError, match=r"at least .* tokens, got 700; ask for fewer turns"):
        episode("repoqa", 700)


CODE = '''
@wraps
def visit(self, node, *, limit=7, **rest):
    """Not kept."""
    import os as system
    global seen
    seen = [limit for limit in node if limit > 3]  # not kept
    try:
        with open(node.path, "reading text") as file:
            total = sum(self.visit(part, limit=limit) for part in file)
    except OSError as error:
        raise ValueError(f"{error} of {total:>{limit}}") from error
    system.total += total
    return super().visit(node), -1
'''


def test_renaming_is_consistent_and_leaves_what_is_named_elsewhere() -> None:
    source = read(parsed(CODE))
    assert source is not None
    assert source.original.startswith("def visit(self, node, *, limit=7, **rest):\n    import os as system\n")
    assert set(source.names) == {"visit", "node", "limit", "rest", "file", "total", "error", "part"}
    assert sorted(map(str, source.constants)) == ["1", "3", "7", "reading text"]
    filled = source.fill(Words(Request("repoqa", "natural", 9, 1, 0, 0, count).rng("x")))
    new = dict(zip(source.names, filled.names, strict=True))
    assert len(set(filled.names)) == 8
    assert f"self.{new['visit']}({new['part']}, limit={new['limit']})" in filled.text
    assert f"super().{new['visit']}({new['node']})" in filled.text
    assert f"system.total += {new['total']}" in filled.text
    assert "open(" in filled.text
    assert "except OSError as " + new["error"] in filled.text
    assert f"f'{{{new['error']}}} of {{{new['total']}:>{{{new['limit']}}}}}'" in filled.text
    assert not {"visit", "node", "rest", "file", "error"} & set(re.findall(r"\w+", filled.text))
    assert 1 <= len(source.changed(filled)) <= 2
    assert describe(parsed(filled.text)) == source.description


def test_what_cannot_be_asked_about_is_left_out() -> None:
    assert read(parsed("def f(a):\n    return a\n")) is None
    body = "".join(f"    a = a + {i}\n" for i in range(4))
    assert read(parsed(f"def f(a):\n{body}    return a\n")) is not None
    assert read(parsed(f"def f(a):\n{body * 12}    return a\n")) is None
    assert read(parsed(f"def f(a):\n{body}    def g():\n        return a\n    return g\n")) is None


def test_a_description_says_structure_and_no_names() -> None:
    said = describe(
        parsed(
            "def scan(items, size=3):\n    rows = []\n    for i in items:\n        if len(i) > size:\n"
            "            rows.append(i)\n    return rows\n"
        )
    )
    assert said == (
        "1. **Purpose**: measuring the length and adding at the end.\n"
        "2. **Input**: two arguments; the last one optional, with a number by default.\n"
        "3. **Output**: a value held before.\n"
        "4. **Procedure**: setting the first variable to an empty list; for the second variable over the first "
        "argument [if the result of measuring the length with the second variable exceeding the second argument "
        "[adding at the end of the first variable with the second variable]]; returning the first variable."
    )


def test_a_chain_of_comparisons_says_each_of_them() -> None:
    said = describe(parsed("def f(x, n, m):\n    if 0 <= x < n == m:\n        return x\n"))
    assert (
        "if a number being at most the first argument, that being less than the second argument, that being equal to "
        "the third argument [returning the first argument]"
    ) in said
