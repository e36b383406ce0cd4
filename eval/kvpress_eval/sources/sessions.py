"""From a record to an episode: its wording, its limits, and a context that fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..errors import UsageError
from ..metrics.golds import Gold
from ..suites.episode import Episode, Turn
from ..suites.prompt import Prompter
from .episode_rows import is_stored, stored
from .scbench_records import Record
from .token_limits import MAX_NEW, cut, limit, room
from .wanted import Wanted
from .wording import head, joints, words

__all__ = ["Pools", "episode", "pools"]

Pools = Mapping[str, Sequence[Mapping[str, str]]]
"""For each repository the functions that an answer is compared with."""


def pools(records: Sequence[Record]) -> Pools:
    """Every function asked for in any session of a repository, once."""
    found: dict[str, list[Mapping[str, str]]] = {}
    for record in records:
        for question in record.questions:
            needle = {"name": question.name, "needle": question.answer}
            if question.name and needle not in found.setdefault(record.repo, []):
                found[record.repo].append(needle)
    return found


def episode(config: Wanted, prompter: Prompter, records: Sequence[Record], session: int, known: Pools) -> Episode:
    """The episode of a record, truncated where it does not fit ``config.length``.

    Raises:
        UsageError: where it cannot be asked of this model, or nothing of the context would fit.
    """
    record, reference = records[session], config.prompts == "reference"
    alone = config.mode == "multi-request"
    if reference and record.meta.get("rendering") == "dialect":
        raise UsageError(
            f"{record.where} is of the bundled model's dialect, which has no released prompts; choose "
            "--prompts corrected"
        )
    if is_stored(record) and not reference:
        made = stored(record, config.length, prompter.rendering)
        if prompter.rendering == "dialect":
            return made
    elif prompter.rendering == "dialect":
        raise UsageError(
            f"{record.where} is natural text, and model {config.model!r} reads only its own dialect; choose another "
            "--model, or make rows for it with kvpress data --model tiny"
        )
    elif reference and record.task not in MAX_NEW:
        raise UsageError(f"task {record.task!r} has no released prompts; choose --prompts corrected")
    else:
        made = _worded(config, prompter, record, session, known)
        turns = limit(record.task, made.turns, reference, prompter.count)
        made = replace(made, turns=turns, max_new_tokens=max(turn.max_new_tokens for turn in turns))
    return cut(made, prompter, *room(made, prompter, reference, alone, len(records[0].questions)))


def _worded(config: Wanted, prompter: Prompter, record: Record, session: int, known: Pools) -> Episode:
    reference, alone = config.prompts == "reference", config.mode == "multi-request"
    own = config.history == "own"
    before = head(record, reference, alone)
    turns = []
    for t, question in enumerate(record.questions):
        text = words(record, t, reference, plain=not (prompter.chat or own))
        gold: Gold | None = question.gold
        if gold is None:
            gold = {"func_name": question.name, "lang": record.lang, "needles": known[record.repo]}
        answer = question.answer
        if isinstance(gold, tuple) and record.task != "choice_eng" and not reference:
            # the first of several right answers; all names of a list of them
            answer = " ".join(map(str, gold)) if record.task == "vt" else str(gold[0])
        spans = question.evidence or ()
        turns.append(
            Turn(
                question=text.question,
                answer=answer,
                evidence=tuple((start + len(before), end + len(before)) for start, end in spans),
                gold=gold,
                task=question.task,
                later=text.later,
                alone=text.alone,
                # the release begins the answers of summaries only in the chats of multi-turn mode
                opening=text.opening if prompter.chat and not alone else "",
            )
        )
    eos = str(prompter.tokenizer.eos_token or "") if own else None
    return Episode(
        task=record.task,
        rendering=prompter.rendering,
        context=before + record.context,
        turns=tuple(turns),
        max_new_tokens=0,
        length=config.length,
        seed=0,
        session=session,
        instruction=before,
        joints=joints(record, reference, eos),
    )
