"""What a layer does with positions is seen on the layer: turned, without positions, or refused with the true reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from kvpress import Press, Session, leverage, streaming_llm
from kvpress.errors import UnsupportedError
from kvpress.evidence.bind import SINKS
from kvpress.evidence.rope import stay, unrotated
from tests.helpers import decode, forward
from tests.models import FAMILIES, build, shared, tokens

_SIZE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.08,
    "pad_token_id": 0,
}
_EVERY_OTHER = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 8}
_OWN = {**_EVERY_OTHER, "global_head_dim": 32, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 97}
# family -> (config, model, what differs, full layers without positions)
ODD: dict[str, tuple[str, str, dict[str, Any], set[int]]] = {
    "smollm3": ("SmolLM3Config", "SmolLM3ForCausalLM", {"no_rope_layers": [1, 0, 1, 0]}, {1, 3}),
    "cohere2": ("Cohere2Config", "Cohere2ForCausalLM", _EVERY_OTHER, {1, 3}),
    "exaone4": ("Exaone4Config", "Exaone4ForCausalLM", _EVERY_OTHER, {1, 3}),
    "phi": ("PhiConfig", "PhiForCausalLM", {"partial_rotary_factor": 0.5, "num_key_value_heads": 4}, set()),
    "gemma4": ("Gemma4TextConfig", "Gemma4ForCausalLM", _OWN, set()),  # one tensor is turned at a time
}


def odd(config: str, name: str, own: dict[str, Any]) -> PreTrainedModel:
    """A model with norms that are not all ones, as in a trained one."""
    torch.manual_seed(0)
    model: PreTrainedModel = getattr(transformers, name)(getattr(transformers, config)(**{**_SIZE, **own})).eval()
    model.requires_grad_(False)
    for path, parameter in model.named_parameters():
        if "norm" in path:
            parameter.copy_(1 + 0.5 * torch.randn_like(parameter))
    return model


def hunyuan() -> PreTrainedModel:
    return odd("HunYuanDenseV1Config", "HunYuanDenseV1ForCausalLM", {})


@pytest.fixture(params=ODD)
def family(request: pytest.FixtureRequest) -> tuple[PreTrainedModel, set[int]]:
    config, name, own, without = ODD[request.param]
    return odd(config, name, own), without


def keys_at(session: Session, position: int) -> list[Tensor]:
    """The key of one token alone at a position, from every full layer: what came before it is the same everywhere."""
    cache = session.new_cache()
    at = torch.tensor([[position]])
    session.model(torch.tensor([[7]]), past_key_values=cache, position_ids=at)
    return [layer.tail.keys.clone() for layer in cache.stores]


def test_every_layer_moves_keys_as_its_model_does(family: tuple[PreTrainedModel, set[int]]) -> None:
    model, without = family
    with streaming_llm(keep=32)(model) as session:
        cache = session.prefill(tokens(1, 5))
        for layer, here, there in zip(cache.stores, keys_at(session, 3), keys_at(session, 40), strict=True):
            moved = layer.given[SINKS](here, torch.tensor([37]))
            assert (moved - there).norm() < 1e-5 * there.norm()
            assert torch.equal(moved, here) == (layer.index in without)
        assert {i for i in session._given if session.view.rotation(i) is stay} == without


def test_logits_of_a_cache_that_is_rebuilt_at_slot_positions(family: tuple[PreTrainedModel, set[int]]) -> None:
    """streaming_llm on such a model: every kept token read anew at the position of its slot, layer by layer."""
    model, without = family
    ids, token, kept = tokens(1, 25), torch.tensor([[77]]), [*range(4), *range(25 - 12, 25)]
    with streaming_llm(keep=16)(model) as session:
        got = forward(model, token, session.prefill(ids))
        turn = session.view._moves[0]
    assert turn is not None
    dense = model(ids, use_cache=True).past_key_values
    for index, layer in enumerate(dense.layers):
        if hf_full(model, index):
            delta = torch.tensor([[slot - at for slot, at in enumerate(kept)]])
            keys = layer.keys[:, :, kept]
            # Slots count from any number: the window stands where it was read, the sinks come to it.
            layer.keys = keys if index in without else turn(keys, delta + 25 - 16)
            layer.values = layer.values[:, :, kept]
    wanted = later(model, token, dense, ids.shape[1])
    assert (got - wanted).abs().max() < 1e-4


def hf_full(model: PreTrainedModel, index: int) -> bool:
    kinds = getattr(model.config, "layer_types", None)
    return kinds is None or kinds[index] == "full_attention"


def later(model: PreTrainedModel, token: Tensor, cache: Any, position: int) -> Tensor:
    """Logits of one token at a position, which sees all of a transformers cache whose full layers are shorter."""
    out: Tensor = model(token, past_key_values=cache, position_ids=torch.tensor([[position]]), use_cache=True).logits
    return out


def test_keys_before_rope_of_layers_without_positions() -> None:
    """leverage turns cached keys back, and those of a layer without positions are as they were projected."""
    config, name, own, without = ODD["smollm3"]
    model, caught = odd(config, name, own), dict[int, Tensor]()
    with leverage(keep=0.5)(model) as session:
        hooks = [
            layer.self_attn.k_proj.register_forward_hook(lambda m, a, out, i=i: caught.__setitem__(i, out))
            for i, layer in enumerate(model.model.layers)
        ]
        cache = session.prefill(tokens(1, 23), compress=False)
        for hook in hooks:
            hook.remove()
    for layer in cache.stores:
        block = layer.block()
        wanted = caught[layer.index].unflatten(-1, (2, 16)).transpose(1, 2)
        seen = layer.evidence(block)
        assert (unrotated(seen.of(session.press.recipe.scorer), block.k, seen.rank) - wanted).abs().max() < 1e-5
        assert torch.equal(block.k, wanted) == (layer.index in without)


@pytest.mark.parametrize("text", ["streaming_llm(keep=16)", "leverage(keep=0.5)", "expected_attention(keep=0.5)"])
def test_a_norm_after_rope_is_refused(text: str) -> None:
    model = hunyuan()
    with pytest.raises(UnsupportedError, match=r"layer 0 does more to its keys or queries.* use ") as caught:
        Press.parse(text)(model).__enter__()
    assert len(str(caught.value)) < 300
    advised = {"streaming_llm(keep=16)": 'streaming_llm(keep=16, positions="keep")', "leverage(keep=0.5)": "keydiff"}
    with Press.parse(advised.get(text, "snapkv(window=4)"))(model) as session:  # what is advised works
        decode(model, session.prefill(tokens(1, 25)), tokens(1, 3))
    assert model.config._attn_implementation == "sdpa"


ROUNDED = [(family, torch.bfloat16) for family in FAMILIES if family != "opt"]
ROUNDED += [(family, dtype) for family in ("qwen3", "gpt_neox") for dtype in (torch.float16, torch.float64)]


@pytest.mark.parametrize(("family", "dtype"), ROUNDED, ids=str)
def test_rounding_is_not_taken_for_something_else(family: str, dtype: torch.dtype) -> None:
    with streaming_llm(keep=16)(build(family).to(dtype)) as session:
        assert not any(session.view.rotation(index) is stay for index in session._given)


def test_looking_leaves_no_trace_and_is_done_once() -> None:
    model = build("llama", attention_dropout=0.5).train()
    model.model.layers[1].eval()
    flags = [module.training for module in model.modules()]
    before, numbers = {name: p.clone() for name, p in model.state_dict().items()}, torch.get_rng_state()
    calls: list[int] = []
    hook = model.model.register_forward_hook(lambda *_: calls.append(1))
    hooks = [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in model.modules()]
    for _ in range(3):
        with streaming_llm(keep=16)(model):
            pass
    assert [module.training for module in model.modules()] == flags
    assert [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in model.modules()] == hooks
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert len(calls) == 1
    hook.remove()


def broken(model: PreTrainedModel) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no kernel for this")

    model.model.layers[1].register_forward_pre_hook(fail)


def elsewhere(model: PreTrainedModel) -> None:
    model.to("meta")


@pytest.mark.parametrize("harm", [broken, elsewhere])
def test_a_layer_that_cannot_be_looked_at_is_refused(harm: Callable[[PreTrainedModel], None]) -> None:
    model = build("llama")
    harm(model)
    hooks = sum(len(m._forward_pre_hooks) for m in model.modules())
    with pytest.raises(UnsupportedError, match=r"cannot be seen \(.*positions=\"keep\""), streaming_llm()(model):
        raise AssertionError("not reached")
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == hooks
    assert model.config._attn_implementation == "sdpa"


def test_weights_of_nan_are_not_taken_for_a_rotation() -> None:
    model = build("llama")
    model.model.layers[1].self_attn.k_proj.weight.fill_(torch.nan)
    with pytest.raises(UnsupportedError, match="layer 1"), streaming_llm()(model):
        raise AssertionError("not reached")


def test_models_that_share_keys_are_looked_at_too() -> None:
    """gemma3n turns one tensor at a time, and its last layers attend to keys of earlier ones."""
    with streaming_llm(keep=16)(shared("gemma3n")) as session:
        for here, there in zip(keys_at(session, 3), keys_at(session, 40), strict=True):
            assert (session.view._moves[0](here, torch.tensor([37])) - there).norm() < 1e-5 * there.norm()
        cache = session.prefill(tokens(1, 29))
        decode(session.model, cache, tokens(1, 3))
        assert int(cache.stores[0].counts().max()) == 16
