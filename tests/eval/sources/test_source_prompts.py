"""The prompts of the twelve tasks, byte by byte, as SCBench's release assembles them and without its faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
from kvpress_eval.errors import UsageError
from kvpress_eval.sources.scbench_records import SCBENCH_TASKS
from kvpress_eval.suites.episode import Episode
from kvpress_eval.suites.prompt import Prompter

Ask = Callable[..., Episode]


class Said(NamedTuple):
    """A session's prompts: ``first`` and ``then`` (gold answer and second question) of multi-turn mode; what
    multi-request mode has before any question, and its second question.
    """

    first: str
    then: str
    context: str
    alone: str


_KV_HEAD = "Extract the value corresponding to the specified key in the JSON object below.\n\n"
_KV = _KV_HEAD + 'JSON data:\n{"k1": "v1-0", "k2": "v2-0"}'
_KEY1 = '\nKey: "k1"\nThe value associated with the specified key is: '
_KEY2 = '\nKey: "k2"\nThe value associated with the specified key is: '
_FENCE = "`" * 3
_CODE_HEAD = (
    "Based on the function description and code context, please retrieve and repeat the exact described function from "
    f"the code context in a code block wrapped by {_FENCE}:\n\n"
)
_ADD, _SUB = "def add(a, b):\n    return a + b\n", "def sub(a, b):\n    return a - b\n"
_CODE = f"{_CODE_HEAD}# 0\n{_ADD}\n{_SUB}"
_MIX = f'{_ADD}\nJSON data:\n{{"k1": "v1-0", "k2": "v2-0"}}'
_LIST = "[17, 3, 40]"
_LARGEST, _SMALLEST = (f"One number only. The {kind} number of the list is:" for kind in ("largest", "smallest"))
_WHAT1, _WHAT2 = (f"What is the {kind} number of the list?" for kind in ("largest", "smallest"))
_ABCD = "\nA. Max\nB. Otto\nC. Eve\nD. Zoe\n\n"
_BOOK = "Read the book and answer the question.\n\nOtto came. Zoe left. 0"
_EN = "Read the book and answer the question. Be very concise in your answer.\n\nAnna came. Bert left. 0"
_ZH = "阅读以下书籍然后回答问题。\n\n安娜来了。伯特走了。0"
_VT = "Track. AA = 1. BB = AA. CC = 2. 0"
_PAPERS = "First paper. Second paper. 0"
_NEEDLES = "First paper. The pass key is 71432. 0"
_WORDS = "Dictionary: [abXcd, efYgh, q0]"
_SHOTS, _SKY = "Q: roof? A 0", "Q: sky?\nOptions: (A) up (B) down"

RELEASED = {
    "kv": Said(f"{_KV}\n\n{_KEY1}", f"v1-0\n\n{_KEY2}", _KV, _KEY2),
    "prefix_suffix": Said(f"{_WORDS}\n\nStarts ab, ends cd:", "abXcd\n\nStarts ef:", _WORDS, "Starts ef:"),
    "vt": Said(f"{_VT}\n\nWhich hold 1?", "['AA', 'BB']\n\nWhich hold 2?", _VT, "Which hold 2?"),
    "repoqa": Said(f"{_CODE}\n\nSums two.", f"{_ADD}\n\nTakes one off the other.", _CODE, "Takes one off the other."),
    "qa_eng": Said(
        f"{_EN}\n\nQuestion: Who came?\nAnswer:",
        "Anna\n\nQuestion: Who left?\nAnswer:",
        _EN,
        "Question: Who left?\nAnswer:",
    ),
    "qa_chn": Said(f"{_ZH}\n\n问题：谁来了？\n答案：", "安娜\n\n问题：谁走了？\n答案：", _ZH, "问题：谁走了？\n答案："),
    "choice_eng": Said(
        f"{_BOOK}\n\nQuestion: Who came?{_ABCD}The the correct answer is",
        f"Otto\n\nQuestion: Who left?{_ABCD}The letter of the correct answer is",
        _BOOK,
        f"Question: Who left?{_ABCD}The the correct answer is",
    ),
    "mf": Said(
        f"{_WHAT1}\n\n{_LIST}\n\n{_LARGEST}",
        f"40\n\n{_WHAT2}\n\n{_SMALLEST}",
        f"{_LARGEST}\n\n{_LIST}",
        f"{_WHAT2}\n\n{_SMALLEST}",
    ),
    "many_shot": Said(f"{_SHOTS}\n\n{_SKY}", "A\n\nQ: sea?", _SHOTS, "Q: sea?"),
    "summary": Said(f"{_PAPERS}\n\nSum up the first.", "It is one.\n\nThe second.", _PAPERS, "The second."),
    "summary_with_needles": Said(
        f"{_NEEDLES}\n\nSum up the first.", "It is one.\n\nThe pass key?", _NEEDLES, "The pass key?"
    ),
    "repoqa_and_kv": Said(f"{_MIX}\n\nSums two.", f"{_ADD}\n\n{_KEY2}", _MIX, _KEY2),
}

_NEUTRAL = f"Answer questions about the following list of numbers.\n\n{_LIST}"
MENDED = {
    "kv": Said(f"{_KV}\n\n{_KEY1}", f" v1-0\n\n{_KEY2}", _KV, f"\n\n{_KEY2}"),
    "prefix_suffix": Said(f"{_WORDS}\n\nStarts ab, ends cd:", " abXcd\n\nStarts ef:", _WORDS, "\n\nStarts ef:"),
    "vt": Said(f"{_VT}\n\nWhich hold 1?", " AA BB\n\nWhich hold 2?", _VT, "\n\nWhich hold 2?"),
    "repoqa": Said(
        f"{_CODE}\n\nSums two.", f" {_ADD}\n\nTakes one off the other.", _CODE, "\n\nTakes one off the other."
    ),
    "qa_eng": Said(
        f"{_EN}\n\nQuestion: Who came?\nAnswer:",
        " Anna\n\nQuestion: Who left?\nAnswer:",
        _EN,
        "\n\nQuestion: Who left?\nAnswer:",
    ),
    "qa_chn": Said(
        f"{_ZH}\n\n问题：谁来了？\n答案：", " 安娜\n\n问题：谁走了？\n答案：", _ZH, "\n\n问题：谁走了？\n答案："
    ),
    "choice_eng": Said(
        f"{_BOOK}\n\nQuestion: Who came?{_ABCD}The correct answer is",
        f" Otto\n\nQuestion: Who left?{_ABCD}The correct answer is",
        _BOOK,
        f"\n\nQuestion: Who left?{_ABCD}The correct answer is",
    ),
    "mf": Said(
        f"{_NEUTRAL}\n\n{_WHAT1}\n\n{_LARGEST}",
        f" 40\n\n{_WHAT2}\n\n{_SMALLEST}",
        _NEUTRAL,
        f"\n\n{_WHAT2}\n\n{_SMALLEST}",
    ),
    "many_shot": Said(f"{_SHOTS}\n\n{_SKY}", " A\n\nQ: sea?", _SHOTS, "\n\nQ: sea?"),
    "summary": Said(f"{_PAPERS}\n\nSum up the first.", " It is one.\n\nThe second.", _PAPERS, "\n\nThe second."),
    "summary_with_needles": Said(
        f"{_NEEDLES}\n\nSum up the first.", " It is one.\n\nThe pass key?", _NEEDLES, "\n\nThe pass key?"
    ),
    "repoqa_and_kv": Said(f"{_MIX}\n\nSums two.", f" {_ADD}\n\n{_KEY2}", _MIX, f"\n\n{_KEY2}"),
}


def said(ask: Ask, prompter: Prompter, task: str, prompts: str, **changes: str) -> Said:
    turns = prompter.prompt(ask(prompter, task, prompts=prompts, **changes))
    apart = prompter.prompt(ask(prompter, task, prompts=prompts, mode="multi-request"))
    decode = prompter.tokenizer.decode
    return Said(
        decode([*turns.context, *turns.questions[0]]),
        decode([*turns.golds[0], *turns.questions[1]]),
        decode(apart.context),
        decode(apart.alone[1]),
    )


def test_every_task_has_its_prompts_here() -> None:
    assert sorted(RELEASED) == sorted(MENDED) == sorted(SCBENCH_TASKS)


@pytest.mark.parametrize("task", SCBENCH_TASKS)
def test_plain_text(ask: Ask, prompter: Prompter, task: str) -> None:
    assert said(ask, prompter, task, "reference") == RELEASED[task]
    assert said(ask, prompter, task, "corrected") == MENDED[task]


@pytest.mark.parametrize("prompter", ["on"], indirect=True)
@pytest.mark.parametrize("task", SCBENCH_TASKS)
def test_with_a_chat_template(ask: Ask, prompter: Prompter, task: str) -> None:
    begin, close, answer = "<bos><|user|>", "<|end|>\n", "<|assistant|>"
    for prompts, table in (("reference", RELEASED), ("corrected", MENDED)):
        plain = table[task]
        gold, _, question = plain.then.removeprefix(" " if prompts == "corrected" else "").partition("\n\n")
        if task == "repoqa_and_kv":
            gold, question = _ADD, _KEY2
        elif task == "repoqa":
            gold, question = _ADD, "Takes one off the other."
        opening = ""
        if prompts == "reference":
            # the follow-ups of the release have another wording in a chat
            question = question.replace("The letter of the correct", "The the correct")
            opening = "This paper" if task == "summary" else ""
        # corrected prompts have the blank line in the part that both modes share
        shared = "\n\n" if prompts == "corrected" else ""
        expected = Said(
            f"{begin}{plain.first}{close}{answer}",
            f"{gold}{close}<|user|>{question}{close}{answer}{opening}",
            f"{begin}{plain.context}{shared}",
            f"{plain.alone.removeprefix(shared)}{close}{answer}",
        )
        assert said(ask, prompter, task, prompts) == expected


@pytest.mark.parametrize("prompter", ["on"], indirect=True)
def test_chat_follow_ups_of_math_find_all_name_the_last_number(ask: Ask, prompter: Prompter) -> None:
    kinds = ("largest", "smallest", "median")
    turns = [{"input": f"The {kind} number is:", "answer": 5} for kind in kinds]
    rows = [{"id": 1, "context": [5], "multi_turns": turns}]
    asked = {p: ask(prompter, "mf", rows, prompts=p).turns[1] for p in ("reference", "corrected")}
    assert asked["reference"].later == "What is the median number?\n\nThe smallest number is:"
    assert asked["corrected"].question == "What is the smallest number?\n\nThe smallest number is:"
    kept = ask(prompter, "mf", rows, prompts="reference", turns=2).turns[1]
    assert kept.later == "What is the smallest number?\n\nThe smallest number is:", (
        "turns that are not asked say nothing"
    )


def test_math_find_needs_a_phrase_to_repeat(ask: Ask, prompter: Prompter) -> None:
    rows = [{"id": 1, "context": [5], "multi_turns": [{"input": "Largest?", "answer": 5}]}]
    with pytest.raises(UsageError, match=r"row 0 asks 'Largest\?'.*must hold 'The \.\.\. is'"):
        ask(prompter, "mf", rows)


def test_passkey_answers_end_in_a_full_stop_in_the_released_history(ask: Ask, prompter: Prompter) -> None:
    turns = [{"input": "The key?", "answer": "123"}, {"input": "Again?", "answer": "123"}]
    rows = [{"id": 1, "context": "The pass key is 123.", "multi_turns": turns}]
    prompt = prompter.prompt(ask(prompter, "passkey", rows, prompts="reference"))
    assert prompter.tokenizer.decode([*prompt.golds[0], *prompt.questions[1]]) == "123.\n\nAgain?"


def test_own_history_of_the_release_ends_answers_with_the_end_token(ask: Ask, prompter: Prompter) -> None:
    asked = prompter.prompt(ask(prompter, "choice_eng", prompts="reference", history="own"))
    text = prompter.tokenizer.decode(asked.questions[1])
    assert text == f"<eos>Question: Who left?{_ABCD}The the correct answer is"
    asked = prompter.prompt(ask(prompter, "choice_eng", prompts="corrected", history="own"))
    assert prompter.tokenizer.decode(asked.questions[1]) == MENDED["choice_eng"].then.removeprefix(" Otto")


def test_golds_are_what_the_scorers_take(ask: Ask, prompter: Prompter) -> None:
    def golds(task: str) -> list[object]:
        return [turn.reference for turn in ask(prompter, task).turns]

    functions = [{"name": "add", "needle": _ADD}, {"name": "sub", "needle": _SUB}]
    found = {"func_name": "add", "lang": "python", "needles": functions}
    assert golds("vt") == [("AA", "BB"), ("CC",)]
    assert golds("choice_eng") == [("Otto", "B"), ("Zoe", "D")]
    assert golds("mf") == [40, 3]
    assert golds("many_shot") == ["A", "B"]
    assert golds("repoqa") == [found, {**found, "func_name": "sub"}]
    assert golds("repoqa_and_kv") == [{**found, "needles": functions[:1]}, "v2-0"]
    assert [turn.task for turn in ask(prompter, "repoqa_and_kv").turns] == ["repoqa", "kv"]
    assert golds("summary_with_needles") == ["It is one.", "71432"]


def test_answers_have_the_released_limits_or_as_many_tokens_as_they_need(ask: Ask, prompter: Prompter) -> None:
    def limits(task: str, prompts: str, rows: object = None) -> list[int]:
        return [turn.max_new_tokens for turn in ask(prompter, task, rows, prompts=prompts).turns]

    assert limits("mf", "reference") == [5, 5]
    assert limits("mf", "corrected") == [13, 13]  # " 40" is three tokens here: 1.5 * 3 + 8
    assert limits("repoqa_and_kv", "reference") == limits("repoqa_and_kv", "corrected") == [1024, 80]
    assert limits("summary_with_needles", "reference") == [800, 15]
    assert limits("summary_with_needles", "corrected") == [800, 17]
    long = [{"id": 0, "context": "x", "multi_turns": [{"input": "Say", "answer": "y" * 399}]}]
    assert limits("kv", "reference", long) == [150]
    assert limits("kv", "corrected", long) == [608]
