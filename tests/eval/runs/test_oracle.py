"""The evidence oracle keeps what a turn needs, and nothing of it reaches another session."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from kvpress_eval.errors import UsageError
from kvpress_eval.runs.config import RunConfig
from kvpress_eval.runs.loaded import Loaded, load
from kvpress_eval.runs.prepare import prepare
from kvpress_eval.runs.runner import run_cell
from kvpress_eval.runs.survivors import of_episode, of_text

from kvpress import PRESETS, Press
from kvpress.errors import KVPressError


@pytest.fixture
def oracle() -> ModuleType:
    """The module, with its press known for the length of a test."""
    from kvpress_eval.runs import evidence_oracle

    if "evidence" not in PRESETS:
        PRESETS.register("evidence")(evidence_oracle.evidence)
    return evidence_oracle


@pytest.fixture(scope="module")
def tiny() -> Loaded:
    return load("tiny")


def test_its_press_is_found_only_when_it_is_asked_for() -> None:
    code = (
        "import kvpress_eval.cli.actions, kvpress_eval.runs.runner\n"
        "from kvpress import PRESETS, Press\n"
        "assert 'evidence' not in PRESETS\n"
        "assert 'turn=0' in Press.parse('evidence(keep=0.1)').spec()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": ":".join(sys.path)})


def test_tokens_of_the_evidence_read_the_answer(oracle: ModuleType, tiny: Loaded) -> None:
    episode = prepare(RunConfig(task="vt", length=400, turns=3), tiny).episode(2)
    prompt = tiny.prompter.prompt(episode)
    for turn, at in zip(episode.turns, oracle.evidence_tokens(tiny.prompter, episode), strict=True):
        text = tiny.tokenizer.decode([prompt.context[i] for i in at])
        assert text.split() == [word for a, b in turn.evidence for word in episode.context[a:b].split()]
        assert set(turn.answer.split()) <= set(text.split())


def test_tokens_of_any_tokenizer(oracle: ModuleType, text_model: str) -> None:
    loaded = load(text_model, chat="off")
    episode = prepare(RunConfig(model=text_model, task="needle", length=690, turns=1, chat="off"), loaded).episode(0)
    (at,) = oracle.evidence_tokens(loaded.prompter, episode)
    ids = loaded.prompter.prompt(episode).context
    assert episode.turns[0].answer in loaded.tokenizer.decode([ids[i] for i in at])
    with pytest.raises(UsageError, match="--chat off"):
        oracle.evidence_tokens(load(text_model).prompter, episode)


def test_it_keeps_what_its_turn_needs_and_forgets_it_afterwards(oracle: ModuleType, tiny: Loaded) -> None:
    press = Press.parse("evidence(turn=1, keep=12, recent=3, sinks=1)")
    ids = torch.randint(5, 300, (1, 60), generator=torch.Generator().manual_seed(0))
    with press(tiny.model) as session:
        with oracle.about([[40, 41], [20, 21, 22]]):
            cache = session.prefill(ids)
        kept = {tuple(sorted(set(layer.block().pos.flatten().tolist()))) for layer in cache.stores}
        assert kept == {(0, 20, 21, 22, *range(52, 60))}
        later = session.prefill(ids)
        assert set(later.stores[0].block().pos.flatten().tolist()) == {0, *range(49, 60)}


@pytest.mark.parametrize("mode", ["multi-turn", "multi-request"])
def test_its_own_turn_is_answered_and_others_are_lost(oracle: ModuleType, tiny: Loaded, mode: str) -> None:
    press = "evidence(turn=1, keep=0.125)"
    row = run_cell(prepare(RunConfig(press=press, task="kv", mode=mode, length=512, sessions=5, turns=3), tiny))
    assert row.status == "ok", row.error
    assert row.score_by_turn[1] == 1
    assert max(row.score_by_turn[0], row.score_by_turn[2]) <= 0.4


@pytest.mark.parametrize(
    ("press", "reason"),
    [
        ("evidence(turn=3)", "kv has no turn 3: its 2 turns count from 0"),
        ("evidence(turn=-2)", "turn must be at least -1"),
    ],
)
def test_a_turn_that_is_not_there_is_refused(oracle: ModuleType, tiny: Loaded, press: str, reason: str) -> None:
    with pytest.raises(KVPressError, match=reason):
        prepare(RunConfig(press=press, task="kv", length=400, turns=2), tiny)


def test_evidence_that_nobody_knows_is_refused(oracle: ModuleType, tiny: Loaded) -> None:
    episode = prepare(RunConfig(task="kv", length=400, turns=2), tiny).episode(0)
    bare = replace(episode, turns=tuple(replace(turn, evidence=()) for turn in episode.turns))
    for turn, which in ((1, "turn 1"), (-1, "any turn")):
        with pytest.raises(UsageError, match=f"does not say where the evidence of {which} stands"):
            oracle.evidence_tokens(tiny.prompter, bare, turn)


def test_what_it_keeps_is_shown(oracle: ModuleType, tiny: Loaded) -> None:
    shown = of_episode(RunConfig(press="evidence(turn=0, keep=0.1)", task="kv", length=512, turns=2), tiny)
    assert shown.evidence is not None
    assert [shown.survival(one)[0] for one in shown.evidence if one.turn == 1] == [1.0]
    with pytest.raises(UsageError, match="give --task instead of a text"):
        of_text("evidence(turn=0)", tiny, "the")
