"""What kvpress/hf/ takes for granted about transformers, a test each: an upgrade that breaks one names it."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
import torch
import transformers.cache_utils as cache_utils
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function, create_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kvpress import criticalkv, full, snapkv
from kvpress.cache.cache import PressCache
from kvpress.cache.layer import TAG, StoreLayer
from kvpress.errors import SessionError, UnsupportedError
from kvpress.evidence.output import Projection
from kvpress.hf import attention as interface
from kvpress.hf import model as facts
from tests.models import EAGER_ONLY, FAMILIES, SPECIAL, build, shared, tokens


def test_names_are_registered_on_entry_and_found_by_models() -> None:
    interface.register()
    interface.register()  # idempotent
    assert ALL_ATTENTION_FUNCTIONS[interface.NAME] is interface._attention
    assert ALL_MASK_ATTENTION_FUNCTIONS[interface.NAME] is interface._mask
    assert ALL_ATTENTION_FUNCTIONS.get_interface(interface.NAME, None) is interface._attention
    for word in ("flash", "sdpa", "flex", "paged", "eager"):  # names that transformers treats in their own way
        assert word not in interface.NAME
    assert AttentionInterface._global_mapping is not AttentionMaskInterface._global_mapping


@pytest.mark.parametrize("family", FAMILIES + SPECIAL)
def test_the_key_object_reaches_the_attention_function(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`update` tags a tensor; the model hands that very object to attention, once for every full layer."""
    model, given, found = shared(family), [], []
    update, attention = StoreLayer.update, interface._attention

    def record_update(self: StoreLayer, *args: Any, **kwargs: Any) -> Any:
        keys, values = update(self, *args, **kwargs)
        given.append((self.index, id(keys)))
        return keys, values

    def record_attention(module: Any, query: Any, key: Any, *args: Any, **kwargs: Any) -> Any:
        layer = getattr(key, TAG, None)
        if layer is not None and layer.staged is not None:
            found.append((layer.index, id(key)))
        return attention(module, query, key, *args, **kwargs)

    monkeypatch.setattr(StoreLayer, "update", record_update)
    with full()(model) as session:
        AttentionInterface.register(interface.NAME, record_attention)
        try:
            session.prefill(tokens(1, 9))
        finally:
            AttentionInterface.register(interface.NAME, attention)
    wanted = [i for i, kind in enumerate(facts.layer_types(model)[0]) if kind == "full_attention"]
    assert given == found and [index for index, _ in found] == wanted


def test_arguments_of_the_attention_function() -> None:
    """Everything after the mask comes by keyword, under the names facts.py reads."""
    seen: dict[str, Any] = {}

    def record(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        seen.update(kwargs)
        return interface._base_attention(module, "eager")(module, query, key, value, mask, **kwargs)

    AttentionInterface.register("tests_record", record)
    AttentionMaskInterface.register("tests_record", ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    try:
        for family, names in (("llama", {"scaling", "dropout"}), ("gemma2", {"softcap"}), ("gpt_oss", {"s_aux"})):
            seen.clear()
            model = build(family)
            model.config._attn_implementation_internal = "tests_record"
            model(tokens(1, 5))
            assert names <= set(seen)
            assert seen["scaling"] == (model.model.layers[0].self_attn.scaling)
    finally:
        AttentionInterface._global_mapping.pop("tests_record")
        AttentionMaskInterface._global_mapping.pop("tests_record")


def test_mask_function_is_called_with_the_keywords_hf_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = shared("gemma3"), []
    interface.register()
    with full()(model) as session:
        mask_function = interface._mask

        def record(**kwargs: Any) -> Any:
            calls.append(kwargs)
            return mask_function(**kwargs)

        AttentionMaskInterface.register(interface.NAME, record)
        try:
            session.prefill(tokens(2, 9), torch.ones(2, 9, dtype=torch.long))
        finally:
            AttentionMaskInterface.register(interface.NAME, mask_function)
    plain = [c for c in calls if c["mask_function"] is causal_mask_function]
    other = [c for c in calls if c["mask_function"] is not causal_mask_function]
    assert len(plain) == len(other) == 1  # one for full layers, one for sliding layers
    for call in calls:
        assert {"attention_mask", "kv_length", "config", "mask_function"} <= set(call)
        assert call["config"] is model.config and call["kv_length"] == 9
    assert other[0].get("local_size") == 8 and plain[0].get("local_size") is None
    assert plain[0]["attention_mask"].shape == (2, 9) and plain[0]["attention_mask"].dtype == torch.bool


def test_no_square_mask_is_built_for_full_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a (B, 1, Q, K) mask was built")

    model = shared("llama")
    with full()(model) as session:
        cache = session.prefill(tokens(1, 9))
        monkeypatch.setattr(interface, "_base_mask", never)
        for count in (6, 1):
            assert torch.isfinite(model(tokens(1, count), past_key_values=cache).logits).all()
    assert cache.get_seq_length() == 16


def test_layer_types_come_with_the_arguments_of_their_layers() -> None:
    for family in FAMILIES + SPECIAL:
        types, arguments = facts.layer_types(shared(family))
        assert len(types) == len(arguments) > 0 and "full_attention" in types
        for kind, kwargs in zip(types, arguments, strict=True):
            assert kind in cache_utils.DYNAMIC_LAYER_TYPE_MAPPING
            facts.own_layer(kind, kwargs)
    assert facts.layer_types(shared("gemma3"))[0] == ["sliding_attention", "full_attention", "full_attention"]
    assert facts.own_layer("sliding_attention", facts.layer_types(shared("gemma3"))[1][0]).sliding_window == 8
    assert facts.layer_types(shared("qwen3_next"))[0][0] == "linear_attention"
    assert facts.shares_keys(shared("gemma3n")) and not facts.shares_keys(shared("gemma3"))


def test_own_layers_are_those_a_dynamic_cache_would_have() -> None:
    for family in FAMILIES + SPECIAL:
        model = shared(family)
        own = DynamicCache(config=model.config).layers
        ours = PressCache(full(), *facts.layer_types(model), model).layers
        assert len(own) == len(ours)
        for a, b in zip(own, ours, strict=True):
            assert type(a) is type(b) or (isinstance(b, StoreLayer) and type(a) is cache_utils.DynamicLayer)


def test_implementation_lives_in_one_attribute_that_is_not_saved() -> None:
    model = build("llama")
    assert model.config._attn_implementation_internal == model.config._attn_implementation == "sdpa"
    with full()(model):
        assert model.config._attn_implementation == interface.NAME
        assert interface.NAME not in json.dumps(model.config.to_dict(), default=str)
    assert model.config._attn_implementation_internal == "sdpa"


def test_generate_takes_the_cache_of_the_output() -> None:
    model = shared("llama")
    with snapkv(keep=0.5, window=4)(model):
        out = model.generate(tokens(1, 12), max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    assert isinstance(out.past_key_values, PressCache) and out.past_key_values.get_seq_length() == 14


def test_positions_are_counted_from_the_length_the_cache_reports() -> None:
    model, seen = shared("llama"), []
    hook = model.model.layers[0].register_forward_pre_hook(
        lambda m, a, kwargs: seen.append(kwargs["position_ids"].tolist()), with_kwargs=True
    )
    with snapkv(keep=0.3, window=3)(model) as session:
        cache = session.prefill(tokens(1, 20))
        model(tokens(1, 3), past_key_values=cache)
    hook.remove()
    assert seen[-1] == [[20, 21, 22]]
    assert int(cache.stores[0].counts().max()) == 6 + 3


@pytest.mark.parametrize("family", FAMILIES + SPECIAL)
def test_what_attention_gives_goes_through_one_linear_layer(family: str) -> None:
    """Found by name in each full layer, and given what the attention function returned, or that behind a gate."""
    model, given = shared(family), []
    projections = facts.output_projections(model)
    full_layers = [i for i, kind in enumerate(facts.layer_types(model)[0]) if kind == "full_attention"]
    assert list(projections) == full_layers
    hooks = []
    for index, projection in projections.items():
        linear = projection.linear()
        assert type(linear) is torch.nn.Linear
        hooks.append(linear.register_forward_pre_hook(lambda m, args, i=index: given.append((i, args[0]))))
    expected, expect = [], Projection.expect

    class Recorded(Projection):
        def expect(self, out: torch.Tensor) -> None:
            expected.append(out)
            expect(self, out)

    with (criticalkv() | snapkv(keep=0.5, window=3))(model) as session:
        for projection in session.view.projections.values():
            projection.__class__ = Recorded
        session.prefill(tokens(2, 9))
    for hook in hooks:
        hook.remove()
    assert [index for index, _ in given] == full_layers
    for out, (_, x) in zip(expected, given, strict=True):
        same = x.reshape(out.shape)
        assert torch.equal(same, out) or (family == "qwen3_next" and bool((same.abs() <= out.abs()).all()))


@pytest.mark.parametrize("family", FAMILIES)
def test_eager_attention_is_a_function_of_the_module(family: str) -> None:
    model = shared(family)
    attention = next(m for m in model.modules() if type(m).__name__.endswith("Attention"))
    function = interface._base_attention(attention, "eager")
    assert list(inspect.signature(function).parameters)[:5] == ["module", "query", "key", "value", "attention_mask"]
    assert family in EAGER_ONLY or interface._base_attention(attention, "sdpa") is ALL_ATTENTION_FUNCTIONS["sdpa"]


def test_sliding_layers_run_as_they_ever_did() -> None:
    """They are answered by the user's implementation, with the mask it builds, from transformers' own cache layer."""
    model, ids = shared("gemma3"), tokens(1, 25)
    before = model(ids, use_cache=True).past_key_values.layers[0].keys
    with snapkv(keep=0.3, window=3)(model) as session:
        cache = session.prefill(ids)
    assert type(cache.layers[0]) is cache_utils.DynamicSlidingWindowLayer
    assert torch.equal(cache.layers[0].keys, before)


def test_hooks_of_the_model_see_its_keywords_and_failures() -> None:
    assert {"with_kwargs", "always_call"} <= set(inspect.signature(torch.nn.Module.register_forward_hook).parameters)


def test_a_mask_with_a_rule_of_its_own_is_refused() -> None:
    """Image blocks and packed rows come as another mask function."""
    model = shared("llama")
    embeds = torch.zeros(1, 5, 64)
    with full()(model) as session:
        cache = session.new_cache()
        interface.set_pressed(True)
        with pytest.raises(UnsupportedError, match="packed sequences or image blocks"):
            create_causal_mask(
                config=model.config, inputs_embeds=embeds, attention_mask=None, past_key_values=cache,
                or_mask_function=lambda b, h, q, k: q >= 0,
            )  # fmt: skip
        interface.set_pressed(False)


def test_the_name_without_a_session_is_explained() -> None:
    interface.register()
    model = build("llama")
    model.config._attn_implementation_internal = interface.NAME
    with pytest.raises(SessionError, match="no press is entered"):
        model(tokens(1, 5))
