"""One cell of a sweep before it is run: its configuration checked against its model, its press solved, its run id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kvpress.policies.kvzip import instructions

from ..errors import CellError, UsageError
from ..metrics import score
from ..rows.row_files import run_id
from ..sources import Passages, Source, Unread, open_source
from ..suites.episode import Episode
from .buildable import check_built
from .config import RunConfig
from .loaded import Loaded

if TYPE_CHECKING:
    from kvpress import Press, Session

__all__ = ["Cell", "prepare", "reason", "unbuilt"]

FILLED = 2
"""How generated natural text fills a length: 1 (no part of a run id) counted a chat template once per turn."""


@dataclass(frozen=True)
class Cell:
    """A checked configuration with its model and press: nothing mistyped is left in it.

    ``problem`` says why it cannot be run: ``unbuilt``, it cannot be made (a failed row); else its press cannot hold the
    bytes asked for (an unreachable one).
    """

    config: RunConfig
    loaded: Loaded
    press: Press
    id: str
    problem: str = ""
    unbuilt: bool = False

    def episode(self, session: int) -> Episode:
        """The episode of a session."""
        return self.source.episode(session)

    @cached_property
    def source(self) -> Source:
        """Where its sessions come from."""
        try:
            return open_source(self.config, self.loaded)
        except CellError:
            if self.unbuilt:
                return Unread(self.config)
            raise

    @property
    def chat(self) -> bool:
        """Whether its prompts are in the tokenizer's chat template."""
        return self.loaded.prompter.chat and not self.config.continues

    @contextmanager
    def session(self) -> Iterator[Session]:
        """The press entered on the model, with the instruction of presses that make it repeat a prompt."""
        with self.press(self.loaded.model) as session:
            if self.loaded.rendering == "natural":
                session.instructions = instructions(self.loaded.prompter.tokenizer, self.chat)
            yield session

    def informed(self, episode: Episode) -> AbstractContextManager[None]:
        """Around a session: an evidence oracle is told what its questions need."""
        from .evidence_oracle import (  # not before: importing it registers its press
            EvidenceOracle,
            about,
            evidence_tokens,
        )

        scorer = self.press.recipe.scorer
        if not isinstance(scorer, EvidenceOracle):
            return nullcontext()
        return about(evidence_tokens(self.loaded.prompter, episode, scorer.turn))

    @property
    def batch(self) -> int:
        """Questions answered at once."""
        whole = self.source.turns if self.loaded.rendering == "dialect" else 1
        return self.config.batch or whole


def _press(config: RunConfig, loaded: Loaded) -> tuple[Press, str]:
    """The press of a cell, solved for its bytes where it names some; as it was asked for, and why, where it cannot."""
    from kvpress import Press
    from kvpress.plan.solve import check, solve

    press = Press.parse(config.press)
    if not config.bytes:
        return press, ""
    check(press, config.bytes)
    length = _compressed(Cell(config, loaded, press, ""))
    key = (str(press), config.bytes, length)
    if key not in loaded.solved:
        try:
            loaded.solved[key] = solve(press, loaded.model, length, config.bytes).press
        except Exception as error:  # whatever it is, it is the result of the cells that need it
            loaded.solved[key] = reason(error)
    found = loaded.solved[key]
    return (press, found) if isinstance(found, str) else (found, "")


def _compressed(cell: Cell) -> int:
    """Tokens that the press of a cell sees when it fires."""
    if isinstance(cell.source, Passages):
        return len(cell.source.passage(0).prefix)
    prompt = cell.loaded.prompter.prompt(cell.episode(0))
    return len(prompt.context) + (len(prompt.questions[0]) if cell.config.question_visible else 0)


def reason(error: Exception) -> str:
    """An error as a row holds it: one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def prepare(config: RunConfig, loaded: Loaded) -> Cell:
    """Check a configuration against its model and press, and give it its run id.

    Raises:
        KVPressError: for an unknown press, one with wrong arguments, or bytes that cannot be read.
        CellError: for a cell that cannot be built, as by a length that the model or the task does not allow.
    """
    loaded.check_length(config.length + (config.forced if config.continues else 0))
    check_built(config, loaded.prompter)
    press, problem = _press(config, loaded)
    recipe = press.recipe
    if config.schedule == "every_turn_prompt" and recipe.evicts and not recipe.schedule.every_prompt:
        raise CellError(
            f"schedule every_turn_prompt needs a press that chooses again after each prompt, and "
            f"{press} does so once; give it every_prompt=true, or leave the schedule out"
        )
    cell = _identified(config, loaded, press, problem)
    _check_scorers(cell)
    try:
        with cell.informed(cell.episode(0)):  # an oracle whose evidence is not known is refused here
            return cell
    except UsageError as error:
        raise CellError(str(error)) from None


def unbuilt(config: RunConfig, loaded: Loaded, error: CellError) -> Cell:
    """The cell that could not be prepared: running it gives a failed row that says why."""
    from kvpress import Press

    return _identified(config, loaded, Press.parse(config.press), reason(error), unbuilt=True)


def _identified(config: RunConfig, loaded: Loaded, press: Press, problem: str, unbuilt: bool = False) -> Cell:
    resolved: dict[str, Any] = {
        "device": loaded.device.type,
        "dtype": loaded.dtype,
        "attn": loaded.attn,
        "rendering": loaded.rendering,
        "chat": loaded.prompter.chat and not config.continues,
        "weights": loaded.weights,
    }
    source = Cell(config, loaded, press, "", problem, unbuilt).source
    if source.digest:
        resolved["source"] = f"data {source.digest}"  # what the rows hold, not where they lie
    elif loaded.rendering == "natural" and not config.continues:
        resolved["filled"] = FILLED
    return Cell(config, loaded, press, run_id(config.identity(press.spec(), resolved)), problem, unbuilt)


def _check_scorers(cell: Cell) -> None:
    """Score something before anything is generated: a scorer whose package is missing says so now.

    Sessions of RepoQA may be in different languages; of other tasks the first one speaks for all.
    """
    if cell.config.continues:
        return
    all_of_them = cell.source.digest and cell.config.task.startswith("repoqa")
    for number in range(len(cell.source) if all_of_them else 1):
        episode = cell.episode(number)
        if cell.loaded.rendering == "natural":
            for turn in episode.turns:
                for scorer in ("corrected", "reference"):
                    score(turn.task or episode.task, "x", turn.reference, scorer)
