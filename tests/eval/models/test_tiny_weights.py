"""The weights that ship: what they are, that they answer, that the outlier variant is the same function."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from kvpress_eval.models import bundled as tiny
from kvpress_eval.models.bundled.dialect import KINDS, TOKEN_ID, decode, document, encode
from kvpress_eval.models.bundled.evaluate import documents, evaluate
from kvpress_eval.models.bundled.samples import MIXTURE
from kvpress_eval.models.bundled.stages import FULL
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


@pytest.fixture(scope="module")
def plain() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    return tiny.load()


def test_files_and_config(plain: tuple[LlamaForCausalLM, PreTrainedTokenizerFast]) -> None:
    folder = tiny.weights_path()
    assert (folder / "model.safetensors").stat().st_size <= 6_000_000
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.jsonl",
    }
    stored = json.loads((folder / "config.json").read_text())
    assert stored["architectures"] == ["LlamaForCausalLM"]
    assert stored["dtype"] == "bfloat16"
    model, _ = plain
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (256, 4, 512)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 2, 64)
    assert (config.vocab_size, config.max_position_embeddings) == (384, 2048)
    assert config.rope_parameters["rope_theta"] == 1e5
    assert config.tie_word_embeddings
    assert sum(p.numel() for p in model.parameters()) == 2_459_904
    assert config.kvpress_variant == "tiny"
    assert model.dtype == torch.float32
    assert not model.training


def test_log_belongs_to_the_committed_recipe() -> None:
    text = (tiny.weights_path() / "training.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[0]["recipe"] == json.loads(json.dumps(asdict(FULL)))
    assert lines[0]["mixture"] == MIXTURE
    assert [line["step"] for line in lines[1:]] == sorted({line["step"] for line in lines[1:]})
    last = lines[-1]
    assert last["step"] == FULL.steps
    assert last["tokens"] == sum(FULL.stage(step).tokens for step in range(FULL.steps))


def test_tokenizer_round_trip(plain: tuple[LlamaForCausalLM, PreTrainedTokenizerFast]) -> None:
    _, tokenizer = plain
    doc = document(random.Random(1), 333, KINDS, filler=0.2)
    text = " ".join(doc.tokens)
    ids = tokenizer(text).input_ids
    assert ids == encode(doc.tokens)
    assert tokenizer.decode(ids) == decode(ids) == text
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)


@pytest.mark.parametrize("task", KINDS)
def test_answers_with_full_cache_and_with_the_oracles_choice(task: str) -> None:
    model, _ = tiny.load()
    (cell,) = evaluate(model, [task], [512], 30)
    assert cell.n == 30
    assert cell.full >= 28
    assert cell.oracle >= 28


def test_generate_stops_at_the_answers_end(
    plain: tuple[LlamaForCausalLM, PreTrainedTokenizerFast],
) -> None:
    model, _ = plain
    right = total = 0
    for task in KINDS:
        doc = next(documents(task, 256, 5, seed=1))
        for question in doc.questions:
            ids = torch.tensor([encode(doc.tokens + question.prompt)])
            mask = torch.ones_like(ids)
            new = model.generate(ids, attention_mask=mask, max_new_tokens=24)[0, ids.shape[1] :]
            assert new.tolist().count(TOKEN_ID[";"]) <= 1
            right += new.tolist() == encode(question.answer)
            total += 1
    assert right >= 0.95 * total


def test_outlier_variant_is_the_same_function_with_larger_key_channels(
    plain: tuple[LlamaForCausalLM, PreTrainedTokenizerFast],
) -> None:
    outlier, _ = tiny.load("outlier")
    assert outlier.config.kvpress_variant == "tiny-outlier (made)"
    ids = torch.tensor([encode(document(random.Random(2), 401, KINDS).tokens)])
    spreads = []
    with torch.no_grad():
        outs = [model(ids, use_cache=True) for model in (plain[0], outlier)]
    assert (outs[0].logits - outs[1].logits).abs().max() <= 1e-3
    for out in outs:
        channels = [layer.keys[0].abs().mean(-2) for layer in out.past_key_values.layers]
        spreads.append(torch.stack([c.amax(-1) / c.median(-1).values for c in channels]))
    assert (spreads[1] > spreads[0]).float().mean() > 0.8
    assert spreads[1].mean() > 2 * spreads[0].mean()


def test_dtype_and_errors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert tiny.load(dtype=torch.bfloat16)[0].dtype == torch.bfloat16
    with pytest.raises(ValueError, match="variant"):
        tiny.load("large")  # type: ignore[arg-type]
    monkeypatch.setattr(tiny, "weights_path", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"tiny\.train"):
        tiny.load()
