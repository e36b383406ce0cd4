"""One prepared cell of a sweep, from asking to its row. What fails while it runs becomes a failed
row.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone

import torch

from .asking import Answers, ask
from .environment import Peak, commit, versions
from .episode import Episode
from .life import live
from .metrics import exact, score
from .prepare import Cell, reason
from .rows import Row
from .tasks import get_task
from .tasks.extras import extras

__all__ = ["blank_row", "run_cell"]

Tick = Callable[[int], None]
"""Called after each session with the number of sessions done."""


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
        chance=get_task(config.task).chance(loaded.rendering, cell.source.turns) if cell.source.made else None,
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
        row.status, row.error = "failed", reason(error)
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
        row.not_measured = reason(error)
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
    flat_stops, said = list[bool](), list[list[str]]()
    for episode, got in zip(episodes, answers, strict=True):
        texts = [cell.loaded.prompter.text(ids) for ids in got.ids]
        row.session_ids.append(episode.id)
        _score(row, episode, texts, got.stopped)
        flat_stops += got.stopped
        said.append(texts)
    n = len(answers)
    width = max(len(scores) for scores in row.session_scores)
    columns = [[s[t] for s in row.session_scores if len(s) > t] for t in range(width)]
    row.n_by_turn = [len(column) for column in columns]
    row.score_by_turn = [sum(column) / len(column) for column in columns]
    row.turns = sum(row.n_by_turn)
    row.subtasks = _subtasks(row)
    row.extras = extras(episodes, said)
    row.cut = sum(episode.cut for episode in episodes) / n
    row.evidence_cut = sum(turn.cut for episode in episodes for turn in episode.turns) / row.turns
    row.score = sum(map(sum, row.session_scores)) / row.turns
    row.hit_limit = flat_stops.count(False) / row.turns
    row.empty = sum(not text.strip() for texts in said for text in texts) / row.turns
    row.bytes_dense = round(sum(a.dense_nbytes for a in answers) / n)
    row.bytes_ratio = sum(a.nbytes / a.dense_nbytes for a in answers) / n
    kinds = sorted({kind for a in answers for kind in a.by_kind})
    row.bytes_by_kind = {k: round(sum(a.by_kind.get(k, 0) for a in answers) / n) for k in kinds}
    row.bytes = sum(row.bytes_by_kind.values())  # so that rounded means still add up
    row.logical_length = sum(a.logical for a in answers) / n
    row.kept_all = all(a.kept_all for a in answers)
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
