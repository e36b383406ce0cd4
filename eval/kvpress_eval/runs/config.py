"""What a cell is: a frozen configuration that checks itself. A wrong value is one line that names the right one."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..errors import UsageError, choose
from ..rows.amounts import amount
from ..sources import GENERATED, check_source
from ..suites import get_task
from ..suites.episode import SUITE, VERSION

__all__ = [
    "CONTINUATION",
    "DEVICES",
    "DTYPES",
    "HISTORIES",
    "MODES",
    "SCHEDULES",
    "RunConfig",
    "check_type",
    "with_press",
]

MODES = ("multi-turn", "multi-request")
CONTINUATION = "continuation"
"""The mode of tasks that ask nothing: it follows from the task."""
HISTORIES = ("gold", "own")
SCHEDULES = ("after_context", "after_turn1_prompt", "every_turn_prompt")
DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda", "mps")
PROMPTS = ("corrected", "reference")
TURNS = 5
"""Questions of a generated session, where no number is given."""


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


def with_press(config: RunConfig, press: str) -> RunConfig:
    """The same cell under another press."""
    return replace(config, press=press, bytes="" if press == "full" else config.bytes)


def check_type(key: str, value: Any, kind: str) -> None:
    """Raise UsageError for a value that is no whole number, or no text with anything in it.

    ``kind`` is how a field is annotated: ``int``, ``str`` or one of these ``| None``.
    """
    if value is None and kind.endswith("None"):
        return
    if kind.startswith("int") and (isinstance(value, bool) or not isinstance(value, int)):
        raise UsageError(f"{key} must be a whole number, got {value!r}")
    if kind.startswith("str") and not isinstance(value, str):
        raise UsageError(f"{key} must be text, got {value!r}")
    if kind == "Sequence[str]" and (isinstance(value, str) or not all(isinstance(item, str) for item in value)):
        raise UsageError(f"{key} must be a list of texts, got {value!r}")
