"""The schema of a result row: one cell of a sweep (model, press, task, mode, length, seed), one JSON file.

Whatever reads a row reads it here, and whatever writes one writes this class. What is a valid row is what the types of
the fields say, and `_contradiction` for what takes two fields to tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args, get_type_hints

import msgspec

from ..machine.printable import plain
from .row_faults import RowError, in_words
from .row_types import CORRECTED, GENERATED, REFERENCE, SCBENCH, Count, Name, Number, Premise, Required, Share

__all__ = ["FORMAT", "HINTS", "MAY_BE_NULL", "Row"]

FORMAT = 1
_File = bytes  # a row has a field of that name
MEASURED = {"measured": True}
"""Marks what a run measures: only a finished one has it."""


@dataclass(kw_only=True)
class Row:
    """Everything a number needs to be believed; times in seconds, memory in bytes, scores in 0..1.

    ``bytes`` is the mean over sessions of what the cache really holds right after the first
    compression, ``bytes_dense`` what a dense cache of as many tokens takes, ``bytes_ratio`` the
    mean of their quotients. ``ttft_s`` is the mean time from the first token fed to the first
    answer token known (context, question and compression included), ``tpot_s`` the mean time of a
    further decoding step, ``press_s`` the time that compressing session 0's first prompt takes by
    itself. ``asked`` is the press as the user named it and ``target`` the bytes it was solved for ("12.5%"; ""
    without): ``press`` then has the value that was found. A failed cell has ``status`` "failed", one that cannot hold
    ``target`` bytes "unreachable"; both have one line of ``error`` and no scores.
    ``peak_kind`` says what ``peak_memory`` is: "rss above loaded model" or "cuda allocated above
    model".

    ``kept_all`` says that the press changed nothing in any session: what was read and answered was shorter than the
    budget, the protected slots or the dense window.

    ``scorer`` made ``session_scores``; ``reference_scores`` are those of the released scorer for the same
    answers, where there is one. ``turn_tasks`` names the sub-task of every turn of a mixed task, ``subtasks``
    their mean scores. ``extras`` are means of what is measured beside the score, over the turns that have it (see
    ``suites.extras``). ``chat`` says whether the tokenizer's chat template was used, ``source`` where the sessions
    come from, ``origin`` whose measurement it is ("" = this harness). ``cut`` is the share of sessions whose context
    was truncated, ``evidence_cut`` the share of turns that lost evidence by it.

    The life of a cache: ``prefill_tps`` prompt tokens read per second; ``fired`` how often the press was applied to a
    session; ``fork_s`` time of a copy that shares the compressed prefix, ``save_s`` and ``load_s`` of writing it to
    ``file_bytes`` on disk and reading it back, ``reload_exact`` whether the next logits and the bytes read were then
    the same, ``not_measured`` why any of these is missing;
    ``step_bytes`` what a decoding step reads of the cache, ``decode_length`` at how many tokens seen (mean), and
    ``session_bytes`` the most that a session's cache held with an answer: what a further row of a batch needs, the
    prompt while it is read not counted.

    ``measures`` are measured beside the score, by name: one list a session in the order of ``session_ids``, one value a
    question, None where there is none. ``gold_logprob`` is the mean log-probability of the gold answer's tokens
    (natural logarithm), ``gold_argmax`` 1 where each of them was the likeliest, else 0 (see ``gold_logprobs``). On
    tasks that ask nothing a session is a passage with one value: "kl" and "nll" in nats a token, "agree" as a share,
    "kl@2-16" of the tokens at these distances from the cut. ``forced`` tokens of each were forced there,
    ``forced_step`` at a time (0: at once).

    ``disturbance`` is what other programs did meanwhile (see ``disturbance.Disturbance``); ``quiet`` says whether the
    times can be believed, and is None where nothing tells, as in rows of before. Scores do not depend on it.

    ``answers`` is what the row claims of the file of answers beside it (see ``answers``); nothing where it has none.
    ``transcript`` is that file until it is written; a row that was read from disk does not have it.

    What was not measured is None; a run that failed wrote zeros in its place, which ``parsing.parse_row`` takes away.
    ``path`` is the name of the row's file. ``variant`` tells apart what must not be compared though all else agrees:
    other ``weights`` under the same name, the chat template; "" is the usual. A ``twin`` is the same run under the
    released scorer: a row of its own, in tables of their own. These three are not in the file.
    """

    run_id: str = ""
    status: Literal["ok", "failed", "unreachable"]
    model: Required
    press: Required
    press_spec: Name = ""
    task: Required
    mode: Required
    history: Name = ""
    schedule: Name = ""
    question_visible: bool | None = None
    rendering: Name = ""
    length: Count
    seed: Count = 0
    sessions: Count = 0
    command: str = ""
    asked: Name = ""
    target: Name = ""
    suite: Name = SCBENCH
    format: Count = FORMAT
    error: str = ""
    model_note: str = ""
    weights: Name = ""
    turns: Count = 0
    session_ids: list[str] = field(default_factory=list, metadata=MEASURED)
    session_scores: list[list[Share]] = field(default_factory=list, metadata=MEASURED)
    score: Number | None = field(default=0.0, metadata=MEASURED)
    score_by_turn: list[Number] = field(default_factory=list, metadata=MEASURED)
    n_by_turn: list[Count] = field(default_factory=list, metadata=MEASURED)
    chance: Number | None = field(default=0.0, metadata=MEASURED)
    hit_limit: Number | None = field(default=0.0, metadata=MEASURED)
    empty: Number | None = field(default=0.0, metadata=MEASURED)
    bytes: Count | None = field(default=0, metadata=MEASURED)
    bytes_dense: Count | None = field(default=0, metadata=MEASURED)
    bytes_ratio: Number | None = field(default=0.0, metadata=MEASURED)
    bytes_by_kind: dict[str, Count] = field(default_factory=dict, metadata=MEASURED)
    logical_length: Number | None = field(default=0.0, metadata=MEASURED)
    kept_all: bool = field(default=False, metadata=MEASURED)
    peak_memory: Count | None = field(default=None, metadata=MEASURED)
    peak_kind: Name = ""
    ttft_s: Number | None = field(default=0.0, metadata=MEASURED)
    tpot_s: Number | None = field(default=0.0, metadata=MEASURED)
    press_s: Number | None = field(default=None, metadata=MEASURED)
    prefill_s: Number | None = field(default=0.0, metadata=MEASURED)
    seconds: Number | None = field(default=0.0, metadata=MEASURED)
    device: Name = ""
    dtype: Name = ""
    attn: Name = ""
    threads: Count | None = 0
    versions: dict[str, str] = field(default_factory=dict)
    commit: Name = ""
    started: Name = ""
    source: Name = GENERATED
    prompts: Name = CORRECTED
    scorer: Name = ""
    origin: Name = ""
    depth: Count | None = None
    reference_scores: list[list[Share]] = field(default_factory=list, metadata=MEASURED)
    turn_tasks: list[list[str]] = field(default_factory=list, metadata=MEASURED)
    subtasks: dict[str, Number] = field(default_factory=dict, metadata=MEASURED)
    extras: dict[str, Number] = field(default_factory=dict, metadata=MEASURED)
    cut: Number | None = field(default=0.0, metadata=MEASURED)
    evidence_cut: Number | None = field(default=0.0, metadata=MEASURED)
    prefill_tps: Number | None = field(default=0.0, metadata=MEASURED)
    fired: Number | None = field(default=0.0, metadata=MEASURED)
    fork_s: Number | None = field(default=None, metadata=MEASURED)
    save_s: Number | None = field(default=None, metadata=MEASURED)
    load_s: Number | None = field(default=None, metadata=MEASURED)
    file_bytes: Count | None = field(default=None, metadata=MEASURED)
    reload_exact: bool | None = field(default=None, metadata=MEASURED)
    step_bytes: Count | None = field(default=0, metadata=MEASURED)
    decode_length: Number | None = field(default=0.0, metadata=MEASURED)
    session_bytes: Count | None = field(default=0, metadata=MEASURED)
    not_measured: str = ""
    chat: bool | None = None
    premises: list[Premise] = field(default_factory=list)
    measures: dict[str, list[list[Number | None]]] = field(default_factory=dict, metadata=MEASURED)
    forced: Count = 0
    forced_step: Count = 0
    disturbance: dict[str, Number] = field(default_factory=dict, metadata=MEASURED)
    quiet: bool | None = field(default=None, metadata=MEASURED)
    answers: dict[str, str | int] = field(default_factory=dict, metadata=MEASURED)
    transcript: _File = field(default=b"", repr=False, compare=False)

    path: str = ""
    variant: str = ""
    twin: bool = False

    def __post_init__(self) -> None:
        self.asked = self.asked or self.press  # rows of before there were amounts do not say

    @property
    def model_label(self) -> str:
        """The model as it stands beside a figure: with how its weights are stored, where that matters."""
        label = self.model_note.partition(":")[0]
        return label if label.startswith(f"{self.model} (") else self.model

    @property
    def ok(self) -> bool:
        """Whether the run finished; only then are there scores."""
        return self.status == "ok"

    @property
    def unreachable(self) -> bool:
        """Whether nothing ran because the press cannot hold the bytes asked for: an answer, not a failure."""
        return self.status == "unreachable"

    @property
    def failed(self) -> bool:
        """Whether the run went wrong."""
        return self.status == "failed"

    @property
    def is_full(self) -> bool:
        """Whether this is the full-cache baseline."""
        return self.press == "full"

    @property
    def measured(self) -> bool:
        """Whether this harness ran it: only then are bytes, times and pairing claimed."""
        return self.ok and not self.origin

    @cached_property
    def scores(self) -> Mapping[str, list[float]]:
        """The score of each turn by session; of a row that is complete."""
        return dict(zip(self.session_ids, self.session_scores, strict=True))

    @property
    def unmet(self) -> list[str]:
        """What the press takes for granted and the model does not have, a line each."""
        return [
            plain(f"{one.get('method', '')}: {one['says']} does not hold ({one['measures']} ")
            + f"{one['figure']:.2f}, at least {one['bound']:.2f})"
            for one in self.premises
            if not one["holds"]
        ]

    @property
    def versions_text(self) -> str:
        """The versions on one line."""
        return plain(", ".join(f"{name} {version}" for name, version in sorted(self.versions.items())))

    def by_subtask(self) -> dict[str, float]:
        """Mean score of every sub-task of a mixed task: from its turns where they are named, else as stated."""
        found: dict[str, list[float]] = {}
        for tasks, scores in zip(self.turn_tasks, self.session_scores, strict=False):
            for task, score in zip(tasks, scores, strict=False):
                found.setdefault(task, []).append(score)
        return {task: sum(all_) / len(all_) for task, all_ in sorted(found.items())} or dict(self.subtasks)

    def by_reference(self) -> Row | None:
        """The same run under the released scorer, or None where it was scored by one only."""
        if not self.reference_scores:
            return None
        flat = [score for turns in self.reference_scores for score in turns]
        return replace(
            self,
            path=f"{self.path} ({REFERENCE})",
            scorer=REFERENCE,
            session_scores=self.reference_scores,
            score=sum(flat) / len(flat),
            chance=None,  # what guessing scores is known for the row's own scorer
            reference_scores=[],
            subtasks={},
            twin=True,
        )

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON holds it."""
        held = {name: value for name, value in asdict(self).items() if name in HINTS}
        return held | {name: held[name] or None for name in _NULL_FOR_NONE}

    @classmethod
    def from_dict(cls, data: object) -> Row:
        """The row of a JSON value. Keys of newer versions are dropped, and what older ones did not write is as for a
        new row. A null counts as not written, unless the field is one that may not be known.

        Raises:
            RowError: for another format, a missing key, or a value that is not what it should be.
        """
        if not isinstance(data, dict):
            raise RowError("not a JSON object")
        if data.get("format") != FORMAT:
            raise RowError(f"format is {str(data.get('format'))[:20]}, expected {FORMAT}")
        known = {key: value for key, value in data.items() if key in HINTS}
        try:
            row = msgspec.convert({k: v for k, v in known.items() if v is not None or k in MAY_BE_NULL}, cls)
        except (msgspec.ValidationError, RecursionError, UnicodeError) as error:
            raise RowError(in_words(str(error))) from None
        if fault := _contradiction(row):
            raise RowError(fault)
        return row


HINTS = {
    name: hint for name, hint in get_type_hints(Row).items() if name not in ("transcript", "path", "variant", "twin")
}
"""The fields that the file has, with their types."""
MAY_BE_NULL = frozenset(name for name, hint in HINTS.items() if type(None) in get_args(hint))
_NULL_FOR_NONE = ("error", "peak_kind", "commit")  # texts that are written as null where there is none


def _contradiction(row: Row) -> str:
    """What no type tells: lists of a finished row that are not one for each session; "" where all is well."""
    if not row.ok:
        return ""
    n = len(row.session_ids)
    if not n or not row.session_scores:
        return "session_ids and session_scores are missing or empty"
    if len({plain(one) for one in row.session_ids}) != n:
        return f"session_ids: repeats among {n}"
    lists: dict[str, list[Any]] = {name: getattr(row, name) for name in ("reference_scores", "turn_tasks")}
    lists |= {f"measures, {name[:40]}": values for name, values in row.measures.items()}
    for name, held in {"session_scores": row.session_scores, **{k: v for k, v in lists.items() if v}}.items():
        if len(held) != n:
            return f"{name}: {len(held)} lists for {n} session_ids"
    if not all(row.session_scores) or not all(row.reference_scores):
        return "session_scores, reference_scores: a session without turns"
    if row.answers and not isinstance(row.answers.get("sha256"), str):
        return "answers: no sha256 of them"
    return ""
