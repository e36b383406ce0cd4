from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from kvpress_eval.errors import UsageError
from kvpress_eval.suites import build
from kvpress_eval.suites.episode import Episode, Turn
from kvpress_eval.suites.prompt import Prompter
from kvpress_eval.suites.session_length import asking
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast


def tokenizer_of(folder: str) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder)


def make(prompter: Prompter, length: int = 640, turns: int = 2, task: str = "vt") -> Episode:
    rendering = prompter.rendering
    length = length if rendering == "dialect" else 2500
    return build(asking(prompter, task, length, turns, 0, 0))


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
    for task in ("kv", "vt", "needle", "qa_eng"):
        episode = make(prompter, task=task)
        prompt = prompter.prompt(episode)
        asked = sum(map(len, prompt.questions)) + 2 * episode.max_new_tokens
        least = 0.9 if task == "kv" else 0.99  # its entries are large: up to one of them is missing
        assert least * 2500 <= len(prompt.context) + asked <= 2500


def test_two_begin_tokens_are_refused(text_model: str) -> None:
    tokenizer: Any = tokenizer_of(text_model)
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    prompter = Prompter(tokenizer, "natural")
    with pytest.raises(UsageError, match="begins with two begin tokens"):
        prompter.prompt(make(prompter))


def test_chat_needs_a_template(dialect_model: str) -> None:
    with pytest.raises(UsageError, match="no chat template"):
        Prompter(tokenizer_of(dialect_model), "dialect", "on")


def test_what_ends_an_answer(dialect_model: str, text_model: str) -> None:
    assert Prompter(tokenizer_of(dialect_model), "dialect").stops([2]) == {5}
    assert Prompter(tokenizer_of(text_model), "natural").stops([7]) == {2, 7}


def test_only_the_dialect_leaves_its_stop_to_the_next_question(dialect_model: str, text_model: str) -> None:
    for rendering, model, kept in (("dialect", dialect_model, "{}"), ("natural", text_model, "{} ;")):
        prompter = Prompter(tokenizer_of(model), rendering, "off")
        made = make(prompter)
        value = made.turns[0].answer.removesuffix(" ;")
        ending = replace(made, turns=(replace(made.turns[0], answer=f"{value} ;"), *made.turns[1:]))
        assert prompter.text(prompter.prompt(ending).golds[0]).strip() == kept.format(value)


# templates as families of models have them, written for these tests
QWEN = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe helpful.<|im_end|>\n{% endif %}{% for m in messages %}"
    "{% set spoken = m.content.split('</think>')[-1].lstrip('\n') if m.role == 'assistant' else m.content %}"
    "<|im_start|>{{ m.role }}\n{{ spoken }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = QWEN.replace(
    "<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% if messages[0].role != 'system' %}<|head|>system<|/head|>\n\nToday is Monday.<|eot|>{% endif %}"
    "{% for m in messages %}<|head|>{{ m.role }}<|/head|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}</turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
FAMILIES = {"qwen": QWEN, "llama": LLAMA, "mistral": MISTRAL, "gemma": GEMMA}


def episode(*answers: str, opening: str = "") -> Episode:
    turns = tuple(Turn(f"Question {t}?", text, (), opening=opening) for t, text in enumerate(answers))
    return Episode("kv", "natural", "Some context.", turns, 9, 999, 0, 0)


def with_template(folder: str, template: str) -> Prompter:
    tokenizer: Any = tokenizer_of(folder)
    tokenizer.chat_template = template
    return Prompter(tokenizer, "natural")


def conversation(prompter: Prompter, asked: Episode, turns: int) -> str:
    """The template's own rendering of a session up to the answer of its last turn."""
    messages = []
    for t, turn in enumerate(asked.turns[:turns]):
        before = asked.context + "\n\n" if t == 0 else ""
        messages += [{"role": "user", "content": before + turn.question}]
        messages += [{"role": "assistant", "content": turn.answer}] if t + 1 < turns else []
    return str(prompter.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_are_what_the_template_adds(text_model: str, family: str) -> None:
    prompter = with_template(text_model, FAMILIES[family])
    asked = episode("one", "two\nlines \n", "three")
    prompt = prompter.prompt(asked)
    fed = list(prompt.context)
    for t in range(3):
        fed += prompt.questions[t]
        whole = conversation(prompter, asked, t + 1)
        assert fed == prompter.tokenizer(whole, add_special_tokens=False)["input_ids"]
        alone = prompter.tokenizer.decode([*prompt.context, *prompt.alone[t]])
        only = replace(asked, turns=asked.turns[t : t + 1])
        assert alone == conversation(prompter, only, 1)
        fed += prompt.golds[t]
    text = prompter.tokenizer.decode(fed)
    assert text.count("Be helpful.") == (family == "qwen")
    assert text.count("Today is Monday.") == (family == "llama")
    assert fed.count(1) == (family != "qwen")
    assert text.count("<eos>") == (2 if family == "mistral" else 0)


def test_what_opens_a_thinking_turn_stays_in_the_cache(text_model: str) -> None:
    prompter = with_template(text_model, THINKING)
    asked = episode("one", "<think>hm</think>two", "three")
    prompt = prompter.prompt(asked)
    opener = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    decode = prompter.tokenizer.decode
    assert decode(prompt.questions[0]).endswith(opener)
    follow = f"<|im_end|>\n<|im_start|>user\nQuestion 1?<|im_end|>\n{opener}"
    assert decode([*prompt.golds[0], *prompt.questions[1]]) == f"one{follow}"
    plain = with_template(text_model, QWEN)
    prompt = plain.prompt(asked)
    assert decode([*prompt.golds[1], *prompt.questions[2]]).startswith("two<|im_end|>"), "history holds no thoughts"


@pytest.mark.parametrize("family", FAMILIES)
def test_an_opening_stands_after_the_header(text_model: str, family: str) -> None:
    prompter = with_template(text_model, FAMILIES[family])
    asked = episode("one", "two", opening="They are:")
    prompt, without = prompter.prompt(asked), prompter.prompt(episode("one", "two"))
    decode, lead = prompter.tokenizer.decode, " " if family == "mistral" else ""
    for ours, theirs in zip([*prompt.questions, *prompt.alone], [*without.questions, *without.alone], strict=True):
        assert decode(ours) == decode(theirs) + f"{lead}They are:"
    assert decode(prompt.golds[0]) == " one"
    assert decode(without.golds[0]) == f"{lead}one"


def test_an_opening_of_plain_text_follows_the_question(text_model: str) -> None:
    prompter = Prompter(tokenizer_of(text_model), "natural", "off")
    for opening in ("They are:", " They are:"):
        prompt = prompter.prompt(episode("one", "two", opening=opening))
        decode = prompter.tokenizer.decode
        assert decode(prompt.questions[1]) == decode(prompt.alone[1]) == "\n\nQuestion 1? They are:"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages | length }}" + QWEN, "renders a conversation in another way once it goes on"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "changes what a message holds"),
        ("{% for m in messages %}{{ m.content | reverse }}{% endfor %}", "changes what a message holds"),
        ("{{ messages[0].content[-3:] }}" + QWEN, "puts the question before the context"),
        (MISTRAL.replace("== 0", "== 1"), r"refuses the conversation \(roles must alternate\)"),
    ],
)
def test_templates_that_cannot_be_fed_piece_by_piece_are_refused(text_model: str, template: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        with_template(text_model, template).prompt(episode("one", "two"))


SPELLED = [
    (replace(episode("one", "two"), context="Some <bos>context."), "the context"),
    (replace(episode("one"), turns=(Turn("Is it <eos>?", "one", ()),)), "a question"),
    (replace(episode("one"), turns=(Turn("Is it?", "one", (), alone="Is <bos> it?"),)), "a question"),
    (replace(episode("one", "two"), turns=(*episode("one").turns, Turn("?", "two", (), later="<pad>"))), "a question"),
    (episode("one", "two<eos>"), "an answer"),
    (episode("one", "two", opening="<bos>They are:"), "a question"),
]


@pytest.mark.parametrize("chat", ["on", "off"])
@pytest.mark.parametrize(("asked", "where"), SPELLED)
def test_a_special_token_that_a_text_spells_is_found(text_model: str, chat: str, asked: Episode, where: str) -> None:
    prompter = Prompter(tokenizer_of(text_model), "natural", chat)
    prompter.prompt(episode("one", "two", opening="They are:"))
    with pytest.raises(UsageError, match=f"{where} spells the special token '<(bos|eos|pad)>'"):
        prompter.prompt(asked)


def sentencepiece(merges: list[tuple[str, str]]) -> PreTrainedTokenizerBase:
    """A tokenizer that puts a space before everything it is given, as Llama 2's does."""
    letters = ["<s>", "</s>", "<unk>", "\u2581", "\n", *map(chr, range(33, 127)), *(a + b for a, b in merges)]
    model = models.BPE({letter: i for i, letter in enumerate(letters)}, merges, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("merges", [[], [("\n", "\n")]])
def test_no_space_comes_between_the_pieces(merges: list[tuple[str, str]]) -> None:
    tokenizer = sentencepiece(merges)
    assert tokenizer.decode([*tokenizer("a")["input_ids"], *tokenizer("b")["input_ids"]]) == "a b"
    prompter = Prompter(tokenizer, "natural", "off")
    asked = episode("one", "two")
    text = "Some context.\n\nQuestion 0? one\n\nQuestion 1? two"
    assert joined(prompter, asked) == tokenizer(text)["input_ids"]


def test_a_tokenizer_that_merges_whatever_is_before_is_refused() -> None:
    tokenizer = sentencepiece([("a", "\n"), ("\n", "\n")])
    with pytest.raises(UsageError, match=r"merges .* with whatever is before it"):
        Prompter(tokenizer, "natural", "off").prompt(episode("one", "two"))
