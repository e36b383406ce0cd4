"""Chat templates of the families in use, and tokenizers built for them: their control tokens, and one for each byte."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

ASK = "{% if add_generation_prompt %}"
DEFAULT = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    + ASK
    + "<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}" + ASK + "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content | trim }} [/INST]"
    "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
    "<end_of_turn>\n{% endfor %}" + ASK + "<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}{% if m.role == 'user' %}"
    "[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
SYSTEM = "{% set messages = [{'role': 'system', 'content': 'Answer briefly.'}] + messages %}"


@dataclass(frozen=True)
class Family:
    """A template with its tokenizer; ``adds`` says that the tokenizer puts the begin token before a text."""

    template: str
    bos: str
    eos: str
    others: tuple[str, ...] = ()
    adds: bool = True
    begins: tuple[int, ...] = field(default=(1, 0, 0), compare=False)
    """Begin tokens before the context's end, in the second question and in the third."""


FAMILIES = {
    "smollm2": Family(DEFAULT + CHATML, "<|im_start|>", "<|im_end|>", ("<|endoftext|>",), False, (2, 2, 2)),
    "smollm2, adding": Family(DEFAULT + CHATML, "<|im_start|>", "<|im_end|>", ("<|endoftext|>",), True, (2, 2, 2)),
    "chatml": Family(CHATML, "<|endoftext|>", "<|im_end|>", ("<|im_start|>",), False, (0, 0, 0)),
    "chatml, system": Family(SYSTEM + CHATML, "<|im_start|>", "<|im_end|>", (), False, (2, 2, 2)),
    "begin is end": Family(CHATML, "<|endoftext|>", "<|endoftext|>", ("<|im_start|>", "<|im_end|>"), False, (0, 0, 0)),
    "llama 3": Family(LLAMA3, "<|begin|>", "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>")),
    "llama 3, system": Family(SYSTEM + LLAMA3, "<|begin|>", "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>")),
    "llama 2": Family(LLAMA2, "<s>", "</s>", (), True, (1, 1, 1)),
    "gemma": Family(GEMMA, "<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>")),
    "mistral": Family(MISTRAL, "<s>", "</s>", ("[INST]", "[/INST]")),
}


def tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """One token for each byte, and the family's control tokens."""
    control = list(dict.fromkeys([family.bos, family.eos, *family.others]))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({token: i for i, token in enumerate([*control, *letters])}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    if family.adds:
        made.post_processor = processors.TemplateProcessing(f"{family.bos} $A", special_tokens=[(family.bos, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=family.bos, eos_token=family.eos, chat_template=family.template
    )
