"""Chat templates: what they add stays, what is doubled or spelled by a text is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from kvpress_eval.errors import UsageError
from kvpress_eval.suites.episode import Episode, Turn
from kvpress_eval.suites.prompt import Prompter
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.eval.suites.chat_families import FAMILIES, SYSTEM, tokenizer


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
