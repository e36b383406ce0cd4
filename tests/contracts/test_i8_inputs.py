"""I8 for what models are given beside tokens, and for models inside something else: true reasons, advice that runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from kvpress import PRESETS, Press, full, kvzip, snapkv
from kvpress.errors import SessionError, UnsupportedError
from kvpress.hf.causal import only_causal
from kvpress.hf.inputs import check_text, placeholders
from tests.helpers import gap
from tests.models import build, shared, tokens

IMAGE = 90  # the token that stands for a piece of an image
TEXT = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "initializer_range": 0.08,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 96,
}  # fmt: skip
EYES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
KVZIP = kvzip(keep=0.4, sinks=1, chunk=9)


def quiet(model: PreTrainedModel) -> PreTrainedModel:
    model.requires_grad_(False)
    model.generation_config.eos_token_id = None
    return model.eval()


def llava() -> PreTrainedModel:
    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        text_config={**TEXT, "model_type": "llama"},
        vision_config={**EYES, "model_type": "clip_vision_model", "projection_dim": 32},
        image_token_index=IMAGE,
        vision_feature_layer=-1,
    )
    return quiet(transformers.LlavaForConditionalGeneration(config))


def gemma3() -> PreTrainedModel:
    torch.manual_seed(0)
    kinds = ["sliding_attention", "full_attention", "full_attention"]
    config = transformers.Gemma3Config(
        text_config={**TEXT, "sliding_window": 8, "layer_types": kinds, "query_pre_attn_scalar": 16},
        vision_config={**EYES, "model_type": "siglip_vision_model"},
        mm_tokens_per_image=4,
        image_token_index=IMAGE,
        boi_token_index=91,
        eoi_token_index=92,
    )
    return quiet(transformers.Gemma3ForConditionalGeneration(config))


def prompt(length: int = 30, image: slice | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(2, 85, (1, length), generator=generator)
    if image is not None:
        ids[:, image] = IMAGE
    return ids


def answer(model: PreTrainedModel, press: Press | None, ids: Tensor, **given: Any) -> Tensor:
    """(5, V) logits of five tokens generated."""
    options = {"max_new_tokens": 5, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    if press is None:
        return torch.cat(model.generate(ids, **options, **given).logits)
    with press(model):
        return torch.cat(model.generate(ids, **options, **given).logits)


def test_an_image_is_not_read_again_as_text() -> None:
    """transformers hands it on as mm_encoder_outputs, and its places in the prompt are tokens."""
    model, seen = llava(), torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    ids = prompt(40, slice(5, 21))
    with pytest.raises(UnsupportedError, match=r"reads the prompt a second time.*too. Use a press that reads"):
        answer(model, KVZIP, ids, pixel_values=seen)
    with pytest.raises(UnsupportedError, match="token 90 in it is the model's image_token"):
        answer(model, KVZIP, ids)
    for press in ("snapkv(keep=0.5, window=5)", "h2o(keep=0.5)"):  # what the message advises
        assert torch.isfinite(answer(model, Press.parse(press), ids, pixel_values=seen)).all()
    assert gap(answer(model, full(), ids, pixel_values=seen), answer(model, None, ids, pixel_values=seen)) < 1e-4


def test_text_alone_is_read_again_on_a_model_that_sees() -> None:
    for model in (llava(), gemma3()):
        everything = kvzip(keep=400, sinks=1, chunk=9)
        assert gap(answer(model, everything, prompt()), answer(model, None, prompt())) < 1e-4
        with KVZIP(model) as session:
            assert session.prefill(prompt()).stores[0].counts().sum() < 60


@pytest.mark.parametrize(
    "other",
    ["pixel_values", "inputs_embeds", "input_features", "image_embeds", "encoder_outputs", "anything_new"],
)
def test_only_what_is_known_to_be_text_is_read_again(other: str) -> None:
    config = transformers.LlamaConfig()
    given: dict[str, Any] = {"input_ids": prompt(), "use_cache": True, "logits_to_keep": 1, "labels": prompt()}
    check_text(KVZIP, {**given, other: None}, config)
    check_text(KVZIP, {**given, other: {"image": None, "video": {}}}, config)
    for value in (torch.zeros(1), {"image": torch.zeros(1)}, [torch.zeros(1)], object()):
        with pytest.raises(UnsupportedError, match=f"has {other} too"):
            check_text(KVZIP, {**given, other: value}, config)
    with pytest.raises(UnsupportedError, match="needs input_ids"):
        check_text(KVZIP, {"inputs_embeds": torch.zeros(1, 3, 4)}, config)


def test_tokens_that_stand_for_something_else() -> None:
    assert set(placeholders(llava().config)) == {IMAGE}
    assert {IMAGE, 91, 92} <= set(placeholders(gemma3().config))
    assert placeholders(shared("llama").config) == {}


def test_types_of_zero_are_text_where_the_model_says_so() -> None:
    """Gemma makes blocks of the tokens of type 1; where there are none, its mask is the causal one."""
    model, ids = gemma3(), prompt()
    zeros, some = torch.zeros_like(ids), torch.zeros_like(ids)
    some[:, 4:9] = 1
    plain = answer(model, None, ids)
    assert gap(answer(model, full(), ids, token_type_ids=zeros), plain) < 1e-4
    assert gap(answer(model, snapkv(keep=400, window=4), ids, token_type_ids=zeros), plain) < 1e-4
    assert torch.equal(answer(model, KVZIP, ids, token_type_ids=zeros), answer(model, KVZIP, ids))
    with pytest.raises(UnsupportedError, match="its own rule"):
        answer(model, full(), ids, token_type_ids=some)
    with pytest.raises(UnsupportedError, match="token_type_ids too"):
        answer(model, KVZIP, ids, token_type_ids=some)


def test_types_that_have_embeddings_are_no_text() -> None:
    config = transformers.GPT2Config(vocab_size=97, n_embd=64, n_layer=2, n_head=4, n_positions=128)
    model = quiet(transformers.GPT2LMHeadModel(config))
    zeros = torch.zeros_like(prompt())
    with pytest.raises(UnsupportedError, match="token_type_ids too"):
        answer(model, KVZIP, prompt(), token_type_ids=zeros)
    assert (
        gap(answer(model, full(), prompt(), token_type_ids=zeros), answer(model, None, prompt(), token_type_ids=zeros))
        < 1e-4
    )


@pytest.mark.parametrize(("row", "query", "slot", "same"), [(0, 0, 0, True), (1, 3, 5, False), (1, 8, 2, False)])
def test_a_rule_is_compared_with_the_causal_one(
    row: int, query: int, slot: int, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rule(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        causal = k <= q
        return torch.where((batch == row) & (q == query + 4) & (k == slot), ~causal | same, causal)

    monkeypatch.setattr("kvpress.session.masks._TILE", 20)  # one query at a time
    sizes = {"batch_size": 2, "q_length": 9, "kv_length": 13, "q_offset": 4, "kv_offset": 0}
    assert only_causal({"mask_function": rule, **sizes}) is same


def falcon_h1() -> PreTrainedModel:
    config = transformers.FalconH1Config(
        **TEXT, mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_n_groups=1
    )
    return transformers.FalconH1ForCausalLM(config)


def mllama() -> PreTrainedModel:
    eyes = {**EYES, "num_global_layers": 1, "vision_output_dim": 64, "intermediate_layers_indices": [0]}
    eyes |= {"attention_heads": 2, "max_num_tiles": 1, "supported_aspect_ratios": [[1, 1]]}
    text = {**TEXT, "cross_attention_layers": [1]}
    config = transformers.MllamaConfig(text_config=text, vision_config=eyes, image_token_index=IMAGE)
    return transformers.MllamaForConditionalGeneration(config)


def test_reasons_are_true() -> None:
    with pytest.raises(UnsupportedError, match="a recurrent state beside its keys") as caught, full()(falcon_h1()):
        raise AssertionError("not reached")
    assert "does not grow" not in str(caught.value)
    with pytest.raises(UnsupportedError, match="cross-attention"), full()(mllama()):
        raise AssertionError("not reached")
    with (
        pytest.raises(UnsupportedError, match="sliding windows do not grow"),
        full()(build("mistral", sliding_window=8)),
    ):
        raise AssertionError("not reached")


def test_attention_that_is_set_inside_the_block() -> None:
    model, ids = build("llama"), tokens(1, 20)
    with full()(model) as session:
        cache = session.prefill(ids)
        model.set_attn_implementation("eager")
        with pytest.raises(SessionError, match=r"was set to 'eager' after a press was entered. Call set_attn_impl"):
            model(ids)
        assert not cache.broken
    model.set_attn_implementation("eager")  # before entering, as the message advises
    with full()(model):
        model(ids)
    assert model.config._attn_implementation == "eager"


class Wrapper(torch.nn.Module):
    """Stands for what packages put around a model: peft, DDP."""

    def __init__(self, inner: torch.nn.Module, name: str) -> None:
        super().__init__()
        self._inner = inner
        if name == "get_base_model":
            self.get_base_model = lambda: inner
        else:
            setattr(self, name, inner)


def test_a_wrapped_model_is_named_with_the_way_to_it() -> None:
    model, ids = build("llama"), tokens(1, 20)
    wrapped = {
        "get_base_model()": Wrapper(model, "get_base_model"),
        "_orig_mod": torch.compile(model, backend="eager"),
        "module": Wrapper(model, "module"),
        "module._orig_mod": Wrapper(torch.compile(model, backend="eager"), "module"),
    }
    for way, outside in wrapped.items():
        with pytest.raises(UnsupportedError) as caught, full()(outside):
            raise AssertionError("not reached")
        assert f"with press(model.{way}), and call that" in str(caught.value)
        inside = eval(f"model.{way}", {"model": outside})
        with snapkv(keep=0.4, window=4)(inside) as session:
            assert int(session.prefill(ids).stores[0].counts().max()) == 8
            assert inside.generate(ids, max_new_tokens=2).shape == (1, 22)
    with pytest.raises(UnsupportedError, match=r"transformers model, not on Linear.$"), full()(torch.nn.Linear(2, 2)):
        raise AssertionError("not reached")


def test_an_assistant_that_would_forget_is_refused_at_once() -> None:
    model, helper, ids = shared("llama"), build("llama", num_hidden_layers=1), tokens(1, 20)
    alone = model.generate(ids, max_new_tokens=6, do_sample=False)
    calls: list[int] = []
    handle = helper.register_forward_pre_hook(lambda *_: calls.append(1))
    with snapkv(keep=0.5, window=4)(helper), pytest.raises(UnsupportedError, match=r"guessed tokens.*\(.+\)") as caught:
        model.generate(ids, assistant_model=helper, max_new_tokens=6, do_sample=False)
    assert not calls
    handle.remove()
    advised = str(caught.value).rpartition("(")[2].partition(")")[0].split(", ")
    for text in ("full", *(f"{name}({PRESETS[name].small})" for name in advised)):
        with Press.parse(text)(helper):
            assert torch.equal(model.generate(ids, assistant_model=helper, max_new_tokens=6, do_sample=False), alone)


def test_another_sequence_to_attend_to() -> None:
    config = transformers.GPT2Config(
        vocab_size=97, n_embd=64, n_layer=2, n_head=4, n_positions=128, add_cross_attention=True
    )
    model = quiet(transformers.GPT2LMHeadModel(config))
    with full()(model) as session:
        with pytest.raises(UnsupportedError, match=r"encoder_hidden_states.*cross-attention"):
            model(prompt(), encoder_hidden_states=torch.zeros(1, 3, 64))
        assert session.prefill(prompt()).get_seq_length() == 30
