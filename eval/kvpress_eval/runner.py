"""One cell of a sweep, from a configuration to a row. What fails while it runs becomes a failed
row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from kvpress.policies.kvzip import instructions

from .asking import Answers, ask
from .config import RunConfig
from .environment import Peak, commit, versions
from .episode import Episode
from .errors import UsageError
from .life import live
from .metrics import exact, score
from .models import Loaded
from .rows import Row, run_id
from .sources import Source, open_source
from .tasks import get_task

if TYPE_CHECKING:
    from kvpress import Press, Session

__all__ = ["Cell", "blank_row", "prepare", "run_cell"]

Tick = Callable[[int], None]
"""Called after each session with the number of sessions done."""


@dataclass(frozen=True)
class Cell:
    """A checked configuration with its model and press: nothing mistyped is left in it.

    ``problem`` says why its press cannot hold the bytes asked for; running it gives a failed row.
    """

    config: RunConfig
    loaded: Loaded
    press: Press
    id: str
    problem: str = ""

    def episode(self, session: int) -> Episode:
        """The episode of a session."""
        return self.source.episode(session)

    @cached_property
    def source(self) -> Source:
        """Where its sessions come from."""
        return open_source(self.config, self.loaded)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """The press entered on the model, with the instruction of presses that make it repeat a prompt."""
        with self.press(self.loaded.model) as session:
            if self.loaded.rendering == "natural":
                session.instructions = instructions(self.loaded.prompter.tokenizer)
            yield session

    def informed(self, episode: Episode) -> AbstractContextManager[None]:
        """Around a session: an evidence oracle is told what its questions need."""
        from .oracle import EvidenceOracle, about, evidence_tokens  # not before: importing it registers its press

        cheats = isinstance(self.press.recipe.scorer, EvidenceOracle)
        return about(evidence_tokens(self.loaded.prompter, episode)) if cheats else nullcontext()

    @property
    def batch(self) -> int:
        """Questions answered at once."""
        whole = self.config.turns if self.loaded.rendering == "dialect" else 1
        return self.config.batch or whole


def _press(config: RunConfig, loaded: Loaded) -> tuple[Press, str]:
    """The press of a cell, solved for its bytes where it names some; as it was asked for, and why, where it cannot."""
    from kvpress import Press
    from kvpress.solve import check, solve

    press = Press.parse(config.press)
    if not config.bytes:
        return press, ""
    check(press, config.bytes)
    prompt = loaded.prompter.prompt(Cell(config, loaded, press, "").episode(0))
    length = len(prompt.context) + (len(prompt.questions[0]) if config.question_visible else 0)
    key = (str(press), config.bytes, length)
    if key not in loaded.solved:
        try:
            loaded.solved[key] = solve(press, loaded.model, length, config.bytes).press
        except Exception as error:  # whatever it is, it is the result of the cells that need it
            loaded.solved[key] = _reason(error)
    found = loaded.solved[key]
    return (press, found) if isinstance(found, str) else (found, "")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def prepare(config: RunConfig, loaded: Loaded) -> Cell:
    """Check a configuration against its model and press, and give it its run id.

    Raises:
        KVPressError: for an unknown press, one with wrong arguments, or bytes that cannot be read.
        UsageError: for a length that the model or the task does not allow.
    """
    loaded.check_length(config.length)
    press, problem = _press(config, loaded)
    recipe = press.recipe
    if config.schedule == "every_turn_prompt" and recipe.evicts and not recipe.schedule.every_prompt:
        raise UsageError(
            f"schedule every_turn_prompt needs a press that chooses again after each prompt, and "
            f"{press} does so once; give it every_prompt=true, or leave the schedule out"
        )
    resolved: dict[str, Any] = {
        "device": loaded.device.type,
        "dtype": loaded.dtype,
        "attn": loaded.attn,
        "rendering": loaded.rendering,
        "chat": loaded.prompter.chat,
        "weights": loaded.weights,
    }
    source = open_source(config, loaded)
    if source.digest:
        resolved["source"] = f"data {source.digest}"  # what the rows hold, not where they lie
    cell = Cell(config, loaded, press, run_id(config.identity(press.spec(), resolved)), problem)
    _check_scorers(cell)
    return cell


def _check_scorers(cell: Cell) -> None:
    """Score something before anything is generated: a scorer whose package is missing says so now.

    Sessions of RepoQA may be in different languages; of other tasks the first one speaks for all.
    """
    all_of_them = cell.source.digest and cell.config.task.startswith("repoqa")
    for number in range(len(cell.source) if all_of_them else 1):
        episode = cell.episode(number)
        if cell.loaded.rendering == "natural":
            for turn in episode.turns:
                for scorer in ("corrected", "reference"):
                    score(turn.task or episode.task, "x", turn.reference, scorer)


def blank_row(cell: Cell) -> Row:
    """The row of a cell that was not run yet: what it is, without results; failed where its press has a problem."""
    from kvpress import Press

    config, loaded = cell.config, cell.loaded
    row = Row(
        run_id=cell.id,
        status="ok",
        model=config.model,
        model_note=loaded.note,
        weights=loaded.weights,
        press=str(cell.press),
        press_spec=str(cell.press) if cell.problem else cell.press.spec(),
        asked=str(Press.parse(config.press)),
        target=config.bytes,
        task=config.task,
        mode=config.mode,
        history=config.history,
        schedule=config.schedule + ("+every_step" if cell.press.recipe.schedule.continuous else ""),
        question_visible=config.question_visible,
        rendering=loaded.rendering,
        length=config.length,
        seed=config.seed,
        sessions=len(cell.source),
        chance=get_task(config.task).chance(loaded.rendering, config.turns),
        device=_device_name(loaded.device),
        dtype=loaded.dtype,
        attn=loaded.attn,
        threads=torch.get_num_threads(),
        versions=versions(),
        commit=commit(),
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=config.command(),
        suite=get_task(config.task).suite,
        source=config.source,
        prompts=config.prompts,
        scorer="exact" if loaded.rendering == "dialect" else "corrected",
        depth=None if config.depth < 0 else config.depth,
        chat=loaded.prompter.chat,
    )
    if cell.problem:
        row.status, row.error = "failed", cell.problem
    return row


def run_cell(cell: Cell, tick: Tick | None = None) -> Row:
    """Run every session of a cell. Never raises for what goes wrong inside: the row says so.

    A row of an interrupted cell is never made: ``KeyboardInterrupt`` passes.
    """
    loaded, row = cell.loaded, blank_row(cell)
    if cell.problem:
        return row
    clock, peak = time.perf_counter(), Peak(loaded.device)
    try:
        _live(row, cell)
        peak.start()
        episodes, answers = _sessions(cell, tick)
        row.peak_memory, row.peak_kind = peak.read()
        _fill(row, cell, episodes, answers)
    except Exception as error:  # whatever it is, it is this cell's result
        row.status, row.error = "failed", _reason(error)
    row.seconds = time.perf_counter() - clock
    return row


def _live(row: Row, cell: Cell) -> None:
    """What one prefix goes through; not measured where memory is too short for it, as the sessions may still run."""
    prompt = cell.loaded.prompter.prompt(cell.episode(0))
    small = cell.loaded.rendering == "dialect"
    try:
        with cell.session() as session, cell.informed(cell.episode(0)):
            found = live(cell.loaded.model, session, prompt, cell.config, rehearse=small)
    except torch.OutOfMemoryError as error:
        row.not_measured = _reason(error)
        return
    for name, value in asdict(found).items():
        setattr(row, name, value)


def _sessions(cell: Cell, tick: Tick | None) -> tuple[list[Episode], list[Answers]]:
    model = cell.loaded.model
    generation = getattr(model, "generation_config", None)
    ends = getattr(generation, "eos_token_id", None)
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    stops = cell.loaded.prompter.stops(ends)
    episodes, answers = [], []
    with cell.session() as session:
        for number in range(len(cell.source)):
            episode = cell.episode(number)
            prompt = cell.loaded.prompter.prompt(episode)
            most = [turn.max_new_tokens or episode.max_new_tokens for turn in episode.turns]
            with cell.informed(episode):
                answers.append(ask(model, session, prompt, cell.config, stops, most, cell.batch))
            episodes.append(episode)
            if tick is not None:
                tick(number + 1)
    return episodes, answers


def _fill(row: Row, cell: Cell, episodes: list[Episode], answers: list[Answers]) -> None:
    flat_stops, flat_texts = list[bool](), list[str]()
    for episode, got in zip(episodes, answers, strict=True):
        texts = [cell.loaded.prompter.text(ids) for ids in got.ids]
        row.session_ids.append(episode.id)
        _score(row, episode, texts, got.stopped)
        flat_stops += got.stopped
        flat_texts += texts
    n = len(answers)
    width = max(len(scores) for scores in row.session_scores)
    columns = [[s[t] for s in row.session_scores if len(s) > t] for t in range(width)]
    row.n_by_turn = [len(column) for column in columns]
    row.score_by_turn = [sum(column) / len(column) for column in columns]
    row.turns = sum(row.n_by_turn)
    row.subtasks = _subtasks(row)
    row.cut = sum(episode.cut for episode in episodes) / n
    row.evidence_cut = sum(turn.cut for episode in episodes for turn in episode.turns) / row.turns
    row.score = sum(map(sum, row.session_scores)) / row.turns
    row.hit_limit = flat_stops.count(False) / row.turns
    row.empty = sum(not text.strip() for text in flat_texts) / row.turns
    row.bytes_dense = round(sum(a.dense_nbytes for a in answers) / n)
    row.bytes_ratio = sum(a.nbytes / a.dense_nbytes for a in answers) / n
    kinds = sorted({kind for a in answers for kind in a.by_kind})
    row.bytes_by_kind = {k: round(sum(a.by_kind.get(k, 0) for a in answers) / n) for k in kinds}
    row.bytes = sum(row.bytes_by_kind.values())  # so that rounded means still add up
    row.logical_length = sum(a.logical for a in answers) / n
    row.prefill_s = sum(a.prefill_s for a in answers) / n
    row.prefill_tps = sum(a.read_tokens for a in answers) / max(1e-9, sum(a.prefill_s for a in answers))
    row.fired = 0.0 if row.press == "full" else sum(a.fired for a in answers) / n
    row.fork_s = sum(a.fork_s for a in answers) / sum(a.forks for a in answers)
    row.step_bytes = round(sum(sum(a.step_bytes) for a in answers) / row.turns)
    row.decode_length = sum(sum(a.decode_lengths) for a in answers) / row.turns
    row.session_bytes = max(a.session_bytes for a in answers)
    row.ttft_s = sum(a.first_s for a in answers) / n
    row.tpot_s = sum(a.decode_s for a in answers) / max(1, sum(a.steps for a in answers))


def _score(row: Row, episode: Episode, texts: list[str], stopped: list[bool]) -> None:
    """Score the answers of a session; natural text by both scorers, for tables of their own."""
    if row.scorer == "exact":
        # the stop token is part of what the dialect must say
        said = [text + (" ;" if stop else "") for text, stop in zip(texts, stopped, strict=True)]
        row.session_scores.append([exact(text, turn.answer) for text, turn in zip(said, episode.turns, strict=True)])
    else:
        pairs = [(turn.task or row.task, text, turn.reference) for turn, text in zip(episode.turns, texts, strict=True)]
        row.session_scores.append([score(*pair, "corrected") for pair in pairs])
        row.reference_scores.append([score(*pair, "reference") for pair in pairs])
    if any(turn.task for turn in episode.turns):
        row.turn_tasks.append([turn.task for turn in episode.turns])


def _subtasks(row: Row) -> dict[str, float]:
    """The mean score of every sub-task of a mixed task; one that a turn does not ask is missing there, not zero."""
    found: dict[str, list[float]] = {}
    for tasks, scores in zip(row.turn_tasks, row.session_scores, strict=False):
        for task, value in zip(tasks, scores, strict=True):
            found.setdefault(task, []).append(value)
    return {task: sum(values) / len(values) for task, values in sorted(found.items())}


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return device.type
