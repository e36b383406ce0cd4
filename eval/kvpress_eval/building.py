"""Which cells cannot be built, and the least length each needs: known from a tokenizer, before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from .config import RunConfig
from .episode import Request
from .errors import CellError, TooShortError, UsageError
from .models import BUNDLED
from .prompt import Prompter, rendering_of
from .ruler import asking, guessing
from .sources import GENERATED
from .tasks import build

__all__ = ["Unbuildable", "check_built", "check_positions", "unbuildable"]

_NEAR = 1.3  # sessions of a task differ by less in the length they need


@dataclass(frozen=True)
class Unbuildable:
    """A cell that will be a failed row. ``least`` is the length it needs, None where no length would do."""

    config: RunConfig
    reason: str
    least: int | None = None


def check_built(config: RunConfig, prompter: Prompter | None) -> None:
    """Raise CellError where a session of a cell cannot be built; without a prompter, by an estimate.

    Sessions of data that was not generated are not looked at.
    """
    if config.source != GENERATED:
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
            request = guessing(task, length, turns, seed, session, depth)
        else:
            request = asking(prompter, task, length, turns, seed, session, depth)
        needed = max(needed, _least(request))
        if needed * _NEAR < length:
            return  # and so would all others
    if needed > length:
        raise TooShortError(task, turns, needed, length)


def _least(request: Request) -> int:
    """Tokens of the session without filler."""
    try:
        build(replace(request, bare=True))
    except TooShortError as error:
        return error.least
    raise AssertionError(f"task {request.task!r} does not say what it needs")


def check_positions(name: str, limit: int | None, length: int) -> None:
    """Raise CellError for more tokens than a model has positions."""
    if limit is not None and length > limit:
        raise CellError(
            f"length {length} is more than model {name!r} has positions ({limit}); use --length {limit} or less"
        )


def unbuildable(configs: Sequence[RunConfig]) -> tuple[list[Unbuildable], list[str]]:
    """The cells that cannot be built, and the models of which no tokenizer is here: theirs are estimated.

    Raises:
        UsageError: for a chat template that is asked for and not there.
    """
    found, unknown = list[Unbuildable](), dict[str, None]()
    for config in configs:
        prompter = _prompter(config.model, config.chat)
        if prompter is None:
            unknown[config.model] = None
        try:
            check_positions(config.model, _positions(config.model), config.length)
            check_built(config, prompter)
        except TooShortError as error:
            found.append(Unbuildable(config, f"needs a length of at least {error.least}", error.least))
        except CellError as error:
            found.append(Unbuildable(config, str(error)))
    return found, list(unknown)


@lru_cache(maxsize=64)
def _prompter(model: str, chat: str) -> Prompter | None:
    """The prompter of a model, without its weights; None where its tokenizer is not on this machine."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(_folder(model), local_files_only=True)
    except (OSError, ValueError, ImportError, UsageError):
        return None
    return Prompter(tokenizer, rendering_of(tokenizer), chat)


@lru_cache(maxsize=64)
def _positions(model: str) -> int | None:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(_folder(model), local_files_only=True)
    except (OSError, ValueError, ImportError, UsageError):
        return None
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _folder(model: str) -> str:
    """Where the files of a model are: a folder, or a hub id that may be in the cache."""
    if model in BUNDLED:
        from .tiny import weights_path

        return str(weights_path())
    folder = Path(model).expanduser()
    return str(folder) if folder.is_dir() else model
