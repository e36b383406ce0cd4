"""Does kvpress work here? One line a check: what was found, and what to do where something is missing.

The self-test runs every assumption `kvpress/hf/` makes about the installed transformers on a model of two
layers, so that an upgrade that breaks one is named in seconds.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
from collections.abc import Callable
from typing import Any

import torch

from kvpress.checks import Check
from kvpress.errors import extra

_TESTED = ("5.17", "5.23")


def run() -> list[Check]:
    """All checks; takes seconds, needs no network and no GPU."""
    checks = [
        Check("python", "ok", platform.python_version()),
        Check("torch", "ok", torch.__version__),
        _transformers(),
        _optional("triton", "kernels for packed storage on NVIDIA GPUs; not used yet", "pip install triton"),
        _optional("flash_attn", "flash attention for the prompt", extra("flash")),
        _optional("hqq", "the QuantizedCache peer in kvpress bench", extra("hqq")),
        _optional("gguf", "fetching pretrained models, and GGUF files", extra("gguf")),
        _gpu(),
        kernel_check(),
    ]
    model = _model()
    for name, test in _ASSUMPTIONS.items():
        checks.append(_assumption(name, test, model))
    return checks


def _transformers() -> Check:
    version = importlib.metadata.version("transformers")
    major_minor = tuple(int(part) for part in version.split(".")[:2])
    low, high = (tuple(int(part) for part in tested.split(".")) for tested in _TESTED)
    if low <= major_minor <= high:
        return Check("transformers", "ok", version)
    advice = f"tested with {_TESTED[0]} to {_TESTED[1]}; the self-test below says whether this one works"
    return Check("transformers", "fail" if major_minor < low else "warn", version, advice)


def _optional(module: str, purpose: str, install: str) -> Check:
    try:
        found = importlib.import_module(module)
    except Exception as error:  # a broken binary wheel raises anything
        if isinstance(error, ModuleNotFoundError):
            return Check(module, "ok", f"not installed (optional, for {purpose}; {install})")
        return Check(module, "warn", f"installed but broken: {error}", f"for {purpose}: {install}")
    return Check(module, "ok", getattr(found, "__version__", "installed"))


def _gpu() -> Check:
    if not torch.cuda.is_available():
        return Check("gpu", "ok", "none; everything runs on the CPU")
    return Check("gpu", "ok", f"{torch.cuda.get_device_name()} with CUDA {torch.version.cuda}")


def kernel_check() -> Check:
    """Whether the CPU kernels could be built here, and that they agree with the reference in torch."""
    from kvpress.attention import backends as kernels
    from kvpress.attention.backends import build
    from kvpress.attention.partial import attend_reference

    name = "cpu kernels"
    if not kernels.enabled():
        return Check(name, "ok", f"off, {kernels.VARIABLE}=reference", f"unset {kernels.VARIABLE} to use them")
    built = build.load()
    if built.library is None:
        advice = "decoding over packed slots on a CPU takes several times as long; install a C compiler (gcc or clang)"
        return Check(name, "warn", f"not built, torch is used instead: {built.detail}", advice)
    numbers = torch.linspace(-2, 2, 3 * 2 * 1100 * 16, dtype=torch.float32, device="cpu").sin()
    q, k, v = numbers.view(3, 1, 2, 1100, 16).unbind()
    fused = kernels.attend([kernels.Part(k, v, 1100)], q[..., :4, :], 1.0, None)
    wrong = fused is None or not torch.allclose(fused.out, attend_reference(q[..., :4, :], k, v, 1.0).out, atol=1e-5)
    if wrong:
        return Check(
            name, "fail", f"wrong results ({built.detail})", f"set {kernels.VARIABLE}=reference, and report it"
        )
    return Check(name, "ok", f"built by {built.detail}")


def _assumption(name: str, test: Callable[[Any], str], model: Any) -> Check:
    try:
        problem = test(model)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    if not problem:
        return Check(name, "ok", "holds")
    return Check(name, "fail", problem, "this transformers changed what kvpress relies on; install a tested version")


def _model() -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
        max_position_embeddings=128,
        pad_token_id=0,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Gemma3ForCausalLM(config).eval()


def _ids(rows: int = 1, count: int = 23) -> torch.Tensor:
    return (torch.arange(rows * count, dtype=torch.int64, device="cpu").view(rows, count) * 7) % 59 + 1


def _layer_kinds(model: Any) -> str:
    from kvpress.hf import model as facts

    kinds = facts.layer_types(model)[0]
    return "" if kinds == ["sliding_attention", "full_attention"] else f"layer types read as {kinds}"


def _same_tokens(model: Any) -> str:
    from kvpress import full

    ids, mask = _ids(2), torch.ones(2, 23, dtype=torch.long, device="cpu")
    mask[1, :6] = 0
    plain = model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
    with full()(model):
        pressed = model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
    return "" if torch.equal(plain, pressed) else "generate gives other tokens under a press that keeps everything"


def _shrinks(model: Any) -> str:
    from kvpress import random

    with random(keep=0.5, recent=2)(model) as session:
        report = session.report(session.prefill(_ids()))
    held = report.layers[0].slots
    return "" if held == 11 else f"asked for 11 slots, the store holds {held}"


def _logical(model: Any) -> str:
    from kvpress import random

    with random(keep=0.5, recent=2)(model):
        out = model.generate(_ids(), max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
        again = model.generate(out.sequences, past_key_values=out.past_key_values, max_new_tokens=2, do_sample=False)
    seen = out.past_key_values.get_seq_length()
    return "" if again.shape[1] == 29 and seen == 28 else f"positions are off: {again.shape[1]} tokens, {seen} seen"


def _prompts(model: Any) -> str:
    from kvpress import random

    with random(keep=0.5, recent=2)(model) as session:
        for size in (None, 11, 1):  # 23 tokens: the last chunk of 11 is one token
            out = model.generate(
                _ids(), prefill_chunk_size=size, max_new_tokens=1, do_sample=False, return_dict_in_generate=True
            )
            report = session.report(out.past_key_values)
            if report.fired != 1 or report.layers[0].slots != 11:
                return f"a prompt read in chunks of {size} fires {report.fired} times on {report.layers[0].slots} slots"
    return ""


def _projects(model: Any) -> str:
    from kvpress import criticalkv, snapkv
    from kvpress.hf import model as facts

    with (criticalkv() | snapkv(keep=0.5, window=2))(model) as session:  # raises where attention gives another tensor
        report = session.report(session.prefill(_ids()))
    found = sorted(facts.output_projections(model))
    held = report.layers[0].slots
    return "" if found == [1] and held == 11 else f"output projections found in layers {found}, {held} slots held"


def _turns(model: Any) -> str:
    from kvpress import streaming_llm

    with streaming_llm(keep=11)(model) as session:  # raises where cached keys are not what the rotary embedding gives
        report = session.report(session.prefill(_ids()))
    return "" if report.layers[0].slots == 11 else f"asked for 11 slots, the store holds {report.layers[0].slots}"


def _restores(model: Any) -> str:
    from kvpress import full

    before = (dict(model.__dict__), model.config._attn_implementation, model.config.to_json_string())
    with full()(model):
        inside = model.config.to_json_string()
    after = (dict(model.__dict__), model.config._attn_implementation, model.config.to_json_string())
    if inside != before[2]:
        return "the attention name shows up in the serialized config"
    same = before[0].keys() == after[0].keys() and before[1:] == after[1:]
    return "" if same else "leaving a press changes the model"


def _refuses(model: Any) -> str:
    from transformers import StaticCache

    from kvpress import full
    from kvpress.errors import UnsupportedError

    with full()(model):
        try:
            model(_ids(), past_key_values=StaticCache(config=model.config, max_cache_len=32))
        except UnsupportedError:
            return ""
    return "a StaticCache was accepted"


_ASSUMPTIONS: dict[str, Callable[[Any], str]] = {
    "layer types": _layer_kinds,
    "generate unchanged at keep=1": _same_tokens,
    "slots really dropped": _shrinks,
    "positions follow what was seen": _logical,
    "generate reads its prompt in one place": _prompts,
    "attention ends in one linear layer": _projects,
    "keys turned by the rotary embedding": _turns,
    "model restored on leaving": _restores,
    "other caches refused": _refuses,
}
