"""I8: what cannot be served exactly is refused when the press is entered or the cache is given, with what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers import DynamicCache, PreTrainedModel, StaticCache

from kvpress import Press, PressCache, full, kivi, snapkv
from kvpress.errors import CacheFileError, CropError, KVPressError, PressConflictError, SessionError, UnsupportedError
from kvpress.hf import attention as interface
from kvpress.hf.model import fingerprint
from kvpress.session import session as session_module
from tests.helpers import decode, forward
from tests.models import build, shared, tokens

_SIZE = {"vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def deepseek() -> PreTrainedModel:
    config = transformers.DeepseekV3Config(
        **_SIZE,
        num_key_value_heads=4,
        intermediate_size=64,
        moe_intermediate_size=32,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        kv_lora_rank=16,
        q_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=16,
    )
    return transformers.DeepseekV3ForCausalLM(config)


def falcon() -> PreTrainedModel:
    return transformers.FalconForCausalLM(transformers.FalconConfig(**_SIZE))


def gptj() -> PreTrainedModel:
    config = transformers.GPTJConfig(vocab_size=97, n_embd=64, n_layer=2, n_head=4, rotary_dim=8)
    return transformers.GPTJForCausalLM(config)


def t5() -> PreTrainedModel:
    config = transformers.T5Config(vocab_size=97, d_model=64, d_kv=16, d_ff=64, num_layers=2, num_heads=4)
    return transformers.T5ForConditionalGeneration(config)


def only_sliding() -> PreTrainedModel:
    return build("mistral", sliding_window=8)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (deepseek, "latent"),
        (falcon, "attn_implementation"),
        (gptj, "attn_implementation"),
        (t5, "decoder-only"),
        (only_sliding, "no full-attention"),
        (lambda: torch.nn.Linear(2, 2), "Linear"),
    ],
    ids=["deepseek_v3", "falcon", "gptj", "t5", "only sliding", "no model"],
)
@pytest.mark.parametrize("press", ["full", "h2o(keep=0.5)", "snapkv(keep=0.5) | kivi"])
def test_models(make: Any, word: str, press: str) -> None:
    model = make()
    with pytest.raises(UnsupportedError, match=word), Press.parse(press)(model):
        raise AssertionError("not reached")


_TINY = {**_SIZE, "intermediate_size": 80, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.08}


def diffllama() -> PreTrainedModel:
    """Splits the values it has cached, and attends to each half."""
    return transformers.DiffLlamaForCausalLM(transformers.DiffLlamaConfig(**_TINY)).eval()


def jetmoe() -> PreTrainedModel:
    """Repeats the keys and values it has cached, once for each expert."""
    own = {"kv_channels": 16, "num_local_experts": 4, "num_experts_per_tok": 2}
    return transformers.JetMoeForCausalLM(transformers.JetMoeConfig(**_TINY, **own)).eval()


def doge() -> PreTrainedModel:
    """Makes a mask of its own from the values it has cached."""
    return transformers.DogeForCausalLM(transformers.DogeConfig(**_TINY, keep_window_size=16)).eval()


@pytest.mark.parametrize("text", ["full", "h2o(keep=16)", "int8", "snapkv(keep=1.0)", "streaming_llm(keep=16)"])
@pytest.mark.parametrize(
    ("make", "words"),
    [(diffllama, "changes values"), (jetmoe, "keys"), (doge, "a mask of its own")],
    ids=["diffllama", "jetmoe", "doge"],
)
def test_attention_that_is_not_over_what_is_cached(make: Any, words: str, text: str) -> None:
    """Refused in the first forward at the latest, and the model is as before."""
    torch.manual_seed(0)
    model, ids = make(), tokens(1, 30)
    wanted = model(ids).logits
    with pytest.raises(UnsupportedError, match=words), Press.parse(text)(model) as session:
        forward(model, ids, session.new_cache())
    assert torch.equal(model(ids).logits, wanted)
    with pytest.raises(UnsupportedError, match=words), Press.parse(text)(model):
        model.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=0)


@pytest.mark.parametrize("text", ["full", "h2o(keep=16)"])
@pytest.mark.parametrize("family", ["llama", "gemma3n"])
def test_attention_that_runs_twice_over_one_key(family: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the values as they were cached: only the second call tells. Layers that share keys do it by right."""
    attention = interface._attention

    def twice(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **more: Any) -> Any:
        attention(module, query, key, value, *rest, **more)
        return attention(module, query * 0.5, key, value, *rest, **more)

    with Press.parse(text)(shared(family)) as session:
        forward(session.model, tokens(1, 30), session.new_cache())
    monkeypatch.setattr(interface, "_attention", twice)
    with Press.parse(text)(build(family)) as session, pytest.raises(UnsupportedError, match="more than once"):
        forward(session.model, tokens(1, 30), session.new_cache())


@pytest.mark.parametrize("change", [lambda v: v * 1.0, lambda v: v.contiguous().clone(), lambda v: v[:, [1, 0]]])
def test_values_that_are_not_the_ones_that_were_cached(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    attention = interface._attention

    def changed(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **more: Any
    ) -> Any:
        return attention(module, query, key, change(value), *rest, **more)

    monkeypatch.setattr(interface, "_attention", changed)
    with full()(build("llama")) as session, pytest.raises(UnsupportedError, match="LlamaAttention changes values"):
        forward(session.model, tokens(1, 30), session.new_cache())


def quantized() -> Any:
    class QuantizedCache(DynamicCache):
        """Stands for transformers' own, whose back-ends are not installed here."""

    return QuantizedCache()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda m: StaticCache(config=m.config, max_cache_len=64), "StaticCache.*new_cache"),
        (lambda m: quantized(), "QuantizedCache.*new_cache"),
        (lambda m: DynamicCache(config=m.config, offloading=True), "DynamicCache.*new_cache"),
        (lambda m: m(tokens(1, 6)).past_key_values, "DynamicCache.*prefill"),
        (lambda m: DynamicCache(config=m.config), "DynamicCache.*new_cache"),
    ],
    ids=["static", "quantized", "offloading", "not empty", "empty"],
)
def test_caches_of_the_user(make: Any, words: str) -> None:
    model = build("llama")
    cache = make(model)
    with full()(model), pytest.raises(UnsupportedError, match=words):
        forward(model, tokens(1, 5), cache)


def test_generate_with_a_cache_of_the_user() -> None:
    """Filling it would leave it dense, and leaving it empty would forget what was read."""
    model = shared("llama")
    with snapkv(keep=0.3, window=3)(model), pytest.raises(UnsupportedError, match=r"DynamicCache.*new_cache"):
        model.generate(tokens(1, 30), past_key_values=DynamicCache(config=model.config), max_new_tokens=3)


def test_generate_without_a_cache_has_nothing_to_press() -> None:
    model = build("llama")
    with snapkv(window=3)(model):
        with pytest.raises(UnsupportedError, match="use_cache=False"):
            model.generate(tokens(1, 30), use_cache=False, max_new_tokens=3)
        model.generation_config.use_cache = False
        with pytest.raises(UnsupportedError, match="use_cache=False"):
            model.generate(tokens(1, 30), max_new_tokens=3)


@pytest.mark.parametrize("press", ["full", "h2o", "snapkv | kivi(group=4)"])
def test_rows_that_the_cache_does_not_have(press: str) -> None:
    model, ids = shared("llama"), tokens(3, 29)
    with Press.parse(press)(model) as session:
        cache, one = session.prefill(ids), session.prefill(ids[:1])
        for new in (1, 5):
            with pytest.raises(SessionError, match=r"holds 3 rows and 1 were given. cache.fork\(1\)"):
                session.prefill(ids[:1, :new], cache=cache)
        with pytest.raises(SessionError, match="holds 1 rows and 3 were given"):
            forward(model, ids[:, :1], one)
        forward(model, ids[:, :1], cache)  # a refusal leaves the cache as it was
        assert cache.get_seq_length() == 30


def test_masks_of_another_shape_and_padding_on_the_right() -> None:
    model, ids = shared("llama"), tokens(2, 29)
    right = torch.ones(2, 29, dtype=torch.long)
    right[1, 20:] = 0
    with snapkv(keep=0.5, window=4)(model) as session:
        for shape in ((2, 40), (2, 20), (1, 29)):
            with pytest.raises(SessionError, match="attention_mask has shape"):
                session.prefill(ids, torch.ones(shape, dtype=torch.long))
        with pytest.raises(SessionError, match="padding_side"):
            session.prefill(ids, right)
        with pytest.raises(UnsupportedError, match="padding_side"):
            model(ids, attention_mask=right, use_cache=True)


def test_attentions_are_not_there_to_be_given() -> None:
    model = build("llama", impl="eager")
    with full()(model), pytest.raises(UnsupportedError, match="output_attentions"):
        model.generate(tokens(1, 9), output_attentions=True, return_dict_in_generate=True, max_new_tokens=2)


def test_a_cache_of_another_model_of_the_same_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = build("llama"), build("llama", initializer_range=0.07)
    with full()(model) as session:
        cache = session.prefill(tokens(1, 9))
    with full()(other), pytest.raises(SessionError, match="filled by another model"):
        forward(other, tokens(1, 1), cache)
    compared: list[Any] = []
    monkeypatch.setattr(session_module, "fingerprint", lambda model: compared.append(model) or fingerprint(model))
    with full()(build("llama")) as session:  # equal weights are the same model, which is found out once
        session.prefill(tokens(1, 3), cache=cache)
        decode(session.model, cache, tokens(1, 5))
    assert len(compared) == 2


def test_a_cache_that_is_not_ours() -> None:
    with full()(shared("llama")) as session:
        for call in (session.report, session.compress, lambda c: session.prefill(tokens(1, 3), cache=c)):
            with pytest.raises(SessionError, match=r"DynamicCache.*new_cache"):
                call(DynamicCache())


def test_crop_of_sliding_layers_changes_nothing_where_it_cannot() -> None:
    with full()(shared("gemma3")) as session:
        cache = session.prefill(tokens(1, 29))
        with pytest.raises(CropError, match="sliding or linear"):
            cache.crop(-4)
        assert {layer.get_seq_length() for layer in cache.layers} == {29}
        short = session.prefill(tokens(1, 7))
        short.crop(-2)
        assert {layer.get_seq_length() for layer in short.layers} == {5}


@pytest.mark.parametrize("word", ["static", "offloaded_static", "offloaded"])
def test_cache_implementation(word: str) -> None:
    model = build("llama")
    with full()(model), pytest.raises(KVPressError, match="cache_implementation"):
        model.generate(tokens(1, 7), cache_implementation=word, max_new_tokens=3)


def test_cache_outside_its_session() -> None:
    model = shared("llama")
    with full()(model) as session:
        cache = session.prefill(tokens(1, 9))
    with pytest.raises(SessionError, match="Enter the press again"):
        forward(model, tokens(1, 1), cache)
    with full()(model):  # and entering again is enough
        forward(model, tokens(1, 1), cache)
    assert cache.get_seq_length() == 10


def test_cache_of_another_press_and_of_another_model() -> None:
    model = shared("llama")
    with full()(model) as session:
        cache = session.prefill(tokens(1, 9))
    with snapkv()(model), pytest.raises(SessionError, match="snapkv"):
        forward(model, tokens(1, 1), cache)
    other = build("llama", num_hidden_layers=2)
    with full()(other), pytest.raises(SessionError, match="3 layers, the model 2"):
        forward(other, tokens(1, 1), cache)


def test_masks_and_rules_that_a_press_cannot_serve() -> None:
    model, ids = shared("llama"), tokens(1, 9)
    with full()(model) as session:
        with pytest.raises(UnsupportedError, match="2-D mask"):
            model(ids, attention_mask=torch.zeros(1, 1, 9, 9), use_cache=True)
        with pytest.raises(SessionError, match="at least one token"):
            session.prefill(ids[:, :0])
        with pytest.raises(SessionError, match="chunk"):
            session.prefill(ids, chunk=0)


def test_attention_dropout_needs_eval() -> None:
    model = build("llama", attention_dropout=0.5).train()
    with full()(model) as session, pytest.raises(UnsupportedError, match="eval"):
        model(tokens(1, 5), past_key_values=session.new_cache(), use_cache=True)


def test_attention_exchanged_inside_the_block() -> None:
    model = build("llama")
    with full()(model):
        model.set_attn_implementation("eager")
        with pytest.raises(KVPressError):
            model(tokens(1, 5), use_cache=True)
    assert model.config._attn_implementation == "sdpa"


def test_packed_sequences_without_a_cache_run_as_ever() -> None:
    model, ids, at = shared("llama"), tokens(1, 9), torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    wanted = model(ids, position_ids=at, use_cache=False).logits
    assert not torch.equal(wanted, model(ids, use_cache=False).logits)
    with full()(model):
        assert torch.equal(model(ids, position_ids=at, use_cache=False).logits, wanted)


def test_head_dimension_that_does_not_divide() -> None:
    model = build("llama", head_dim=20, hidden_size=80)
    with pytest.raises(PressConflictError, match="group=4"), kivi(group=8)(model):
        raise AssertionError("not reached")
    with kivi(group=4, residual=4)(model) as session:
        session.prefill(tokens(1, 30))


@pytest.mark.parametrize("press", ["h2o(keep=0.5)", "snapkv(keep=0.5, window=3)", "random(keep=0.5) | kivi(group=4)"])
@pytest.mark.parametrize("way", ["prompt lookup", "assistant"])
def test_tokens_that_are_taken_back_under_a_press_that_evicts(press: str, way: str) -> None:
    model, ids = build("llama"), tokens(1, 40)
    how: dict[str, Any] = {"prompt_lookup_num_tokens": 3} if way == "prompt lookup" else {}
    if way == "assistant":
        how["assistant_model"] = build("llama", num_hidden_layers=1)
    with Press.parse(press)(model), pytest.raises(UnsupportedError, match="take guessed tokens back"):
        model.generate(ids, max_new_tokens=4, do_sample=False, **how)


def test_a_file_names_the_model_that_filled_the_cache(tmp_path: Any) -> None:
    model, other = build("llama"), build("llama", initializer_range=0.07)
    with full()(model) as session:
        cache = session.prefill(tokens(1, 9))
    with pytest.raises(CacheFileError, match="another model"):
        cache.save(tmp_path / "cache.safetensors", other)
    assert not list(tmp_path.iterdir())
    cache.save(tmp_path / "cache.safetensors", model)
    loaded = PressCache.load(tmp_path / "cache.safetensors", model)
    with pytest.raises(CacheFileError, match="another model"):
        loaded.save(tmp_path / "again.safetensors", other)
