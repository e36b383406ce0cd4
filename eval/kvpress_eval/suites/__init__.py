"""The tasks: one file each, in two renderings (the bundled model's dialect, and natural text for
any tokenizer).
"""

from __future__ import annotations

from ..errors import EpisodeError, choose, suggest
from . import ruler
from .episode import Episode, Request
from .task import Task
from .tasks import (
    choice_eng,
    kv,
    lm,
    longgen,
    many_shot,
    mf,
    needle,
    needle_grid,
    passkey,
    prefix_suffix,
    qa_chn,
    qa_eng,
    repoqa,
    repoqa_and_kv,
    summary,
    summary_with_needles,
    vt,
)

__all__ = ["TASKS", "Task", "build", "get_task", "suite"]

TASKS: dict[str, Task] = {
    module.TASK.name: module.TASK
    for module in (
        kv,
        prefix_suffix,
        vt,
        repoqa,
        qa_eng,
        qa_chn,
        choice_eng,
        many_shot,
        mf,
        summary,
        summary_with_needles,
        repoqa_and_kv,
    )
}
# the other suites
TASKS |= {
    task.name: task for task in (*ruler.TASKS, needle.TASK, needle_grid.TASK, passkey.TASK, longgen.TASK, *lm.TASKS)
}


def get_task(name: str) -> Task:
    """The task called ``name``.

    Raises:
        UsageError: for an unknown name, with the nearest one.
    """
    return TASKS[choose("task", name, TASKS)]


def suite(name: str) -> list[str]:
    """Names of the tasks of a suite; empty where there is no such suite. ``lm`` stands for the texts that every Python
    holds: the others need files, or a model that reads the dialect.
    """
    return [task.name for task in TASKS.values() if task.suite == name and task.name not in lm.NAMED]


def build(request: Request) -> Episode:
    """The episode of a request, checked: the solver finds every answer in the context.

    Raises:
        EpisodeError: where it does not fit the length, or the task has no such rendering.
        AssertionError: for a fault of the generator.
    """
    task = get_task(request.task)
    if request.rendering not in task.build:
        able = [name for name, other in TASKS.items() if request.rendering in other.build]
        raise EpisodeError(
            f"task {task.name!r} has no {request.rendering} rendering, which is what this model reads; give another "
            f"--model, or another task: {suggest(task.name, able, 'task')}"
        )
    episode = task.build[request.rendering](request)
    for turn in episode.turns:
        found = task.solve[request.rendering](episode.context, turn.question)
        # the order of a list of names is not part of the answer
        listed = isinstance(turn.gold, tuple)
        same = sorted(found.split()) == sorted(turn.answer.split()) if listed else found == turn.answer
        if not (same and turn.answer):
            raise AssertionError(f"{episode.id}: context says {found!r}, gold {turn.answer!r}")
    return episode
