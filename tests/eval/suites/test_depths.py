"""A depth moves the evidence of a task there, or is refused: no row claims one that its text does not have."""

from __future__ import annotations

import pytest
from kvpress_eval.errors import UsageError
from kvpress_eval.models.rendering import Rendering
from kvpress_eval.suites import TASKS, build
from kvpress_eval.suites.episode import Episode, Request

COUNT = {"dialect": lambda text: len(text.split()), "natural": lambda text: -(-len(text) // 3)}
LENGTH = {"dialect": 1501, "natural": 20001}
TURNS = 2
CASES = [(name, rendering) for name, task in TASKS.items() for rendering in task.build]
REFUSED = {
    *((name, "natural") for name in ("many_shot", "summary", "summary_with_needles", "longgen")),
    *((name, "natural") for name in ("ruler_cwe", "ruler_fwe")),
    *((name, "dialect") for name in ("kv", "prefix_suffix", "vt", "qa_eng", "many_shot", "repoqa_and_kv", "needle")),
    *((name, "dialect") for name in ("ruler_niah_multikey_2", "ruler_vt")),
}


def episode(name: str, rendering: Rendering, turns: int, depth: float) -> Episode:
    return build(Request(name, rendering, LENGTH[rendering], turns, 0, 1, COUNT[rendering], depth=depth))


@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("name", "rendering"), [case for case in CASES if case not in REFUSED])
def test_all_evidence_is_at_the_depth(name: str, rendering: Rendering, depth: float) -> None:
    # every kind of question about a list of numbers
    made = episode(name, rendering, 8 if name == "mf" else TURNS, depth)
    body = len(made.instruction)
    for turn in made.turns:
        assert turn.evidence
        for start, end in turn.evidence:
            assert abs((start + end) / 2 - body - depth * (len(made.context) - body)) < 0.07 * len(made.context)


@pytest.mark.parametrize(("name", "rendering"), sorted(REFUSED))
def test_a_task_that_cannot_place_its_evidence_says_so(name: str, rendering: Rendering) -> None:
    message = rf"task '{name}' \({rendering}\) cannot put its evidence at a depth: .+; leave depth out, or choose"
    for depth in (0.0, 0.5):
        with pytest.raises(UsageError, match=message):
            episode(name, rendering, TURNS, depth)
