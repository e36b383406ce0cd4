"""What a sweep is: lists of values, and the cells that they span. A wrong key or value is one line that names the right
one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..errors import UsageError, choose
from ..rows.amounts import amount
from ..runs.config import MODES, RunConfig
from ..suites import get_task, suite
from .grid_values import check_distinct, check_vary, convert, expand, expansions, names, read_yaml

__all__ = ["LARGE", "SweepConfig", "load_sweep"]

LARGE = 50_000
"""Cells of the largest sweep that is run, or listed cell by cell."""
_LM_TEXT = "lm_text"
_DEFAULTS: dict[str, Any] = {f.name: f.default for f in fields(RunConfig)}


@dataclass(frozen=True)
class SweepConfig:
    """A grid of cells: every combination of the lists, the full cache first for each.

    A press may hold names in braces that ``vary`` lists values for: ``snapkv(keep={keep})`` with
    ``vary: {keep: [0.5, 0.25]}``. A single value stands for a list of one. ``bytes`` lists amounts that
    every press is solved for. ``schedule`` is for multi-turn mode. The name of a suite among ``tasks`` stands
    for all of its tasks; ``depths`` are those of RunConfig.depth; ``forced``, ``forced_step`` and ``text`` are for the
    tasks of suite lm.
    """

    models: Sequence[str] = ("tiny",)
    presses: Sequence[str] = ("full",)
    tasks: Sequence[str] = ("kv",)
    modes: Sequence[str] = MODES
    lengths: Sequence[int] = (1024,)
    seeds: Sequence[int] = (0,)
    vary: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    sessions: int = 20
    turns: int | None = None
    schedule: str = "default"
    history: str = "gold"
    device: str = "auto"
    dtype: str = "auto"
    attn: str = "auto"
    chunk: int = 0
    batch: int = 0
    chat: str = "auto"
    bytes: Sequence[str] = ()
    source: str = "generated"
    prompts: str = "corrected"
    depths: Sequence[int] = (-1,)
    forced: int = 256
    forced_step: int = 0
    text: Sequence[str] = ()

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> SweepConfig:
        """The configuration of plain data, checked key by key.

        Raises:
            UsageError: for an unknown key or a value of the wrong type.
        """
        types = {f.name: str(f.type) for f in fields(cls)}
        values: dict[str, Any] = {}
        for key, value in data.items():
            kind = types[choose("key", str(key), types, "kvpress sweep --help")]
            values[key] = convert(str(key), value, kind)
        return cls(**values)

    def __post_init__(self) -> None:
        for f in fields(self):
            if str(f.type).startswith("Sequence") and f.name != "bytes" and (f.name != "text" or self.text):
                check_distinct(f.name, getattr(self, f.name))
        check_vary(self.presses, self.vary)
        if self.bytes:
            check_distinct("bytes", [amount(text) for text in self.bytes])

    @property
    def _tasks(self) -> list[str]:
        return list(dict.fromkeys(task for name in self.tasks for task in suite(name) or [name]))

    def count(self) -> int:
        """How many cells there are, without making them."""
        presses = expansions(self.presses, self.vary)
        if presses <= LARGE:  # two may come out the same
            presses = len(set(expand(self.presses, self.vary)) - {"full"})
        sized = 1 + presses * max(1, len(self.bytes))
        continued = sum(get_task(task).kind == "continuation" for task in self._tasks)
        # those have one mode and no depth
        tasks = continued + (len(self._tasks) - continued) * len(self.depths) * len(self.modes)
        return math.prod(map(len, (self.models, self.lengths, self.seeds))) * tasks * sized

    def examples(self) -> list[RunConfig]:
        """Cells with every value of every list, one list at a time, but of ``vary`` the first values only."""
        lists = ("models", "lengths", "seeds", "tasks", "modes", "depths")
        firsts = {name: values[:1] for name, values in self.vary.items()}
        first = suite(self.tasks[0]) or self.tasks[:1]
        unused = set.intersection(*(self._unused(task, self._tasks) for task in first))
        own = {name: getattr(self, name) for name in unused}  # of tasks that come later
        one = replace(
            self, vary=firsts, **{name: getattr(self, name)[:1] for name in lists}, **{n: _DEFAULTS[n] for n in unused}
        )
        full = replace(one, presses=("full",), vary={}, bytes=())
        longer = (replace(full, **{name: getattr(self, name)}, **(own if name == "tasks" else {})) for name in lists)
        return [config for sweep in (one, *longer) for config in sweep.cells()]

    def cells(self) -> list[RunConfig]:
        """Every cell once, the full cache first of its kind (others are compared with it).

        Raises:
            UsageError: for a value that no cell can have, or more than :data:`LARGE` cells.
        """
        if (count := self.count()) > LARGE:
            raise UsageError(
                f"the sweep has {count:,} cells, more than {LARGE:,}; give it shorter lists, or make several of it"
            )
        presses = list(dict.fromkeys(["full", *expand(self.presses, self.vary)]))
        shared = {f.name for f in fields(RunConfig)} & {f.name for f in fields(self)} - {"bytes"}
        base = {name: getattr(self, name) for name in shared}
        sized = [(press, size) for press in presses for size in (("",) if press == "full" else self.bytes or ("",))]
        unused = {task: self._unused(task, self._tasks) for task in self._tasks}
        # presses last: they are asked the same sessions, which are made or read once
        grid = itertools.product(self.models, self.lengths, self.seeds, self._tasks, self.depths, self.modes, sized)
        found = []
        for model, length, seed, task, depth, mode, (press, size) in grid:
            own = {k: v for k, v in base.items() if k not in unused[task]} | {"bytes": size, "depth": depth}
            if mode == "multi-request":
                own |= {"schedule": "default", "history": "gold"}
            found.append(RunConfig(**own, model=model, press=press, task=task, mode=mode, length=length, seed=seed))
        return list(dict.fromkeys(found))

    @staticmethod
    def _unused(task: str, tasks: Sequence[str]) -> set[str]:
        """What another of the tasks needs and this one has no use for; what none of them uses is refused."""
        forced = {"forced", "forced_step", "text"}
        kinds = {get_task(other).kind for other in tasks}
        if len(kinds) > 1 and get_task(task).kind == "questions":
            return forced
        return {"text"} if task != _LM_TEXT and _LM_TEXT in tasks else set()


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> SweepConfig:
    """The sweep of a YAML file with ``key=value`` overrides in OmegaConf syntax.

    Raises:
        UsageError: for a missing or damaged file, an unknown key or a value of the wrong type.
    """
    own, data = read_yaml(path, overrides)
    vary, used = data.get("vary"), names(data.get("presses"))
    if isinstance(vary, Mapping) and set(used) <= set(vary):
        # other presses on the command line leave names of the file without a use: no mistake
        unused = set(names(own.get("presses"))) - set(used)
        data["vary"] = {name: values for name, values in vary.items() if name not in unused}
    return SweepConfig.from_mapping(data)
