"""What to run: frozen, self-validating configurations. A wrong key or value is one line that names
the right one.
"""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .config_values import amount, check_distinct, check_type, check_vary, convert, expand, expansions, names, read_yaml
from .episode import SUITE, VERSION
from .errors import UsageError, choose
from .sources import GENERATED, check_source
from .tasks import get_task, suite

__all__ = [
    "DEVICES",
    "DTYPES",
    "HISTORIES",
    "LARGE",
    "MODES",
    "SCHEDULES",
    "RunConfig",
    "SweepConfig",
    "load_sweep",
]

MODES = ("multi-turn", "multi-request")
CONTINUATION = "continuation"
"""The mode of tasks that ask nothing: it follows from the task."""
LM_TEXT = "lm_text"
HISTORIES = ("gold", "own")
SCHEDULES = ("after_context", "after_turn1_prompt", "every_turn_prompt")
DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda", "mps")
PROMPTS = ("corrected", "reference")
TURNS = 5
"""Questions of a generated session, where no number is given."""
LARGE = 50_000
"""Cells of the largest sweep that is run, or listed cell by cell."""


@dataclass(frozen=True)
class RunConfig:
    """One cell.

    ``schedule`` says when compression fires: ``after_turn1_prompt`` (the default in multi-turn
    mode: context and first question are in the cache), ``every_turn_prompt`` (again after each
    question), ``after_context`` (the only one in multi-request mode: no question is visible to the
    press). ``history`` says whose answers later turns see. ``length`` bounds all tokens of a
    session. ``batch`` questions are answered at once in multi-request mode (0: all of them for the
    bundled model, one at a time for others). ``chunk`` splits long prompts. ``bytes`` is a share of the
    dense cache ("12.5%") or an amount ("512MiB") that the press's free parameter is solved for, on
    what is compressed in the first session: its context, with the first question where that is visible.
    ``source`` is where the sessions come from: ``generated``, ``scbench`` (the real data, by its hub id), another hub
    id, or a folder of JSONL or parquet files in SCBench's schema. ``turns`` questions are asked in a session: 5 of
    generated ones by default, all that a row of data has (0). ``prompts`` are the released ones (``reference``) or
    those without their faults. ``depth`` (percent) puts all evidence at one place, -1 spreads it.

    Tasks of suite ``lm`` ask nothing, so that mode, schedule, history and turns are what they are: a prefix of
    ``length`` tokens is read and compressed, and the ``forced`` tokens that follow it are forced, in one forward
    (``forced_step`` 0) or that many at a time (1: as while decoding). ``text`` are the files of task ``lm_text``, which
    may also name a ``source``; ``sessions`` are passages.
    """

    model: str = "tiny"
    press: str = "full"
    task: str = "kv"
    mode: str = "multi-turn"
    length: int = 1024
    sessions: int = 20
    turns: int | None = None  # never None afterwards
    seed: int = 0
    schedule: str = "default"
    history: str = "gold"
    device: str = "auto"
    dtype: str = "auto"
    attn: str = "auto"
    chunk: int = 0
    batch: int = 0
    chat: str = "auto"
    bytes: str = ""
    source: str = "generated"
    prompts: str = "corrected"
    depth: int = -1
    forced: int = 256
    forced_step: int = 0
    text: Sequence[str] = ()

    def __post_init__(self) -> None:
        for f in fields(self):
            check_type(f.name, getattr(self, f.name), str(f.type))
        object.__setattr__(self, "text", tuple(self.text))
        for name in ("model", "press", "attn", "source"):
            if not getattr(self, name).strip():
                raise UsageError(f"{name} must name something, got an empty text")
        if self.continues:
            self._continue()
        elif self.turns is None:
            object.__setattr__(self, "turns", TURNS if self.source == GENERATED else 0)
        get_task(self.task)
        choose("prompts", self.prompts, PROMPTS)
        choose("mode", self.mode, (CONTINUATION,) if self.continues else MODES)
        choose("history", self.history, HISTORIES)
        choose("schedule", self.schedule, ("default", *SCHEDULES))
        choose("dtype", self.dtype, DTYPES)
        kind, colon, number = self.device.partition(":")
        choose("device", kind, DEVICES)
        if colon and not number.isdecimal():
            raise UsageError(f"device {self.device!r} has no number after its colon; write for example cuda:1")
        choose("chat", self.chat, ("auto", "on", "off"))
        object.__setattr__(self, "bytes", amount(self.bytes))
        for name, least in (
            ("length", 1),
            ("sessions", 1),
            ("turns", 1 if self.source == GENERATED else 0),
            ("chunk", 0),
            ("batch", 0),
            ("depth", -1),
            ("forced", 1),
            ("forced_step", 0),
        ):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.depth > 100:
            raise UsageError(
                f"depth is in percent of the context, 0 to 100 (-1 spreads the evidence), got {self.depth}"
            )
        self._check_forced()
        check_source(self)
        if self.mode == "multi-request" and self.schedule not in ("default", "after_context"):
            raise UsageError(
                f"schedule {self.schedule!r} needs mode 'multi-turn': multi-request compresses "
                "after_context, before any question is there"
            )
        if self.mode == "multi-request" and self.history == "own":
            raise UsageError("history 'own' needs mode 'multi-turn': multi-request questions have no history")
        if self.schedule == "default":
            usual = "after_turn1_prompt" if self.mode == "multi-turn" else "after_context"
            object.__setattr__(self, "schedule", usual)

    @property
    def continues(self) -> bool:
        """Whether nothing is asked and the text that follows the context is forced."""
        return get_task(self.task).kind == "continuation"

    def _continue(self) -> None:
        """What a continuation leaves no choice of, whatever a sweep says for its other tasks."""
        for name, value in _CONTINUES.items():
            object.__setattr__(self, name, value)
        if self.chat == "on":
            raise UsageError(f"task {self.task!r} reads raw text, without a chat template; leave --chat out")

    def _check_forced(self) -> None:
        for name in ("forced", "forced_step", "text"):
            if not self.continues and getattr(self, name) != _DEFAULTS[name]:
                raise UsageError(f"{name} is for the tasks of suite lm, and {self.task!r} is none; leave it out")

    @property
    def question_visible(self) -> bool:
        """Whether the press sees a question when it fires."""
        return self.schedule != "after_context"

    def identity(self, press_spec: str, resolved: Mapping[str, Any]) -> dict[str, Any]:
        """What the run id is made of: this cell with every value resolved, but no versions and no
        dates.
        """
        # fields that came later are left out at their default: rows of before keep their ids
        late = {"bytes", "source", "prompts", "depth", "forced", "forced_step", "text"}
        if self.continues:
            late -= {"forced", "forced_step"}
        own = {k: v for k, v in asdict(self).items() if k not in late or v != _DEFAULTS[k]}
        own.pop("text", None)  # it is resolved to what the files hold, not where they lie
        return {
            **own,
            **resolved,
            "press": press_spec,
            "suite": SUITE,
            "generators": VERSION,
        }

    def command(self) -> str:
        """The command that runs this cell again."""
        words = ["kvpress", "run"]
        always: tuple[str, ...] = (
            "model",
            "press",
            "task",
            "mode",
            "length",
            "sessions",
            "turns",
            "seed",
            "schedule",
            "history",
        )
        if self.continues:
            always = ("model", "press", "task", "length", "forced", "sessions", "seed")
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in always or (value != _DEFAULTS[f.name] and not (self.continues and f.name in _CONTINUES)):
                words += [f"--{f.name.replace('_', '-')}", *(value if isinstance(value, tuple) else (str(value),))]
        return shlex.join(words)


_DEFAULTS = {f.name: f.default for f in fields(RunConfig)}
_CONTINUES = {
    **{"mode": CONTINUATION, "schedule": "after_context", "history": "gold"},
    **{"turns": 1, "depth": -1, "batch": 0},
}


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
        return {"text"} if task != LM_TEXT and LM_TEXT in tasks else set()


def with_press(config: RunConfig, press: str) -> RunConfig:
    """The same cell under another press."""
    return replace(config, press=press, bytes="" if press == "full" else config.bytes)


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
