"""The adapter for lm-evaluation-harness, against the harness's own model and against the session by hand."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from kvpress_eval.cli import main

from kvpress import Press
from kvpress.errors import KVPressError

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

import lm_eval.tasks
from kvpress_eval.runs.lm_eval_model import PressedLM
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

CONTEXT = "In the third year the harvest failed, and the miller of Oram wrote to nobody about it for 19 days. "
PAIRS = [(CONTEXT + "He wrote", " to Una."), (CONTEXT + "He wrote", " x"), ("Where is", " it?"), ("", "ab")]
EVICTING = "snapkv(keep=0.3, window=5, kernel_size=3)"


def requests(kind: str, arguments: list[Any]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=one, idx=i) for i, one in enumerate(arguments)]


@pytest.fixture(scope="module")
def plain(text_model: str) -> HFLM:
    return HFLM(pretrained=text_model, device="cpu", dtype="float32")


def pressed(text_model: str, press: str, **options: Any) -> PressedLM:
    return PressedLM(pretrained=text_model, press=press, device="cpu", dtype="float32", **options)


def test_full_scores_and_writes_what_the_harness_does(text_model: str, plain: HFLM) -> None:
    lm = pressed(text_model, "full", batch_size=2)
    wanted = plain.loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True)
    got = lm.loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True)
    assert [value for value, _ in got] == pytest.approx([value for value, _ in wanted], abs=1e-4)
    assert [greedy for _, greedy in got] == [greedy for _, greedy in wanted]
    asked = [(CONTEXT, {"until": ["\n"], "max_gen_toks": 7}), ("Where", {"until": ["\n"], "max_gen_toks": 7})]
    written = plain.generate_until(requests("generate_until", asked), disable_tqdm=True)
    assert any(written)
    assert lm.generate_until(requests("generate_until", asked), disable_tqdm=True) == written
    rolling = requests("loglikelihood_rolling", [("seven words",)])
    assert lm.loglikelihood_rolling(rolling, True) == pytest.approx(plain.loglikelihood_rolling(rolling, True))
    assert lm.get_model_info()["kv_bytes_ratio"] == pytest.approx(1, abs=0.01)  # the padded batch holds a mask


@pytest.mark.parametrize("press", [EVICTING, "tova(keep=0.3)", "knorm(keep=0.5) | kivi(bits=2, group=8, residual=8)"])
def test_a_continuation_is_scored_on_the_compressed_context(text_model: str, plain: HFLM, press: str) -> None:
    context, continuation = PAIRS[0]
    lm = pressed(text_model, press)
    ((got, _),) = lm.loglikelihood(requests("loglikelihood", PAIRS[:1]), disable_tqdm=True)
    ids, wanted = lm._encode_pair(context, continuation)
    by_hand = 0.0
    with Press.parse(press)(lm.model) as session, torch.no_grad():
        cache = session.prefill(torch.tensor([ids[:-1]]))
        for fed, target in zip([ids[-1], *wanted[:-1]], wanted, strict=True):
            logits = lm.model(input_ids=torch.tensor([[fed]]), past_key_values=cache).logits[0, -1]
            by_hand += float(logits.log_softmax(-1)[target])
    assert got == pytest.approx(by_hand, abs=1e-4)
    ((dense, _),) = plain.loglikelihood(requests("loglikelihood", PAIRS[:1]), disable_tqdm=True)
    assert abs(got - dense) > 1e-3  # it was compressed before it was scored


def test_one_token_is_scored_on_the_compressed_context_too(text_model: str, plain: HFLM) -> None:
    letters = requests("loglikelihood", [PAIRS[1]])
    ((got, _),) = pressed(text_model, EVICTING).loglikelihood(letters, disable_tqdm=True)
    ((dense, _),) = plain.loglikelihood(letters, disable_tqdm=True)
    assert abs(got - dense) > 1e-3


def test_requests_do_not_see_each_other(text_model: str) -> None:
    lm = pressed(text_model, EVICTING)
    together = lm.loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True)
    alone = [lm.loglikelihood(requests("loglikelihood", [pair]), disable_tqdm=True)[0] for pair in PAIRS[::-1]]
    assert [value for value, _ in together] == pytest.approx([value for value, _ in alone[::-1]], abs=1e-5)
    assert 0 < lm.get_model_info()["kv_bytes_ratio"] < 1


def test_a_long_context_loses_its_beginning(text_model: str, plain: HFLM) -> None:
    long = requests("loglikelihood", [(CONTEXT * 8, " end")])
    assert len(plain.tok_encode(CONTEXT * 8)) > plain.max_length
    ((wanted, _),) = plain.loglikelihood(long, disable_tqdm=True)
    ((got, _),) = pressed(text_model, "full").loglikelihood(long, disable_tqdm=True)
    assert got == pytest.approx(wanted, abs=1e-3)


def test_generation_is_that_of_the_press(text_model: str) -> None:
    lm = pressed(text_model, EVICTING)
    (written,) = lm.generate_until(requests("generate_until", [(CONTEXT, {"until": [], "max_gen_toks": 9})]), True)
    ids = torch.tensor([lm.tok_encode(CONTEXT)])
    with Press.parse(EVICTING)(lm.model):
        out = lm.model.generate(ids, max_new_tokens=9, do_sample=False, pad_token_id=0)
    assert written == lm.tok_decode(out[0, ids.shape[1] :].tolist())
    assert 0.2 < lm.get_model_info()["kv_bytes_ratio"] < 0.6


def test_what_would_measure_nothing_is_refused(text_model: str) -> None:
    rolling = requests("loglikelihood_rolling", [("seven words",)])
    with pytest.raises(KVPressError, match="no context to compress"):
        pressed(text_model, EVICTING).loglikelihood_rolling(rolling)
    with pytest.raises(KVPressError, match="mixed_precision_dtype"):
        pressed(text_model, "full", mixed_precision_dtype="bfloat16")
    with pytest.raises(KVPressError, match="snapkvv"):
        pressed(text_model, "snapkvv(keep=0.5)")


def test_commas_of_a_press_survive_an_argument_string(text_model: str) -> None:
    text = f"pretrained={text_model},dtype=float32,press={EVICTING} | kivi(bits=4, group=8)"
    lm = PressedLM.create_from_arg_string(text, {"device": "cpu", "batch_size": 1})
    assert str(lm.press) == str(Press.parse(f"{EVICTING} | kivi(bits=4, group=8)"))


def test_the_command_runs_a_local_task(
    text_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # the harness reads thousands of files to know its own tasks, which takes half a minute
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(lm_eval.tasks.TaskManager, include_defaults=False))
    (tmp_path / "mc.jsonl").write_text(json.dumps({"text": CONTEXT, "right": 1}) + "\n")
    (tmp_path / "mc.yaml").write_text(
        "task: local_mc\ndataset_path: json\ntest_split: test\noutput_type: multiple_choice\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/mc.jsonl}}}}\n"
        "doc_to_text: '{{text}}'\ndoc_to_choice: [Una, Oram]\ndoc_to_target: right\nmetric_list: [{metric: acc}]\n"
    )
    words = ["lm-eval", "run", "--model_args", f"pretrained={text_model}", f"press={EVICTING} | kivi(bits=4, group=8)"]
    words += ["--tasks", "local_mc", "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    assert main([*words, "--device", "cpu"]) == 0
    assert "|local_mc|" in capsys.readouterr().out.replace(" ", "")
    (file,) = (tmp_path / "out").rglob("results_*.json")
    config = json.loads(file.read_text())["config"]
    assert config["press"] == str(Press.parse(words[4].removeprefix("press=")))
    assert 0 < config["kv_bytes_ratio"] < 1
    assert main([*words[:3], f"pretrained={text_model}", "press=snapkvv", "--tasks", "local_mc", *words[7:9]]) == 2
    assert "snapkvv" in capsys.readouterr().err


def test_a_prompt_without_a_template_is_repeated_without_one(text_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """KVzip ends the user's turn only where the harness was asked for the chat template."""
    lm = pressed(text_model, "kvzip(keep=0.5)")
    monkeypatch.setattr(lm.tokenizer, "chat_template", "{% for m in messages %}<{{ m.content }}>{% endfor %}said:")
    with lm._entered() as session:
        assert list(session.instructions[2]) == []
    assert lm.apply_chat_template([{"role": "user", "content": "hi"}]) == "<hi>said:"
    with lm._entered() as session:
        assert lm.tokenizer.decode(session.instructions[2]) == ">said:"
