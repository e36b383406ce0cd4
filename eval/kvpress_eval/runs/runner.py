"""One prepared cell of a sweep, from asking to its row. What fails while it runs becomes a failed
row.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from typing import cast

import torch

from ..machine.disturbance import Disturbance, quiet, spread
from ..machine.environment import Peak, commit, versions
from ..metrics import exact, score
from ..rows.answers import seal
from ..rows.row import Row
from ..rows.row_faults import RowError
from ..rows.row_types import Premise
from ..sources import Passages
from ..suites import get_task
from ..suites.episode import Episode
from ..suites.extras import extras
from .asking import Answers, ask
from .continuation import Continued, run_passages
from .evidence_places import known_tokens
from .life import live
from .prepare import Cell, reason
from .transcript import Asked, asked, records

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
        history="" if config.continues else config.history,
        schedule=config.schedule + (f"+{again}" if (again := cell.press.recipe.schedule).interval else ""),
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
        commit=commit() or "",
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=config.command(),
        suite=get_task(config.task).suite,
        source=cell.source.told if isinstance(cell.source, Passages) else config.source,
        prompts=config.prompts,
        scorer="agreement" if config.continues else "exact" if loaded.rendering == "dialect" else "corrected",
        depth=None if config.depth < 0 else config.depth,
        chat=cell.chat,
        forced=config.forced if config.continues else 0,
        forced_step=config.forced_step,
    )
    if cell.problem:
        row.status, row.error = "failed" if cell.unbuilt else "unreachable", cell.problem
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
        disturbance = Disturbance(loaded.device, len(cell.source))
        if isinstance(cell.source, Passages):
            _continued(row, run_passages(cell, cell.source, disturbance.probe, tick), cell.config.sessions)
        else:
            _live(row, cell)
            peak.start()
            sessions, answers = _sessions(row, cell, disturbance.probe, tick)
            row.peak_memory, row.peak_kind = peak.read()
            _fill(row, sessions, answers)
        row.disturbance |= disturbance.read()
        row.quiet = quiet(row.disturbance)
        Row.from_dict(row.to_dict())  # a row that nobody can read is worse than none
    except RowError as error:
        row = blank_row(cell)
        row.status, row.error = "failed", reason(ValueError(error.fault))
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


def _sessions(row: Row, cell: Cell, probe: Callable[[], None], tick: Tick | None) -> tuple[list[Asked], list[Answers]]:
    model = cell.loaded.model
    generation = getattr(model, "generation_config", None)
    ends = getattr(generation, "eos_token_id", None)
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    stops = cell.loaded.prompter.stops(ends)
    sessions, answers = [], []
    prompter = cell.loaded.prompter
    with cell.session() as session:
        for number in range(len(cell.source)):
            episode = cell.episode(number)
            prompt = prompter.prompt(episode)
            most = [turn.max_new_tokens or episode.max_new_tokens for turn in episode.turns]
            evidence = known_tokens(prompter, episode, prompt.context)
            with cell.informed(episode):
                got = ask(model, session, prompt, cell.config, stops, most, cell.batch, evidence or ())
            answers.append(got)
            sessions.append(asked(prompter, cell.config, episode, prompt, evidence, got))
            probe()
            if tick is not None:
                tick(number + 1)
        row.premises = [cast("Premise", found.to_dict()) for found in session.premises or ()]
    return sessions, answers


def _continued(row: Row, found: Continued, asked: int) -> None:
    """The score of a passage is the share of tokens at which the full cache has the same most likely one."""
    row.session_ids, row.measures = found.ids, found.measures
    row.session_scores = [[float(share or 0.0) for share in shares] for shares in found.measures["agree"]]
    row.turns = len(found.ids)
    row.n_by_turn, row.score = [row.turns], sum(map(sum, row.session_scores)) / row.turns
    row.score_by_turn = [row.score]
    row.peak_memory, row.peak_kind = found.peak
    row.premises = found.premises
    _costs(row, found.answers)
    row.not_measured = "compressing alone, files: a prefix is read once"
    if len(found.ids) < asked:
        row.not_measured += f"; {asked - len(found.ids)} of {asked} passages: the text has no more"
    if row.forced_step != 1:
        row.tpot_s = None  # no token was decoded by itself


def _fill(row: Row, sessions: list[Asked], answers: list[Answers]) -> None:
    episodes, said = [session.episode for session in sessions], [session.said for session in sessions]
    flat_stops = list[bool]()
    for episode, texts, got in zip(episodes, said, answers, strict=True):
        row.session_ids.append(episode.id)
        _score(row, episode, texts, got.stopped)
        flat_stops += got.stopped
    n = len(answers)
    width = max(len(scores) for scores in row.session_scores)
    columns = [[s[t] for s in row.session_scores if len(s) > t] for t in range(width)]
    row.n_by_turn = [len(column) for column in columns]
    row.score_by_turn = [sum(column) / len(column) for column in columns]
    row.turns = sum(row.n_by_turn)
    row.subtasks = _subtasks(row)
    row.extras = extras(episodes, said)
    row.measures = _measures(answers)
    row.cut = sum(episode.cut for episode in episodes) / n
    row.evidence_cut = sum(turn.cut for episode in episodes for turn in episode.turns) / row.turns
    row.score = sum(map(sum, row.session_scores)) / row.turns
    row.hit_limit = flat_stops.count(False) / row.turns
    row.empty = sum(not text.strip() for texts in said for text in texts) / row.turns
    _costs(row, answers)
    seal(row, records(row, sessions, answers))


def _costs(row: Row, answers: list[Answers]) -> None:
    """Bytes and times; ``row.turns`` answers were given."""
    n = len(answers)
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
    forks = sum(a.forks for a in answers)
    row.fork_s = sum(a.fork_s for a in answers) / forks if forks else None
    row.step_bytes = round(sum(sum(a.step_bytes) for a in answers) / row.turns)
    row.decode_length = sum(sum(a.decode_lengths) for a in answers) / row.turns
    row.session_bytes = max(a.session_bytes for a in answers)
    row.ttft_s = sum(a.first_s for a in answers) / n
    row.tpot_s = sum(a.decode_s for a in answers) / max(1, sum(a.steps for a in answers))
    if (apart := spread([a.decode_s / a.steps for a in answers if a.steps])) is not None:
        row.disturbance["spread"] = apart


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


def _measures(answers: list[Answers]) -> dict[str, list[list[float | None]]]:
    """What is measured of every question, rounded so that a row stays readable; nothing where no question has it."""
    golds = [got.golds for got in answers]
    if all(one is None for session in golds for one in session):
        return {}
    return {
        "gold_logprob": [[None if one is None else round(one.logprob, 6) for one in session] for session in golds],
        "gold_argmax": [[None if one is None else float(one.argmax) for one in session] for session in golds],
    }


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
