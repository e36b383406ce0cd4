"""What a report knows about one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

SCBENCH, GENERATED, CORRECTED, REFERENCE = "scbench", "generated", "corrected", "reference"
AGREEMENT = "agreement"  # the scorer of forced texts: most likely tokens that are those of the full cache


def usual_scorer(rendering: str) -> str:
    """The scorer of rows that do not name theirs: the dialect's answers are compared exactly."""
    return "exact" if rendering == "dialect" else CORRECTED


@dataclass(frozen=True)
class Row:
    """One press on one task in one mode; scores are fractions 0..1, times seconds, sizes bytes.

    What a row does not say is None (or empty); `scores` maps session id to the score of each turn. `press` has every
    value that was solved for; `asked` is what the user named, for `target` bytes ("12.5%"; "" without). `depth` is the
    place of all evidence in percent of the context, None where it is spread. `origin` says whose measurement it is
    ("" = this harness). `variant` tells apart what must not be compared though all else agrees: other `weights` under
    the same name, the chat template; "" is the usual. `not_measured` is why a measure of the cache's life is missing.
    `unmet` says which premises of the press do not hold on the model, one line each.
    `measures` map a name and a session's id to the value of each question, None where it has none; `forced` tokens of a
    text were forced, `forced_step` at a time (0: at once).
    `quiet` says whether the times can be believed, for the measures in `disturbance`; rows of before do not know.
    A `twin` is the same run under the released scorer: a row of its own, in tables of their own.
    `answers` is what the row claims of the file of its answers; empty where it has none.
    """

    path: str
    run_id: str
    status: str
    error: str
    suite: str
    model: str
    model_note: str
    press: str
    press_spec: str
    asked: str
    target: str
    task: str
    mode: str
    history: str
    schedule: str
    question_visible: bool | None
    rendering: str
    length: int
    seed: int
    sessions: int
    turns: int
    scores: Mapping[str, tuple[float, ...]] = field(repr=False)
    score: float | None
    chance: float | None
    hit_limit: float | None
    empty: float | None
    bytes: int | None
    bytes_dense: int | None
    bytes_ratio: float | None
    bytes_by_kind: Mapping[str, int]
    logical_length: float | None
    peak_memory: int | None
    peak_kind: str
    ttft_s: float | None
    tpot_s: float | None
    press_s: float | None
    prefill_s: float | None
    seconds: float | None
    device: str
    dtype: str
    attn: str
    threads: int | None
    versions: str
    commit: str
    started: str
    command: str
    source: str = GENERATED
    prompts: str = CORRECTED
    scorer: str = ""
    origin: str = ""
    weights: str = ""
    chat: bool | None = None
    variant: str = ""
    depth: int | None = None
    reference_scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict, repr=False)
    turn_tasks: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    subtasks: Mapping[str, float] = field(default_factory=dict)
    extras: Mapping[str, float] = field(default_factory=dict)
    measures: Mapping[str, Mapping[str, tuple[float | None, ...]]] = field(default_factory=dict, repr=False)
    answers: Mapping[str, str | int] = field(default_factory=dict, repr=False)
    twin: bool = False
    cut: float | None = None
    evidence_cut: float | None = None
    prefill_tps: float | None = None
    fired: float | None = None
    fork_s: float | None = None
    save_s: float | None = None
    load_s: float | None = None
    file_bytes: int | None = None
    reload_exact: bool | None = None
    step_bytes: int | None = None
    decode_length: float | None = None
    session_bytes: int | None = None
    not_measured: str = ""
    unmet: tuple[str, ...] = ()
    forced: int = 0
    forced_step: int = 0
    disturbance: Mapping[str, float] = field(default_factory=dict)
    quiet: bool | None = None
    kept_all: bool = False

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

    def by_subtask(self) -> dict[str, float]:
        """Mean score of every sub-task of a mixed task: from its turns where they are named, else as stated."""
        found: dict[str, list[float]] = {}
        for session, tasks in self.turn_tasks.items():
            for task, score in zip(tasks, self.scores.get(session, ()), strict=False):
                found.setdefault(task, []).append(score)
        return {task: sum(all_) / len(all_) for task, all_ in sorted(found.items())} or dict(self.subtasks)

    def by_reference(self) -> Row | None:
        """The same run under the released scorer, or None where it was scored by one only."""
        if not self.reference_scores:
            return None
        flat = [score for turns in self.reference_scores.values() for score in turns]
        return replace(
            self,
            path=f"{self.path} ({REFERENCE})",
            scorer=REFERENCE,
            scores=self.reference_scores,
            score=sum(flat) / len(flat),
            chance=None,  # what guessing scores is known for the row's own scorer
            reference_scores={},
            subtasks={},
            twin=True,
        )


@dataclass(frozen=True)
class Ignored:
    """A file in the results folder that is not a row, and why."""

    path: str
    reason: str
