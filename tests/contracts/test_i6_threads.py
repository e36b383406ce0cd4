"""I6 and I8: threads share a pressed model and do not see each other's forwards; none runs without the press."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel

from kvpress import Press, PressCache, full, snapkv
from kvpress.errors import SessionError, UnsupportedError
from tests.helpers import forward, gap, rollout
from tests.models import build, shared, tokens

PRESSES = [
    "full",
    "knorm(keep=16, skip=0)",
    "snapkv(keep=16, window=4)",
    "h2o(keep=16)",
    "kvzip(keep=0.4, sinks=2, chunk=9)",
    "criticalkv | h2o(keep=16)",
    "streaming_llm(keep=16, sinks=2)",
    "kivi(bits=4, group=8, residual=8)",
    "minicache(start=0, block=6, retained=0.1)",
]
SERVERS = 6


def together(work: Callable[[int], Any], count: int = SERVERS) -> list[Any]:
    """work(0) ... work(count - 1), each in a thread of its own; what they raised is raised here."""
    found, errors = [None] * count, list[BaseException]()

    def run(number: int) -> None:
        try:
            found[number] = work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]
    return found


def pressed(out: Any) -> bool:
    """The forward has filled a press's cache, and the press is applied to it when somebody asks."""
    cache = out.past_key_values
    if not isinstance(cache, PressCache):
        return False
    cache.settle()
    return all(layer.fired == 1 and layer.logical for layer in cache.stores)


def in_step(model: PreTrainedModel, count: int) -> Any:
    """A hook that lets no thread leave the first layer before `count` are in it, while that many still come."""
    barrier = threading.Barrier(count)

    def meet(*_: Any) -> None:
        try:
            barrier.wait(0.05)
        except threading.BrokenBarrierError:
            if barrier.n_waiting == 0:
                barrier.reset()

    return model.model.layers[0].register_forward_hook(meet)


def answer(model: PreTrainedModel, number: int) -> torch.Tensor:
    """Logits of a `generate` of its own: prompts of different lengths, one in chunks."""
    ids = tokens(1, 40 + 5 * number, number)
    how: dict[str, Any] = {"prefill_chunk_size": 16} if number == 2 else {}
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=6,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
        **how,
    )
    assert isinstance(out.past_key_values, PressCache)
    return torch.cat(out.logits)


@pytest.mark.parametrize("text", PRESSES)
def test_six_servers_on_one_model(text: str) -> None:
    model = build("llama")
    with Press.parse(text)(model):
        wanted = [answer(model, number) for number in range(SERVERS)]
        hook = in_step(model, SERVERS)
        found = together(lambda number: answer(model, number))
        hook.remove()
    assert all(gap(a, b) < 1e-5 for a, b in zip(found, wanted, strict=True))


def test_forwards_and_prefills_beside_each_other() -> None:
    """Bare calls of a model and of its decoder, sessions' own prefills, forks of one prompt: all at once."""
    model = build("llama")
    with snapkv(keep=16, window=4)(model) as session:
        prompt = session.prefill(tokens(1, 50))
        forks = [prompt.fork() for _ in range(SERVERS)]

        def work(number: int) -> Any:
            ids = tokens(1, 30 + number, number)
            if number % 3 == 0:
                return model(ids, use_cache=True).past_key_values.stores[0].counts().tolist()
            if number % 3 == 1:
                return model.model(ids).past_key_values.stores[0].counts().tolist()
            return rollout(session, ids, tokens(1, 3))[0].tolist(), forward(model, ids[:, :5], forks[number]).tolist()

        wanted = [work(number) for number in range(SERVERS)]
        forks = [prompt.fork() for _ in range(SERVERS)]
        hook = in_step(model, SERVERS)
        assert together(work) == wanted
        hook.remove()


def test_no_forward_of_another_thread_is_without_the_press() -> None:
    model, ids = build("llama"), tokens(1, 30)
    with snapkv(keep=8, window=4)(model):
        hook = in_step(model, 2)
        caches = together(lambda _: [type(model(ids, use_cache=True).past_key_values) for _ in range(20)], 2)
        hook.remove()
    assert {kind for kinds in caches for kind in kinds} == {PressCache}


def test_one_cache_in_two_threads_is_refused_by_name() -> None:
    model, inside, go = build("llama"), threading.Event(), threading.Event()
    with full()(model) as session:
        cache = session.prefill(tokens(1, 9))
        wanted = forward(model, tokens(1, 1), cache.fork())

        def stop(*_: Any) -> None:
            if threading.current_thread().name == "first":
                inside.set()
                assert go.wait(60)

        model.model.layers[1].register_forward_hook(stop)
        found: list[torch.Tensor] = []
        first = threading.Thread(target=lambda: found.append(forward(model, tokens(1, 1), cache)), name="first")
        first.start()
        assert inside.wait(60)
        uses: list[Callable[[], Any]] = [
            lambda: forward(model, tokens(1, 1), cache),
            lambda: session.prefill(tokens(1, 3), cache=cache),
            lambda: session.compress(cache),
            *(cache.fork, cache.nbytes, cache.reset, cache.to_dense, lambda: cache.crop(-1)),
        ]
        for use in uses:
            with pytest.raises(SessionError, match=r"Another thread \(first\)"):
                use()
        go.set()
        first.join(60)
        assert torch.equal(found[0], wanted)
        assert torch.isfinite(forward(model, tokens(1, 1), cache)).all()  # and afterwards it can be used here


def test_leaving_waits_for_forwards_of_other_threads() -> None:
    model, inside, go = build("llama"), threading.Event(), threading.Event()
    ids, plain = tokens(1, 30), build("llama")(tokens(1, 30)).logits

    def stop(*_: Any) -> None:
        if threading.current_thread() is not threading.main_thread() and not inside.is_set():
            inside.set()
            assert go.wait(60)

    model.model.layers[1].register_forward_hook(stop)
    found: list[Any] = []

    def work() -> None:
        found.append(model(ids, use_cache=True))
        found.append(model(ids, use_cache=True))

    threads = [threading.Thread(target=work), threading.Timer(0.3, go.set)]
    with snapkv(keep=8, window=4)(model):
        threads[0].start()
        assert inside.wait(60)
        threads[1].start()
    assert go.is_set()  # which the block has waited for
    for thread in threads:
        thread.join(60)
    assert pressed(found[0])
    # What the thread does next runs with the press or without it, and whole either way.
    assert all(gap(out.logits, plain) < 1e-5 for out in found)
    assert type(model(ids, use_cache=True).past_key_values) is DynamicCache


@pytest.mark.parametrize("called", ["model", "model.model"])
def test_a_forward_that_an_interrupt_broke_off_is_not_taken_for_running(called: str) -> None:
    """torch runs no hook after a KeyboardInterrupt, so nothing says that the forward has ended."""
    model, ids = build("llama"), tokens(1, 20)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with snapkv(keep=8, window=4)(model) as session:
        cache = session.prefill(ids)
        hook = model.model.layers[1].register_forward_hook(interrupt)
        for use in (lambda: forward(model, ids[:, :1], cache), lambda: model(ids, use_cache=False)):
            with pytest.raises(KeyboardInterrupt):
                use()
        hook.remove()
        out = (model if called == "model" else model.model)(ids, use_cache=True)
        assert pressed(out)
        with pytest.raises(SessionError, match="half-way"):
            forward(model, ids[:, :1], cache)
    assert type(model(ids, use_cache=True).past_key_values) is DynamicCache


def test_two_threads_that_enter_at_once() -> None:
    model, barrier = build("llama"), threading.Barrier(4)

    def work(_: int) -> str:
        barrier.wait()
        try:
            with full()(model):
                barrier.wait()
        except SessionError as error:
            barrier.wait()
            return str(error)
        return ""

    said = together(work, 4)
    assert sum(not text for text in said) == 1 and all("already" in text for text in said if text)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("text", ["full", "snapkv(keep=8, window=4)", "kivi(bits=4, group=4, residual=4)"])
def test_train_mode_is_served(text: str) -> None:
    """A bare call keeps a press's cache in train mode too, and gradients are those of the model alone."""
    model, ids = build("llama").train().requires_grad_(True), tokens(2, 20)
    model(ids, labels=ids, use_cache=False).loss.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    for given in ({}, {"use_cache": True}):
        model.zero_grad()
        with Press.parse(text)(model):
            out = model(ids, labels=ids, **given)
        assert pressed(out)
        out.loss.backward()
        assert all(gap(p.grad, wanted[name]) < 1e-5 for name, p in model.named_parameters())


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_neox"])
def test_a_cache_that_the_model_turns_off_is_refused(family: str) -> None:
    model, ids = build(family).train(), tokens(1, 20)
    model.gradient_checkpointing_enable()
    with full()(model) as session:
        for use in (lambda: model(ids, use_cache=True), lambda: model(ids), lambda: session.prefill(ids)):
            with pytest.raises(UnsupportedError, match="without the cache"):
                use()
        assert model(ids, use_cache=False).past_key_values is None
        model.eval()
        assert type(model(ids).past_key_values) is PressCache


def test_layers_that_are_left_out_in_train_mode_are_noticed() -> None:
    model = build("opt", layerdrop=1.0).train()
    with full()(model), pytest.raises(UnsupportedError, match="without the cache"):
        model(tokens(1, 9), use_cache=True)


def test_models_of_two_threads_keep_their_masks_apart() -> None:
    """Padding of one thread's batch does not reach another's, whose forward is at the same layer."""
    model = shared("gemma3")
    rows = [tokens(2, 20, number) for number in range(SERVERS)]
    masks = [torch.ones_like(ids) for ids in rows]
    for number, mask in enumerate(masks):
        mask[1, : 3 * number] = 0
    with full()(model) as session:
        wanted = [session.prefill(ids, mask).next_logits for ids, mask in zip(rows, masks, strict=True)]
        hook = in_step(model, SERVERS)
        found = together(lambda number: session.prefill(rows[number], masks[number]).next_logits)
        hook.remove()
    assert all(gap(a, b) < 1e-5 for a, b in zip(found, wanted, strict=True))
