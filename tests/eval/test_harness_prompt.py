from __future__ import annotations

from typing import Any

import pytest
from kvpress_eval.episode import Episode, Request
from kvpress_eval.errors import UsageError
from kvpress_eval.prompt import Prompter
from kvpress_eval.tasks import build
from transformers import AutoTokenizer, PreTrainedTokenizerBase


def tokenizer_of(folder: str) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder)


def make(prompter: Prompter, length: int = 640, turns: int = 2, task: str = "vt") -> Episode:
    rendering = prompter.rendering
    length = length if rendering == "dialect" else 2500
    overhead = prompter.overhead_for(turns)
    return build(Request(task, rendering, length, turns, 0, 0, prompter.count, overhead))


def joined(prompter: Prompter, episode: Episode) -> list[int]:
    prompt = prompter.prompt(episode)
    ids = list(prompt.context)
    for question, gold in zip(prompt.questions, prompt.golds, strict=True):
        ids += [*question, *gold]
    return ids


def test_dialect_pieces_are_the_training_format(dialect_model: str) -> None:
    prompter = Prompter(tokenizer_of(dialect_model), "dialect")
    episode = make(prompter, turns=3)
    text = prompter.tokenizer.decode(joined(prompter, episode))
    turns = " ".join(f"{turn.question} {turn.answer}" for turn in episode.turns)
    assert text == f"<bos> {episode.context} {turns}".removesuffix(" ;")


def test_plain_text_has_one_begin_token_if_the_tokenizer_adds_one(text_model: str) -> None:
    prompter = Prompter(tokenizer_of(text_model), "natural", chat="off")
    episode = make(prompter)
    first, second = episode.turns
    text = prompter.tokenizer.decode(joined(prompter, episode))
    assert text == (f"{episode.context}\n\n{first.question} {first.answer}\n\n{second.question} {second.answer}")


def test_chat_pieces_concatenate_to_the_rendered_conversation(text_model: str) -> None:
    prompter = Prompter(tokenizer_of(text_model), "natural")
    assert prompter.chat
    episode = make(prompter)
    first, second = episode.turns
    prompt = prompter.prompt(episode)
    whole = prompter.tokenizer.apply_chat_template(
        [
            {"role": "user", "content": f"{episode.context}\n\n{first.question}"},
            {"role": "assistant", "content": first.answer},
            {"role": "user", "content": second.question},
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    ids = [*prompt.context, *prompt.questions[0], *prompt.golds[0], *prompt.questions[1]]
    assert prompter.tokenizer.decode(ids) == whole
    assert ids.count(1) == 1
    assert ids[0] == 1
    # asked alone, the second question follows the context as the first does
    alone = prompter.tokenizer.decode([*prompt.context, *prompt.alone[1]])
    assert alone == whole.split("<|end|>")[0].replace(first.question, second.question) + "<|end|>\n<|assistant|>"


@pytest.mark.parametrize("chat", ["on", "off"])
def test_a_session_fits_its_length(text_model: str, chat: str) -> None:
    prompter = Prompter(tokenizer_of(text_model), "natural", chat)
    for task in ("kv", "vt", "needle"):
        episode = make(prompter, task=task)
        prompt = prompter.prompt(episode)
        asked = sum(map(len, prompt.questions)) + 2 * episode.max_new_tokens
        assert 0.9 * 2500 < len(prompt.context) + asked <= 2500


def test_two_begin_tokens_are_refused(text_model: str) -> None:
    tokenizer: Any = tokenizer_of(text_model)
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    prompter = Prompter(tokenizer, "natural")
    with pytest.raises(UsageError, match="2 begin tokens instead of 1"):
        prompter.prompt(make(prompter))


def test_chat_needs_a_template(dialect_model: str) -> None:
    with pytest.raises(UsageError, match="no chat template"):
        Prompter(tokenizer_of(dialect_model), "dialect", "on")


def test_what_ends_an_answer(dialect_model: str, text_model: str) -> None:
    assert Prompter(tokenizer_of(dialect_model), "dialect").stops([2]) == {5}
    assert Prompter(tokenizer_of(text_model), "natural").stops([7]) == {2, 7}
