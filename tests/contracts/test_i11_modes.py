"""I11: inference mode and autocast are the caller's: what is stored outlives them, and results are as without them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from kvpress import Press, PressCache
from kvpress.storage.modes import undisturbed
from tests.helpers import COMPOSED, EXACT, QUANTIZED, decode, gap, kept
from tests.models import build, left_padded, shared, tokens

EVERY = [*{**EXACT, **COMPOSED, **QUANTIZED}.values(), "think(0.5)"]
SAMPLE = [
    *("full", "h2o(keep=0.4)", "snapkv(keep=0.4, window=5)", "ada | snapkv(keep=0.4, window=5)"),
    *("criticalkv | h2o(keep=0.4)", "pooled | h2o(keep=0.4)", "expected_attention(keep=0.4, sinks=2)"),
    *("kvzip(keep=0.4, sinks=2, chunk=9)", "leverage(keep=0.4, sketch=7)", "streaming_llm(keep=0.4, sinks=2)"),
    *("kivi(bits=4, group=4, residual=5)", "gear(bits=4, group=4, block=8, residual=5)", "fp8(block=4, residual=3)"),
    *(
        "minicache(start=0, block=6, retained=0.1)",
        "think(0.5) | snapkv(keep=0.4, window=5)",
        "h2o(keep=0.4) | kivi(bits=4, group=4, residual=5)",
    ),
]


def inference(cache: PressCache) -> list[str]:
    """Tensors of a cache that cannot be written to outside of inference mode."""
    return [f"{layer}.{name}" for layer, name, *_, tensor in cache.tensors() if tensor.is_inference()]


@pytest.mark.parametrize("text", EVERY)
def test_a_cache_read_in_inference_mode_lives_on(text: str) -> None:
    """Read, decoded, forked and joined by a second turn in either mode, it gives what it gives without the mode."""
    model, press = shared("llama"), Press.parse(text)
    ids, mask = left_padded([tokens(1, n, n)[0] for n in (45, 38)])
    more, follow = tokens(2, 6, 1), tokens(2, 4, 2)

    def run(*modes: AbstractContextManager[Any]) -> list[Tensor]:
        with press(model) as session:
            with modes[0]:
                cache = session.prefill(ids, mask, chunk=30)
                seen = [cache.next_logits]
                assert not inference(cache)
            with modes[1]:
                fork = cache.fork(torch.tensor([1, 0]))
                seen += [decode(model, fork, follow, mask.flip(0)), session.prefill(more, cache=cache).next_logits]
            with modes[2]:
                whole = torch.cat([mask, torch.ones_like(more)], 1)
                seen.append(decode(model, cache, follow, whole))
                assert not inference(cache) and not inference(fork)
            session.report(cache)
        return seen  # type: ignore[return-value]

    mode = torch.inference_mode
    wanted = run(torch.no_grad(), torch.no_grad(), torch.no_grad())
    for modes in ((mode(), torch.no_grad(), mode()), (torch.no_grad(), mode(), torch.no_grad())):
        assert all(torch.equal(a, b) for a, b in zip(run(*modes), wanted, strict=True))


@pytest.mark.parametrize("text", SAMPLE)
def test_gradients_after_a_prompt_read_in_inference_mode(text: str) -> None:
    """Inference tensors cannot be saved for a backward pass; weights that ask for gradients show whether any is."""
    model, ids, follow = build("llama").requires_grad_(True), tokens(1, 45), tokens(1, 5, 1)
    with Press.parse(text)(model) as session:
        with torch.inference_mode():
            cache, other = session.prefill(ids), session.prefill(ids)
        with torch.no_grad():
            wanted = decode(model, session.prefill(ids), follow)
        assert gap(decode(model, cache, follow).detach(), wanted) < 1e-4
        if session.press.recipe.positions != "slots":  # which moves its sinks in place
            decode(model, other, follow[:, :1]).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("text", ["h2o(keep=0.4)", "kvzip(keep=0.4, chunk=9)", "kivi(bits=4, group=4, residual=5)"])
def test_generate_and_files_in_inference_mode(text: str, tmp_path: Path) -> None:
    model, ids, more = shared("llama"), tokens(1, 45), tokens(1, 6, 1)
    how: dict[str, Any] = {"do_sample": False, "max_new_tokens": 5, "return_dict_in_generate": True}

    def run(mode: Any) -> Tensor:
        with Press.parse(text)(model) as session:
            with mode():
                out = model.generate(ids, num_beams=2, **how)
                out.past_key_values.fork(torch.tensor([0])).save(tmp_path / "cache", model)
                cache = PressCache.load(tmp_path / "cache", model)
                assert not inference(cache) and not inference(out.past_key_values)
            cache.fork()
            whole = torch.cat([out.sequences, more], 1)
            again = model.generate(whole, past_key_values=cache, attention_mask=torch.ones_like(whole), **how)
            session.report(cache)
        return again.sequences

    assert torch.equal(run(torch.inference_mode), run(nullcontext))


def turns(model: PreTrainedModel, press: Press | None, modes: list[AbstractContextManager[Any]]) -> list[Tensor]:
    """Logits of `generate`: a prompt in chunks, then a second turn, each in a mode of its own."""
    how: dict[str, Any] = {"do_sample": False, "max_new_tokens": 5, "return_dict_in_generate": True}
    how |= {"output_logits": True, "pad_token_id": 0}
    ids, more, seen = tokens(2, 45), tokens(2, 7, 1), []
    with torch.no_grad(), press(model) if press is not None else nullcontext():
        with modes[0]:
            out = model.generate(ids, prefill_chunk_size=17, **how)
        seen += list(out.logits)
        # The same tokens follow, whatever the rounding made of the answer.
        whole = torch.cat([ids, tokens(2, 4, 3), more], 1)
        with modes[1]:
            out = model.generate(whole, past_key_values=out.past_key_values, **how)
        seen.append(out.logits[0])
    return [logits.float() for logits in seen]


def casting(kind: torch.dtype) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", kind)


@contextmanager
def _plainly() -> Iterator[None]:
    yield


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt_oss", "gpt_neox", "phi3"])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_full_under_autocast_is_no_press_under_autocast(family: str, kind: torch.dtype) -> None:
    """In chunks, with a second turn, and with a turn of either without the mode, within what the mode rounds."""
    model, press = shared(family), Press.parse("full")
    exact = turns(model, None, [_plainly(), _plainly()])
    for first, second in ((True, True), (True, False), (False, True)):

        def modes(first: bool = first, second: bool = second) -> list[AbstractContextManager[Any]]:
            return [casting(kind) if cast else _plainly() for cast in (first, second)]

        plain, pressed = turns(model, None, modes()), turns(model, press, modes())
        for a, b, c in zip(pressed[:1] + pressed[-1:], plain[:1] + plain[-1:], exact[:1] + exact[-1:], strict=True):
            assert gap(a, b) <= 2 * gap(b, c) + 1e-5  # as far from the plain model as that is from exact arithmetic


@pytest.mark.parametrize("text", SAMPLE)
def test_presses_under_autocast(text: str) -> None:
    """Chunks, a padded batch, a fork and a second turn: as close to fp32 as the model without a press is."""
    model, press = shared("llama"), Press.parse(text)
    ids, mask = left_padded([tokens(1, n, n)[0] for n in (45, 38)])
    more, follow = tokens(2, 6, 1), tokens(2, 4, 2)

    def run(press: Press, mode: Any) -> tuple[list[Tensor], PressCache]:
        with torch.no_grad(), press(model) as session, mode:
            cache = session.prefill(ids, mask, chunk=20)
            seen = [cache.next_logits, decode(model, cache.fork(), follow, mask)]
            seen.append(session.prefill(more, cache=cache).next_logits)
            session.report(cache)
        return [x.float() for x in seen if x is not None], cache

    wanted, exact = run(press, nullcontext())
    found, cache = run(press, casting(torch.bfloat16))
    dense, _ = run(Press.parse("full"), nullcontext())
    rounded, _ = run(Press.parse("full"), casting(torch.bfloat16))
    noise = max(gap(a, b) for a, b in zip(dense, rounded, strict=True))
    pairs = [
        (set(mine), set(other))
        for rows in zip(kept(cache), kept(exact), strict=True)
        for heads in zip(*rows, strict=True)
        for mine, other in zip(*heads, strict=True)
    ]
    same = sum(len(mine & other) for mine, other in pairs) / sum(len(other) for _, other in pairs)
    assert same > 0.9  # scores of two slots may come the other way round after rounding
    for a, b in zip(found, wanted, strict=True):
        assert torch.isfinite(a).all()
        if same == 1:
            assert gap(a, b) < 6 * noise
    assert cache.dense_nbytes() > 0


class Halves(TorchDispatchMode):
    """Notes products in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.found = set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.dtype == torch.bfloat16 and func.__name__.split(".")[0] in ("mm", "bmm"):
            self.found.add(str(func))
        return out


def test_our_own_products_stay_in_full_precision() -> None:
    x = torch.ones(3, 3)
    with casting(torch.bfloat16), Halves() as halves:
        with undisturbed():
            assert (x @ x).dtype == torch.float32
        assert not halves.found
        assert (x @ x).dtype == torch.bfloat16 and halves.found


def test_slots_of_two_types_stay_as_exact_as_they_were_given() -> None:
    """A turn under autocast, then one without: new slots are not rounded to the type of the old ones."""
    model = shared("llama")
    with torch.no_grad(), Press.parse("full")(model) as session:
        with casting(torch.bfloat16):
            cache = session.prefill(tokens(1, 20))
        assert cache.stores[1].tail.v.dtype == torch.bfloat16
        old = [layer.tail.values.clone() for layer in cache.stores]
        session.prefill(tokens(1, 9, 1), cache=cache)
        for layer, before in zip(cache.stores, old, strict=True):
            values = layer.tail.values
            assert values.dtype == torch.float32 and torch.equal(values[:, :, :20], before.float())
            assert not torch.equal(values[:, :, 20:], values[:, :, 20:].bfloat16().float())
