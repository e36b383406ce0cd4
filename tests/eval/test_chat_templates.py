"""Chat templates of the families in use: what they add stays, what is doubled or spelled by a text is refused.

Tokenizers are built here, with the control tokens of each family and one token for every other byte.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from kvpress_eval.episode import Episode, Turn
from kvpress_eval.errors import UsageError
from kvpress_eval.prompt import Prompter
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


def episode(*answers: str, context: str = "Some context.") -> Episode:
    turns = tuple(Turn(f"Question {t}?", text, ()) for t, text in enumerate(answers))
    return Episode("kv", "natural", context, turns, 9, 999, 0, 0)


def rendered(prompter: Prompter, asked: Episode) -> list[int]:
    """The conversation up to the last answer, as the tokenizer's own template gives it."""
    messages: list[dict[str, str]] = []
    for t, turn in enumerate(asked.turns):
        before = asked.context + "\n\n" if t == 0 else ""
        messages += [{"role": "user", "content": before + turn.question}]
        messages += [{"role": "assistant", "content": turn.answer}] if t + 1 < len(asked.turns) else []
    template: Any = prompter.tokenizer.apply_chat_template
    return list(template(messages, add_generation_prompt=True, return_dict=False))


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_template_adds_is_taken_as_it_is(name: str) -> None:
    family = FAMILIES[name]
    prompter = Prompter(tokenizer(family), "natural")
    asked = episode("one", "two", "three")
    prompt = prompter.prompt(asked)
    fed = list(prompt.context)
    for question, gold in zip(prompt.questions, prompt.golds, strict=True):
        fed += question
        if question is not prompt.questions[-1]:
            fed += gold
    assert fed == rendered(prompter, asked)
    begin = prompter.tokenizer.bos_token_id
    # the model's turn is opened after each question
    opened = 1 if family.bos == "<|im_start|>" else 0
    assert prompt.context.count(begin) == family.begins[0]
    assert prompt.questions[0].count(begin) == opened
    assert [q.count(begin) for q in prompt.questions[1:]] == list(family.begins[1:])
    text = prompter.tokenizer.decode(fed)
    assert text.count("You are a helpful assistant.") == name.startswith("smollm2")
    assert text.count("Answer briefly.") == name.endswith("system")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_doubled_beginning_is_refused(name: str) -> None:
    family = FAMILIES[name]
    usual = Prompter(tokenizer(family), "natural").prompt(episode("one", "two"))
    opens = usual.context[0] == tokenizer(family).bos_token_id
    doubled = "{{ bos_token }}" * (1 if opens else 2) + family.template
    with pytest.raises(UsageError, match="begins with two begin tokens"):
        Prompter(tokenizer(replace(family, template=doubled)), "natural").prompt(episode("one", "two"))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("chat", ["on", "off"])
def test_a_control_token_that_a_text_spells_is_refused(name: str, chat: str) -> None:
    family = FAMILIES[name]
    prompter = Prompter(tokenizer(family), "natural", chat)
    for token in (family.bos, family.eos, *family.others):
        for asked, where in (
            (episode("one", "two", context=f"{token}Some context."), "the context"),
            (episode("one", "two", context=f"Some context.{token}"), "the context"),
            (episode("one", f"two {token}"), "an answer"),
            (replace(episode("one"), turns=(Turn(f"What is {token}?", "one", ()),)), "a question"),
        ):
            with pytest.raises(UsageError) as caught:
                prompter.prompt(asked)
            assert f"{where} spells the special token {token!r}" in str(caught.value)
            assert len(str(caught.value)) < 300


def test_a_template_that_refuses_a_system_message_says_so() -> None:
    """None is sent: only a template that adds one itself can come to that."""
    for family in (FAMILIES["gemma"], FAMILIES["mistral"]):
        prompter = Prompter(tokenizer(family), "natural")
        prompter.prompt(episode("one", "two"))
        with pytest.raises(UsageError, match=r"refuses the conversation \((System role|Conversation roles)"):
            Prompter(tokenizer(replace(family, template=SYSTEM + family.template)), "natural").prompt(episode("one"))


def test_unknown_characters_are_no_special_token() -> None:
    """A word-level tokenizer reads what it does not know as its token for that: no text spelled it."""
    made = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "a": 2}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="<s>", unk_token="<unk>")
    asked = Prompter(fast, "natural").prompt(episode("one"))
    assert 0 in asked.context
