"""Two folders with random models as `save_pretrained` writes them: one that reads the dialect, one that reads text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kvpress_eval.models.bundled.dialect import VOCAB
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHAT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def _model(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=700,
        initializer_range=0.3,  # so that what it says depends on what it reads
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).eval()


def _words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCAB)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def _characters() -> Tokenizer:
    """Byte-level BPE without merges, so that nothing has to be trained: one token per byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<bos>", "<eos>"]
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _save(folder: Path, tokenizer: Tokenizer, vocabulary: int, **options: str) -> str:
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", **options
    )
    fast.save_pretrained(folder)
    _model(vocabulary).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def dialect_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random model with the dialect's vocabulary."""
    return _save(tmp_path_factory.mktemp("models") / "words", _words(), len(VOCAB), unk_token="<unk>")


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random model that reads any text, with a chat template."""
    return _save(tmp_path_factory.mktemp("models") / "chars", _characters(), 259, chat_template=CHAT)
