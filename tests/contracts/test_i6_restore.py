"""I6: leaving a press restores the model exactly, whatever happened inside."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from transformers.modeling_utils import PreTrainedModel as Base

from kvpress import Press, full, snapkv
from kvpress.errors import SessionError
from tests.helpers import EXACT, forward, gap, over, rollout
from tests.models import EAGER_ONLY, FAMILIES, SPECIAL, build, shared, tokens


def state(model: PreTrainedModel) -> dict[str, Any]:
    """Everything a press could have touched."""
    return {
        "names": [m.config._attn_implementation for m in model.modules() if isinstance(m, Base)],
        "config": model.config.to_dict(),
        "vars": {name: sorted(vars(m)) for name, m in model.named_modules()},
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        "forward": [m.__dict__.get("forward") for m in model.modules()],
        "generation": model.generation_config.to_dict(),
    }


@pytest.mark.parametrize("impl", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES + SPECIAL)
def test_every_family(family: str, impl: str) -> None:
    model, ids = shared(family, impl), tokens(1, 14)
    before, logits = state(model), model(ids).logits
    with snapkv(keep=0.5, window=3)(model) as session:
        assert state(model) != before
        session.prefill(ids)
    assert state(model) == before
    assert model.config._attn_implementation == ("eager" if family in EAGER_ONLY else impl)
    assert torch.equal(model(ids).logits, logits)


@over(EXACT)
def test_after_an_exception_in_the_block(press: Press) -> None:
    model = shared("llama")
    before = state(model)
    with pytest.raises(ZeroDivisionError), press(model) as session:
        raise ZeroDivisionError(session.prefill(tokens(1, 14)))
    assert state(model) == before


def test_after_an_exception_inside_a_forward() -> None:
    model = build("llama")
    before, ids = state(model), tokens(1, 14)
    wanted = model(ids).logits
    with snapkv(keep=0.5, window=3)(model) as session:
        cache = session.prefill(ids)
        broken = model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            forward(model, ids[:, :1], cache)
        broken.remove()
        with pytest.raises(SessionError, match="half-way"):
            forward(model, ids[:, :1], cache)
        assert torch.isfinite(session.prefill(ids).next_logits).all()  # type: ignore[arg-type]
    assert state(model) == before
    assert torch.equal(model(ids).logits, wanted)
    with pytest.raises(SessionError):  # neither does the broken cache work without a press
        forward(model, ids[:, :1], cache)


def test_entering_twice_is_an_error_and_leaves_the_first_alive() -> None:
    model, ids = shared("llama"), tokens(1, 21)
    before = state(model)
    with snapkv(keep=0.5, window=3)(model) as session:
        wanted = rollout(session, ids, tokens(1, 4, 1))[0]
        inside = state(model)
        for press in (full(), snapkv(keep=0.5, window=3)):
            with pytest.raises(SessionError, match="already"), press(model):
                raise AssertionError("not reached")
        assert state(model) == inside
        assert torch.equal(rollout(session, ids, tokens(1, 4, 1))[0], wanted)
    assert state(model) == before


def test_one_after_the_other() -> None:
    model, ids = shared("llama"), tokens(1, 21)
    results = []
    for press in (full(), snapkv(keep=0.3, window=3), full()):
        with press(model) as session:
            results.append(rollout(session, ids, tokens(1, 4, 1))[0])
    assert torch.equal(results[0], results[2]) and not torch.equal(results[0], results[1])


def test_a_closed_session_says_so() -> None:
    with full()(shared("llama")) as session:
        cache = session.prefill(tokens(1, 5))
    for call in (lambda: session.prefill(tokens(1, 5)), lambda: session.compress(cache)):
        with pytest.raises(SessionError, match="ended"):
            call()


def test_two_models_in_two_threads() -> None:
    """Each sees its own press, one leaves early, and a third model runs without any."""
    models = [build("llama"), build("gemma3")]
    ids, follow = tokens(2, 25), tokens(2, 9, 1)
    presses = [Press.parse("h2o(keep=0.4)"), Press.parse("snapkv(keep=0.4, window=4)")]
    wanted = []
    for model, press in zip(models, presses, strict=True):
        with press(model) as session:
            wanted.append(rollout(session, ids, follow)[0])
    plain = forward(shared("qwen3"), ids, None)
    gate, found, errors = threading.Barrier(3), {}, []

    def work(number: int) -> None:
        try:
            for _ in range(4):
                with presses[number](models[number]) as session:
                    gate.wait()
                    found[number] = rollout(session, ids, follow)[0]
        except BaseException as error:
            errors.append(error)
            gate.abort()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        gate.wait()
        assert gap(forward(shared("qwen3"), ids, None), plain) == 0
    for thread in threads:
        thread.join()
    assert not errors
    assert all(gap(found[number], wanted[number]) < 3e-5 for number in range(2))


def test_saved_model_does_not_know_about_the_press(tmp_path: Any) -> None:
    model = build("llama")
    with full()(model):
        assert "kvpress" not in model.config.to_json_string()
        model.save_pretrained(tmp_path)
    assert "kvpress" not in (tmp_path / "config.json").read_text()
