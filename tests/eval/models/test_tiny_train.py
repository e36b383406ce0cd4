"""Training of the bundled model: twin of Llama, structured start, resumed run == whole run."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kvpress_eval.models.bundled import train
from kvpress_eval.models.bundled.dialect import KINDS, TOKEN_ID, decode
from kvpress_eval.models.bundled.export import build_tokenizer, export, to_transformers
from kvpress_eval.models.bundled.model import Shape, TinyLM, rope_table
from kvpress_eval.models.bundled.optim import Muon, rate
from kvpress_eval.models.bundled.samples import MIXTURE, batch, sequence
from kvpress_eval.models.bundled.stages import FULL, SMOKE
from kvpress_eval.models.bundled.start import structured_start
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums in one order, so that runs can be compared bit by bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def started() -> TinyLM:
    torch.manual_seed(0)
    model = TinyLM(Shape())
    structured_start(model, 0)
    return model


def test_twin_computes_what_llama_computes(started: TinyLM) -> None:
    ids = torch.randint(4, 366, (2, 51), generator=torch.Generator().manual_seed(1))
    at = torch.arange(2 * 51)
    with torch.no_grad():
        ours = started(ids, *rope_table(started.shape, 51), at).view(2, 51, -1)
        theirs = to_transformers(started.shape, started.state_dict(), torch.float32)(ids).logits
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)


def test_structured_start_draws_previous_token_and_induction_heads(started: TinyLM) -> None:
    model = to_transformers(started.shape, started.state_dict(), torch.float32)
    model.set_attn_implementation("eager")
    once = torch.randint(24, 224, (4, 60), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        attention = model(torch.cat([once, once], 1), output_attentions=True).attentions
    for head in range(3):
        assert attention[0][:, head].diagonal(-(head + 1), 1, 2)[:, 20:].mean() > 0.4
    # layer 1, second half: attend the token that followed the earlier copy
    match = attention[1].diagonal(-59, 2, 3)[..., 2:].mean((0, 2))
    # ten times what uniform attention over the 60 to 120 tokens gives
    assert match[:2].min() > 10 / 90


def test_muon_updates_are_orthogonal() -> None:
    p = torch.nn.Parameter(torch.zeros(48, 32))
    p.grad = torch.randn(48, 32, generator=torch.Generator().manual_seed(0))
    Muon([p], lr=1.0, decay=0.0).step(1.0)
    values = torch.linalg.svdvals(p.detach()) / (48 / 32) ** 0.5
    assert values.min() > 0.5 and values.max() < 1.4


def test_rate_warms_up_and_decays() -> None:
    rates = [rate(step, 1000, 50, 0.35) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 50) and rates[49] == pytest.approx(1) and rates[649] == pytest.approx(1)
    assert rates[825] == pytest.approx(0.5) and rates[-1] == pytest.approx(0.02)


@pytest.mark.parametrize("kind", [*KINDS, "mixed"])
def test_sequences_hold_their_answers(kind: str) -> None:
    for seed in range(10):
        seq = sequence(random.Random(seed), 256, {kind: 1.0})
        assert len(seq.ids) == 256 and seq.answers
        for _, end, _ in seq.answers:
            assert seq.ids[end - 1] == TOKEN_ID[";"]
        for position in seq.demonstrations:
            assert decode(seq.ids[position - 1 : position + 2]).startswith("-> L")


def test_batches_depend_on_seed_and_step_only() -> None:
    one, same, other = (batch(3, step, 96, 960) for step in (5, 5, 6))
    assert torch.equal(one.ids, same.ids) and torch.equal(one.at, same.at) and torch.equal(one.weight, same.weight)
    assert not torch.equal(one.ids, other.ids)
    assert torch.equal(one.ids.reshape(-1)[one.at + 1], one.target)
    assert len(one.at) == len(other.at)  # constant shapes for torch.compile


def test_recipe_counts_steps() -> None:
    assert [SMOKE.stage(step).length for step in (0, 19, 20, 39)] == [64, 64, 96, 96]
    assert {SMOKE.length(step) for step in range(20, 40)} == {64, 96}
    with pytest.raises(IndexError):
        SMOKE.stage(SMOKE.steps)
    assert FULL.stages[-1].length == 2048 and set(MIXTURE) == {*KINDS, "mixed"}


def test_resumed_run_equals_uninterrupted_run(tmp_path: Path) -> None:
    def smoke(out: Path, *stops: int | None) -> train.Trainer:
        for stop in stops:
            trainer = train.Trainer(SMOKE, out, eager=True, bf16=False)
            trainer.run(stop)
        return trainer

    whole = smoke(tmp_path / "whole", None)
    # a log line from after the checkpoint, as a killed run leaves it, must disappear
    smoke(tmp_path / "parts", 25)
    with (tmp_path / "parts" / train.LOG).open("a") as file:
        file.write('{"step": 30}\n')
    parts = smoke(tmp_path / "parts", None)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name
    logs = [(tmp_path / run / train.LOG).read_text().splitlines() for run in ("whole", "parts")]
    lines = [[{**json.loads(line), "seconds": 0} for line in log] for log in logs]
    assert lines[0] == lines[1]
    assert not (tmp_path / "parts" / (train.CHECKPOINT + ".part")).exists()


def test_another_recipe_is_refused(tmp_path: Path) -> None:
    train.Trainer(SMOKE, tmp_path, eager=True, bf16=False).run(1)
    with pytest.raises(ValueError, match="another recipe"):
        train.Trainer(replace(SMOKE, seed=1), tmp_path, eager=True, bf16=False)


def test_command_line_and_export(tmp_path: Path) -> None:
    train.main(["--out", str(tmp_path / "run"), "--smoke", "--threads", "1"])
    log = [json.loads(line) for line in (tmp_path / "run" / train.LOG).read_text().splitlines()]
    assert log[0]["torch"] == torch.__version__ and log[0]["recipe"]["seed"] == 0
    assert log[-1]["step"] == SMOKE.steps and log[-1]["loss"] < log[1]["loss"]
    export(tmp_path / "run", tmp_path / "weights")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "weights", dtype="auto")
    assert model.dtype == torch.bfloat16 and model.config.max_position_embeddings == 2048
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "weights")
    assert tokenizer("<bos> ba = 07 ;").input_ids == build_tokenizer()("<bos> ba = 07 ;").input_ids
