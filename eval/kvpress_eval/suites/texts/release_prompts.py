"""The release's words around a context and a question: generated sessions and SCBench's own data have the same."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["HEADS", "LETTERS", "asked", "told"]

LETTERS = "ABCD"
_FENCE = "`" * 3
HEADS = {
    "kv": "Extract the value corresponding to the specified key in the JSON object below.",
    "passkey": "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I will "
    "quiz you about the important information.",
    "choice_eng": "Read the book and answer the question.",
    "qa_eng": "Read the book and answer the question. Be very concise in your answer.",
    "qa_chn": "阅读以下书籍然后回答问题。",
    "repoqa": "Based on the function description and code context, please retrieve and repeat the exact described "
    f"function from the code context in a code block wrapped by {_FENCE}:",
    "mf": "Answer questions about the following list of numbers.",
}
"""What stands before the context; nothing in the tasks that are not here. Math.Find's is ours: the release's head tells
the first question.
"""
_AROUND = {
    "qa_eng": ("Question: ", "\nAnswer:"),
    "qa_chn": ("问题：", "\n答案："),
    "choice_eng": ("Question: ", "\n\n"),
}


def asked(task: str, text: str, options: Sequence[str] = ()) -> str:
    """A question as it is asked. One with ``options`` (choice_eng) lacks what the answer is to follow."""
    before, after = _AROUND[task]
    listing = "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    return f"{before}{text}{listing}{after}"


def told(task: str, question: str) -> str:
    """The question alone, without what :func:`asked` puts around it."""
    before, after = _AROUND[task]
    return question.removeprefix(before).partition(f"\n{LETTERS[0]}. ")[0].removesuffix(after)
