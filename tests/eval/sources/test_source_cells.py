"""Cells of every task on small files of its schema, in both modes, by a random model that reads text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kvpress_eval.runs import asking
from kvpress_eval.runs.config import RunConfig
from kvpress_eval.runs.loaded import Loaded, load
from kvpress_eval.runs.prepare import prepare
from kvpress_eval.runs.runner import blank_row, run_cell
from kvpress_eval.sources import session_files, token_limits
from kvpress_eval.sources.scbench_records import SCBENCH_TASKS


@pytest.fixture(scope="module")
def text(text_model: str) -> Loaded:
    # positions are rotary: the model reads more than it was made for
    return replace(load(text_model), max_positions=None)


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model never stops."""
    table: dict[str, Any] = {
        task: dict.fromkeys(most, 5) if isinstance(most, dict) else 5 for task, most in token_limits.MAX_NEW.items()
    }
    monkeypatch.setattr(token_limits, "MAX_NEW", table)


def config(data: Path, **changes: Any) -> RunConfig:
    return RunConfig(**{"source": str(data), "length": 3000, "sessions": 9, "prompts": "reference", **changes})


@pytest.mark.parametrize("mode", ["multi-turn", "multi-request"])
@pytest.mark.parametrize("task", SCBENCH_TASKS)
def test_a_cell_of_real_rows(data: Path, text: Loaded, task: str, mode: str) -> None:
    row = run_cell(prepare(config(data, task=task, mode=mode, press="snapkv(keep=0.5)"), text))
    assert (row.status, row.error) == ("ok", "")
    assert (row.sessions, row.turns, row.n_by_turn) == (2, 4, [2, 2]), "there are fewer rows than sessions asked for"
    assert (row.source, row.prompts, row.rendering, row.scorer) == (str(data), "reference", "natural", "corrected")
    assert len(row.reference_scores) == len(row.session_scores) == 2
    assert (row.cut, row.evidence_cut) == (0.0, 0.0)
    assert all(name.startswith(f"{task}/{data.name}/") for name in row.session_ids)
    assert (row.turn_tasks != []) == (task in ("summary_with_needles", "repoqa_and_kv"))


def test_all_questions_of_a_row_are_asked_unless_fewer_are_wanted(data: Path, text: Loaded) -> None:
    assert RunConfig().turns == 5
    every, one = (prepare(config(data, task="vt", **turns), text) for turns in ({}, {"turns": 1}))
    assert (every.config.turns, every.source.turns, one.source.turns) == (0, 2, 1)
    assert [len(cell.episode(0).turns) for cell in (every, one)] == [2, 1]
    assert "--turns 0" in every.config.command()
    assert every.id != one.id


def test_what_guessing_scores_is_known_of_generated_sessions_only(data: Path, text: Loaded, tmp_path: Path) -> None:
    assert blank_row(prepare(config(data, task="many_shot"), text)).chance is None
    session_files.write(["many_shot"], tmp_path, 3000, 1, 2, 0)
    stored = prepare(config(tmp_path, task="many_shot", prompts="corrected", length=12000), text)
    assert blank_row(stored).chance == 0.2


def test_a_context_that_is_cut_is_in_the_row(data: Path, text: Loaded) -> None:
    row = run_cell(prepare(config(data, task="kv", prompts="corrected", length=150, turns=1), text))
    assert (row.status, row.error) == ("ok", "")
    assert (row.cut, row.evidence_cut) == (1.0, 1.0)
    assert row.logical_length <= 150


def test_modes_and_histories_do_not_share_the_released_sessions(data: Path, text_model: str) -> None:
    loaded = replace(load(text_model, chat="off"), max_positions=None)
    asked = ({}, {"mode": "multi-request"}, {"history": "own"})
    made = [prepare(config(data, length=1100, **changes), loaded).episode(0) for changes in asked]
    assert [episode.cut for episode in made] == [False, True, False]
    assert [episode.joints.later for episode in made] == ["\n\n", "\n\n", "<eos>"]
    made = [prepare(config(data, prompts="corrected", **changes), loaded).episode(0) for changes in asked]
    assert made[0] is made[1] is made[2]


@pytest.mark.parametrize("prompts", ["reference", "corrected"])
@pytest.mark.parametrize("chat", ["on", "off"])
def test_turn_by_turn_equals_the_whole_conversation(data: Path, text_model: str, prompts: str, chat: str) -> None:
    loaded = load(text_model, chat=chat)
    asked = config(data, task="vt", prompts=prompts, length=600)
    cell = prepare(asked, loaded)
    prompt = loaded.prompter.prompt(cell.episode(0))
    with cell.press(loaded.model) as session:
        got = asking.ask(loaded.model, session, prompt, asked, frozenset({2}), [7, 7], 1)
    whole = [*prompt.context, *prompt.questions[0], *prompt.golds[0], *prompt.questions[1]]
    assert loaded.prompter.tokenizer.decode(whole).count("Which hold") == 2
    for t, end in enumerate((len(prompt.context) + len(prompt.questions[0]), len(whole))):
        expected = list[int]()
        with torch.no_grad():
            while len(expected) < 7:
                ids = torch.tensor([[*whole[:end], *expected]])
                token = int(loaded.model(input_ids=ids, use_cache=False).logits[0, -1].argmax())
                if token == 2:
                    break
                expected.append(token)
        assert got.ids[t] == expected
    with cell.press(loaded.model) as session, torch.no_grad():
        cache = None
        for piece in ([*prompt.context, *prompt.questions[0]], [*prompt.golds[0], *prompt.questions[1]]):
            cache = session.prefill(torch.tensor([piece]), cache=cache)
        assert cache is not None and cache.next_logits is not None
        logits = loaded.model(input_ids=torch.tensor([whole]), use_cache=False).logits[:, -1]
        torch.testing.assert_close(cache.next_logits, logits, atol=1e-4, rtol=1e-4)
