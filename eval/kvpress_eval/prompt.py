"""From an episode to token ids: those of the context, of each question, and of each gold answer.

The pieces are tokenized one by one and concatenated, so that a session fed piece by piece and one
fed at once see the same ids. With a chat template the pieces are cut out of the rendering of the
whole conversation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .episode import Episode, Rendering
from .errors import UsageError
from .tasks.base import SEPARATOR
from .tasks.dialect import STOP

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Prompt", "Prompter"]

_CUT = "\u241ekvpress-cut\u241e"  # stands where a rendering is to be cut


@dataclass(frozen=True)
class Prompt:
    """Ids of one session. ``questions[t]`` for t > 0 begins with what closes the answer before it.

    ``alone[t]`` is question t where it follows the context directly (multi-request mode).
    """

    context: list[int]
    questions: list[list[int]]
    alone: list[list[int]]
    golds: list[list[int]]


class Prompter:
    """Turns episodes into ids for one tokenizer.

    ``chat`` is ``on``, ``off`` or ``auto`` (on where the tokenizer has a chat template).

    Raises:
        UsageError: for a chat template that is missing or cannot be cut.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rendering: Rendering, chat: str = "auto") -> None:
        has_template = bool(getattr(tokenizer, "chat_template", None))
        if chat == "on" and not has_template:
            raise UsageError("this tokenizer has no chat template; use --chat off")
        self.tokenizer, self.rendering = tokenizer, rendering
        self.chat = rendering == "natural" and has_template and chat != "off"
        self._counted: dict[str, int] = {}
        self.bos = self._begin()
        self.overhead = self._overhead()

    def count(self, text: str) -> int:
        """Tokens of ``text``, without special ones."""
        if self.rendering == "dialect":
            return len(text.split())
        return len(self._ids(text))

    def text(self, ids: list[int]) -> str:
        """The text of generated ids."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def stops(self, model_stops: list[int]) -> frozenset[int]:
        """Ids that end an answer: ``;`` in the dialect, else the model's end tokens."""
        if self.rendering == "dialect":
            return frozenset(self._ids(STOP))
        end = self.tokenizer.eos_token_id
        return frozenset([*model_stops, *([end] if isinstance(end, int) else [])])

    def prompt(self, episode: Episode) -> Prompt:
        """The ids of an episode, the begin token exactly once and at the beginning."""
        if self.chat:
            prompt = self._chat(episode)
        elif self.rendering == "dialect":
            prompt = self._plain(episode, "", f"{STOP} ", " ")
        else:
            prompt = self._plain(episode, SEPARATOR, SEPARATOR, " ")
        self._check_begin(prompt)
        return prompt

    def _plain(self, episode: Episode, after_context: str, after_answer: str, before_answer: str) -> Prompt:
        questions = [turn.question for turn in episode.turns]
        answers = [turn.answer.removesuffix(f" {STOP}") for turn in episode.turns]
        alone = [self._ids(after_context + text) for text in questions]
        later = [self._ids(after_answer + text) for text in questions[1:]]
        return Prompt(
            context=[*self.bos, *self._ids(episode.context)],
            questions=[alone[0], *later],
            alone=alone,
            golds=[self._ids(before_answer + text) for text in answers],
        )

    def _chat(self, episode: Episode) -> Prompt:
        head = self._render([{"role": "user", "content": episode.context + SEPARATOR + _CUT}])
        context, _ = self._cut(head)
        alone, questions, golds = [], [], []
        messages: list[dict[str, str]] = []
        for t, turn in enumerate(episode.turns):
            opening = episode.context + SEPARATOR + turn.question
            text = self._render([{"role": "user", "content": opening}])
            alone.append(self._ids(self._rest(text, context)))
            messages.append({"role": "user", "content": opening if t == 0 else turn.question})
            text = self._render(messages)
            if t == 0:
                questions.append(alone[0])
            else:
                # what closes the answer before, and the new question up to the model's turn
                marked = [*messages[:-2], {"role": "assistant", "content": _CUT}, messages[-1]]
                questions.append(self._ids(self._cut(self._render(marked))[1]))
            golds.append(self._ids(turn.answer))
            messages.append({"role": "assistant", "content": turn.answer})
        return Prompt(self._ids(context), questions, alone, golds)

    def _render(self, messages: list[dict[str, str]]) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _cut(self, text: str) -> tuple[str, str]:
        before, mark, after = text.partition(_CUT)
        if not mark:
            raise UsageError("this chat template changes what a message holds; use --chat off")
        return before, after

    def _rest(self, text: str, beginning: str) -> str:
        if not text.startswith(beginning):
            raise UsageError("this chat template puts the question before the context; use --chat off")
        return text[len(beginning) :]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _begin(self) -> list[int]:
        """The begin token, where this tokenizer (or the dialect) puts one."""
        begin = self.tokenizer.bos_token_id
        if not isinstance(begin, int) or self.chat:
            return []
        if self.rendering == "dialect":
            return [begin]
        usual = list(self.tokenizer("a")["input_ids"])
        return [begin] if usual[:1] == [begin] else []

    def _check_begin(self, prompt: Prompt) -> None:
        begin = self.tokenizer.bos_token_id
        if not isinstance(begin, int) or begin == self.tokenizer.eos_token_id:
            return  # the same id may stand between messages
        opening = [*prompt.context, *prompt.questions[0]]
        allowed = 1 if self.bos or opening[:1] == [begin] else 0
        if opening.count(begin) != allowed or (allowed and opening[0] != begin):
            raise UsageError(
                f"the prompt holds {opening.count(begin)} begin tokens instead of {allowed}; "
                "chat template and tokenizer both add one: use --chat off or fix the template"
            )

    def _overhead(self) -> int:
        """Tokens beside context, questions and answers: the begin token, or what the chat template
        adds per turn.
        """
        if not self.chat:
            return len(self.bos)
        one = len(self._ids(self._render([{"role": "user", "content": "a"}])))
        return one + 8

    def overhead_for(self, turns: int) -> int:
        """Tokens that are neither context, question nor answer in a session of ``turns`` turns."""
        return self.overhead * turns if self.chat else self.overhead
