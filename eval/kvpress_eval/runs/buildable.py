"""Which cells cannot be built, and the least length each needs: known from a tokenizer, before a model is loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import CellError, TooShortError, UsageError
from ..models import BUNDLED, PRETRAINED
from ..models.hub_cache import cached
from ..models.loading import check_positions, locate
from ..models.rendering import rendering_of
from ..sources import GENERATED
from ..sources.passage_cutting import cut
from ..suites import build
from ..suites.episode import Request, Turn
from ..suites.prompt import Prompter
from ..suites.session_length import asking
from .config import RunConfig

__all__ = ["Unbuildable", "check_built", "unbuildable"]

_TEMPLATE = 18  # tokens of a chat template in each turn
_NEAR = 1.3  # sessions of a task differ by less in the length they need


@dataclass(frozen=True)
class Unbuildable:
    """A cell that will be a failed row. ``least`` is the length it needs, None where no length would do."""

    config: RunConfig
    reason: str
    least: int | None = None


def check_built(config: RunConfig, prompter: Prompter | None) -> None:
    """Raise CellError where a session of a cell cannot be built; without a prompter, by an estimate.

    Sessions of data that was not generated, and texts that are continued, are not looked at.
    """
    if config.source != GENERATED or config.continues:
        return
    assert config.turns is not None
    depth = None if config.depth < 0 else config.depth / 100
    _check(prompter, config.task, config.length, config.turns, config.seed, config.sessions, depth)


@lru_cache(maxsize=512)
def _check(
    prompter: Prompter | None, task: str, length: int, turns: int, seed: int, sessions: int, depth: float | None
) -> None:
    needed = 0
    for session in range(sessions):
        if prompter is None:
            request = Request(task, "natural", length, turns, seed, session, _guess, depth=depth, ruler=_Guess())
        else:
            request = asking(prompter, task, length, turns, seed, session, depth)
        needed = max(needed, _least(request))
        if needed * _NEAR < length:
            return  # and so would all others
    if needed > length:
        raise TooShortError(task, turns, needed, length)


@lru_cache(maxsize=128)
def _cut(prompter: Prompter, config: RunConfig) -> None:
    """Raise CellError where the text of a cell has no passage of its length."""
    cut(config, prompter)


def _guess(text: str) -> int:
    """About the tokens of a text where no tokenizer counts: four letters each, or a digit, a sign, line ends."""
    pieces = re.findall(r"[A-Za-z]+|\n+|\S", text)
    return sum(math.ceil(len(piece) / 4) if piece[0].isascii() and piece[0].isalpha() else 1 for piece in pieces)


class _Guess:
    """The ruler of a model whose tokenizer is not here, with a chat template of a usual size."""

    def context(self, text: str) -> int:
        return _TEMPLATE + _guess(text)

    def beside(self, turns: Sequence[Turn], most: Sequence[int]) -> int:
        return sum(most) + sum(_TEMPLATE + _guess(turn.question + turn.opening) for turn in turns)


def _least(request: Request) -> int:
    """Tokens of the session without filler."""
    try:
        build(replace(request, bare=True))
    except TooShortError as error:
        return error.least
    raise AssertionError(f"task {request.task!r} does not say what it needs")


def unbuildable(configs: Sequence[RunConfig]) -> tuple[list[Unbuildable], list[str]]:
    """The cells that cannot be built, and the models of which no tokenizer is here: theirs are estimated.

    Raises:
        UsageError: for a chat template that is asked for and not there.
    """
    found, unknown = list[Unbuildable](), dict[str, None]()
    for config in configs:
        prompter = _prompter(config.model, config.chat)
        if prompter is None and not config.continues:
            unknown[config.model] = None
        try:
            longest = config.length + (config.forced if config.continues else 0)
            check_positions(config.model, _positions(config.model), longest)
            check_built(config, prompter)
            if config.continues and config.source == GENERATED and prompter is not None:
                _cut(prompter, replace(config, press="full", bytes=""))
        except TooShortError as error:
            found.append(Unbuildable(config, f"needs a length of at least {error.least}", error.least))
        except CellError as error:
            found.append(Unbuildable(config, str(error)))
    return found, list(unknown)


@lru_cache(maxsize=64)
def _prompter(model: str, chat: str) -> Prompter | None:
    """The prompter of a model, without its weights; None where its tokenizer is not on this machine."""
    from transformers import AutoTokenizer

    tokenizer = _read(model, AutoTokenizer)
    return None if tokenizer is None else Prompter(tokenizer, rendering_of(tokenizer), chat)


@lru_cache(maxsize=64)
def _positions(model: str) -> int | None:
    from transformers import AutoConfig

    config = _read(model, AutoConfig)
    return None if config is None else getattr(config.get_text_config(), "max_position_embeddings", None)


def _read(model: str, kind: Any) -> Any:
    """What is not the weights of a model, where it is on this machine."""
    if not (model in BUNDLED or model in PRETRAINED or Path(model).expanduser().exists() or cached(model)):
        return None
    try:
        place = locate("tiny" if model in BUNDLED else model)
        return kind.from_pretrained(place.source, local_files_only=True, **place.options)
    except (OSError, ValueError, ImportError, UsageError):
        return None
