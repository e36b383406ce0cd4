"""From an episode to token ids: those of the context, of each question, and of each gold answer.

The pieces are tokenized one by one and concatenated, so that a session fed piece by piece and one
fed at once see the same ids. With a chat template the pieces are cut out of the rendering of the
whole conversation.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from ..errors import UsageError
from ..models.rendering import Rendering
from .dialect_rendering import STOP
from .episode import Episode, Joints, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Prompt", "Prompter"]

_CUT = "\u241ekvpress-cut\u241e"  # stands where a rendering is to be cut
_CONTEXT = "\u241ekvpress-context\u241e"  # stands for the context in all renderings but one
_TAIL = 16  # characters before a piece that its tokens may depend on
_DIALECT = Joints(question="", alone="", answer=" ", later=f"{STOP} ")


@dataclass(frozen=True)
class Prompt:
    """Ids of one session. ``questions[t]`` for t > 0 begins with what closes the answer before it.

    ``alone[t]`` is question t where it follows the context directly (multi-request mode).
    """

    context: list[int]
    questions: list[list[int]]
    alone: list[list[int]]
    golds: list[list[int]]


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def _asked(question: str, turn: Turn) -> str:
    """A question of plain text with what its answer is to begin with."""
    apart = turn.opening and not (question[-1:].isspace() or turn.opening[0].isspace())
    return question + (" " if apart else "") + turn.opening


def _between(whole: str, before: str, after: str, usual: str) -> str:
    """What ``whole`` has between two texts: the answer as a template shows it, which may trim it."""
    if whole.startswith(before) and whole.endswith(after) and len(before) + len(after) <= len(whole):
        return whole[len(before) : len(whole) - len(after)]
    return usual


def _about_nothing(episode: Episode) -> Episode:
    """The same conversation with a plain word for every text."""
    turns = tuple(
        replace(turn, question="a", answer="a", later="a", alone="a", opening=turn.opening and "a")
        for turn in episode.turns
    )
    return replace(episode, context="a", turns=turns)


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
        # pieces of text may be tokenized apart
        self._glues = rendering == "dialect" or tokenizer.decode(self._ids("x") + self._ids("x")) == "xx"
        self._special = self._special_ids()
        self._begins = self._begin()
        self.bos = [] if self.chat else self._begins  # a template writes the beginning itself

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
        """The ids of an episode, with no special tokens but those that tokenizer and template add.

        Raises:
            UsageError: where the beginning is doubled or a text spells a special token.
        """
        prompt = self.pieces(episode)
        self._check_special(prompt, episode)
        return prompt

    def pieces(self, episode: Episode) -> Prompt:
        """The ids of an episode, unchecked."""
        if self.chat:
            return self._chat(episode)
        return self._plain(episode, _DIALECT if self.rendering == "dialect" else episode.joints)

    def context(self, episode: Episode) -> list[int]:
        """The ids of its context alone, whatever is asked."""
        if self.chat:
            return self._ids(self._before(episode, episode.context))
        return [*self.bos, *self._ids(episode.context)]

    def _plain(self, episode: Episode, joints: Joints) -> Prompt:
        turns = episode.turns
        alone = [self._after(joints.alone + _asked(turn.alone or turn.question, turn)) for turn in turns]
        first = self._after(joints.question + _asked(turns[0].question, turns[0]))
        later = [self._after(joints.later + _asked(turn.later or turn.question, turn)) for turn in turns[1:]]
        # what ends an answer of the dialect is fed with the next question
        end = f" {STOP}" if self.rendering == "dialect" else ""
        return Prompt(
            context=self.context(episode),
            questions=[first, *later],
            alone=alone,
            golds=[self._after(joints.answer + turn.answer.removesuffix(end)) for turn in turns],
        )

    def _chat(self, episode: Episode) -> Prompt:
        """Pieces as differences of renderings: each is what a rendering has beyond what was fed before.

        The context is rendered once. A short text stands for it in the other renderings.
        """
        joints = episode.joints
        context, opening = self._before(episode, episode.context), self._before(episode, _CONTEXT)
        alone, questions, golds = list[str](), list[str](), list[str]()
        messages: list[dict[str, str]] = []
        fed = rest = ""
        for t, turn in enumerate(episode.turns):
            request = self._render([_user(_CONTEXT + joints.alone + (turn.alone or turn.question))])
            asked = _CONTEXT + joints.question + turn.question if t == 0 else turn.later or turn.question
            messages.append(_user(asked))
            shown = self._render(messages)
            if t:
                golds[-1] = _between(shown, fed, rest, golds[-1])
            piece = rest if t else self._rest(shown, opening)
            lead, rest = self._answered(messages, shown, episode.turns[t + 1 : t + 2])
            start = lead + turn.opening if turn.opening else ""
            body = (joints.answer if turn.opening else "") + turn.answer
            alone.append(self._rest(request, opening) + start)
            questions.append(piece + start)
            golds.append(body if turn.opening else lead + body)
            fed = shown + start
            messages.append({"role": "assistant", "content": turn.opening + body})
        before = context[-_TAIL:]
        return Prompt(
            self._ids(context),
            [self._after(text, before if t == 0 else "\n") for t, text in enumerate(questions)],
            [self._after(text, before) for text in alone],
            [self._after(text, questions[t][-_TAIL:]) for t, text in enumerate(golds)],
        )

    def _before(self, episode: Episode, context: str) -> str:
        """What the template makes of a context, up to where a question goes on."""
        joints = episode.joints
        shared = joints.question if joints.question == joints.alone else ""
        return self._cut(self._render([_user(context + shared + _CUT)]))[0]

    def _answered(self, messages: list[dict[str, str]], shown: str, following: tuple[Turn, ...]) -> tuple[str, str]:
        """What the template puts between the model's turn and an answer, and between the answer and the next
        question's answer.

        A template may open the model's turn with more than it keeps of it later (an empty think block): that stays
        in the cache, as it does in any session.
        """
        asked = following[0].later or following[0].question if following else "a"
        history = [*messages, {"role": "assistant", "content": _CUT}, _user(asked)]
        before, rest = self._cut(self._render(history))
        if before.startswith(shown):
            return before[len(shown) :], rest
        bare = self._render(messages, ask=False)
        turn, kept = shown.removeprefix(bare), before.removeprefix(bare)
        if shown.startswith(bare) and before.startswith(bare) and turn.startswith(kept):
            return "", rest
        raise UsageError(
            "this chat template renders a conversation in another way once it goes on, so that no cache can be kept; "
            "use --chat off"
        )

    def _render(self, messages: list[dict[str, str]], ask: bool = True) -> str:
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask))
        except TemplateError as error:
            told = " ".join(str(error).split())
            raise UsageError(f"this chat template refuses the conversation ({told}); use --chat off") from None

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

    def _after(self, text: str, before: str = "\n") -> list[int]:
        """Ids of a text that goes on after ``before``.

        A tokenizer that puts a space before everything it is given (SentencePiece) would put one into the middle:
        its ids are those of both texts minus those of the first, where the first ones agree.
        """
        if self._glues:
            return self._ids(text)
        for anchor in dict.fromkeys((before, before[-1:], "\n", "a")):
            known, both = self._ids(anchor), self._ids(anchor + text)
            if both[: len(known)] == known:
                return both[len(known) :]
        raise UsageError(
            f"this tokenizer merges {text[:20]!r} with whatever is before it, so that a session cannot be fed piece "
            "by piece; use another model"
        )

    def _begin(self) -> list[int]:
        """What this tokenizer puts before a text by itself, most often the begin token; the dialect's is fixed."""
        if self.rendering == "dialect":
            begin = self.tokenizer.bos_token_id
            return [begin] if isinstance(begin, int) else []
        usual, bare = list(self.tokenizer("a")["input_ids"]), self._ids("a")
        starts = [i for i in range(len(usual) - len(bare) + 1) if usual[i : i + len(bare)] == bare]
        return usual[: starts[0]] if starts else []

    def _check_special(self, prompt: Prompt, episode: Episode) -> None:
        """Compare the special tokens of a prompt with those of the same conversation about nothing.

        How many there are says little: a template may open every message with the begin token (ChatML where it is
        ``<|im_start|>``, Llama 2). What the template puts around plain words is its own; what is there beyond it comes
        from the texts.
        """
        plain = self.pieces(_about_nothing(episode))
        begin = self._begins or [self.tokenizer.bos_token_id]
        if plain.context[: 2 * len(begin)] == [*begin, *begin]:
            raise UsageError(
                f"the prompt begins with two begin tokens ({' '.join(self.tokenizer.convert_ids_to_tokens(begin))}): "
                "chat template and tokenizer both add one, or the template does so twice; use --chat off, or fix the "
                "template"
            )
        places = ("context", "questions", "alone", "golds")
        names = ("the context", "a question", "a question", "an answer")
        for place, name in zip(places, names, strict=True):
            ours, theirs = getattr(prompt, place), getattr(plain, place)
            pieces = [(ours, theirs)] if place == "context" else zip(ours, theirs, strict=True)
            for piece, usual in pieces:
                beyond = Counter(filter(self._special.__contains__, piece)) - Counter(usual)
                if beyond:
                    token = self.tokenizer.convert_ids_to_tokens(next(iter(beyond)))
                    raise UsageError(
                        f"{name} spells the special token {token!r}, which this tokenizer reads as a control token and "
                        "not as text; use other data, or a model whose tokenizer has no such token"
                    )

    def _special_ids(self) -> frozenset[int]:
        """Ids of control tokens. The one for unknown text is none: any text may hold it."""
        tokenizer = self.tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {})
        found = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
        return frozenset(found - {tokenizer.unk_token_id})
