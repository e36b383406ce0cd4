"""The findings of SCBench (arXiv 2412.10319) as contrasts with a direction, each beside an oracle and a random control.

Numbers of the hypotheses follow the list of the paper's claims: H1 later turns, H2 hidden questions, H4 redundancy,
H5 needles in repeated text, H8 how far a budget can fall.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..rows import stats
from ..rows.numbers import NONE
from ..rows.row import Row
from ..rows.stats import Array
from .finding import Finding, Rows, contrast, losses, retention

__all__ = ["findings"]

TURN, REQUEST = "multi-turn", "multi-request"
FIRST, LATER, ALL = slice(0, 1), slice(1, None), stats.ALL
STRINGS = ("kv", "prefix_suffix")
TASKS = ("kv", "prefix_suffix", "vt", "qa_eng", "many_shot")  # from nothing repeated to everything repeated
KEEPS = (0.5, 0.25, 0.125, 0.03125)


def findings(rows: Sequence[Row]) -> list[Finding]:
    """H1, H2, H4, H5 and H8, in this order."""
    at = Rows(rows)
    return [_later_turns(at), _hidden(at), _redundancy(at), _noise(at), _collapse(at)]


def _press(name: str, keep: float) -> str:
    return f"evidence(turn=0, keep={keep})" if name == "evidence" else f"{name}(keep={keep})"


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def _mean(row: Row, part: slice = ALL) -> float:
    return float(stats.session_means(turns[part] for turns in row.scores.values()).mean())


def _scores(at: Rows, name: str, keep: float, mode: str, part: slice, tasks: Sequence[str] = STRINGS) -> float:
    press = name if name == "full" else _press(name, keep)
    return sum(_mean(at(press, task, mode), part) for task in tasks) / len(tasks)


def _later_turns(at: Rows) -> Finding:
    keep = 0.25

    def turn_effect(name: str) -> list[Array]:
        pairs = [(at(_press(name, keep), task, TURN), at("full", task, TURN)) for task in STRINGS]
        return [losses(m, f, LATER) - losses(m, f, FIRST) for m, f in pairs]

    def first(name: str) -> list[Array]:
        return [losses(at(_press(name, keep), task, TURN), at("full", task, TURN), FIRST) for task in STRINGS]

    names = ("full", "evidence", "snapkv", "random")
    lines = [[n, *(_points(_scores(at, n, keep, TURN, part)) for part in (FIRST, LATER))] for n in names]
    return Finding(
        "H1",
        "dropping slots loses most on later turns, when the first question was visible as slots were chosen",
        (
            contrast("snapkv at 1/4: (later - first) beyond the full cache's", turn_effect("snapkv"), -1),
            contrast("oracle for turn 1 at 1/4: the same", turn_effect("evidence"), -1),
            contrast("oracle for turn 1 at 1/4: loss on the first turn", first("evidence"), 0),
        ),
        (("press at 1/4, kv and prefix_suffix", "first turn", "later turns"), *lines),
        "The oracle keeps exactly what the first question needs: what later turns lose is the price of choosing for "
        "one question. The random control loses everywhere.",
    )


def _hidden(at: Rows) -> Finding:
    keep = 0.25

    def gap(name: str) -> list[Array]:
        """First question hidden minus the same question visible, beyond the full cache's."""
        found = []
        for task in STRINGS:
            pairs = [(at(_press(name, keep), task, mode), at("full", task, mode)) for mode in (REQUEST, TURN)]
            hidden, visible = (losses(m, f, FIRST) for m, f in pairs)
            found.append(hidden - visible)
        return found

    beyond = [ours - control for ours, control in zip(gap("snapkv"), gap("random"), strict=True)]
    names = ("full", "evidence", "snapkv", "kvzip", "random")
    lines = [[n, *(_points(_scores(at, n, keep, mode, FIRST)) for mode in (TURN, REQUEST))] for n in names]
    return Finding(
        "H2",
        "the loss is there from the first question on, when no question was visible as slots were chosen",
        (
            contrast("snapkv at 1/4: first question hidden minus visible", gap("snapkv"), -1),
            contrast("the same, beyond what random at 1/4 has", beyond, -1),
            contrast("oracle for turn 1 at 1/4, which needs no question: the same", gap("evidence"), 0),
        ),
        (("press at 1/4, kv and prefix_suffix, first question", "visible", "hidden"), *lines),
        "random looks at nothing and yet has a small gap: where the question is read with the context, the first token "
        "of its answer is known before anything is dropped.",
    )


def _redundancy(at: Rows) -> Finding:
    keep, dropping = 0.125, ("random", "snapkv")

    def kept(task: str) -> list[Array]:
        return [retention(at(_press(n, keep), task, REQUEST), at("full", task, REQUEST)) for n in dropping]

    def more(task: str, than: Sequence[str]) -> list[Array]:
        """Retention of a task minus that of others: sessions are independent, so they are paired by number."""
        return [k - sum(kept(other)[i] for other in than) / len(than) for i, k in enumerate(kept(task))]

    lines = []
    for task in TASKS:
        ours = [_mean(at(_press(n, keep), task, REQUEST)) / _mean(at("full", task, REQUEST)) for n in dropping]
        oracle = _mean(at(_press("evidence", keep), task, REQUEST), FIRST)
        lines.append([task, _points(_mean(at("full", task, REQUEST))), *map(_points, ours), _points(oracle)])
    return Finding(
        "H4",
        "what is repeated in the context survives dropping, what stands there once does not",
        (
            contrast("many_shot minus kv and prefix_suffix, retention", more("many_shot", STRINGS), 1),
            contrast("many_shot minus vt, retention", more("many_shot", ("vt",)), 1),
            contrast("many_shot minus qa_eng, retention", more("many_shot", ("qa_eng",)), 1),
        ),
        (
            ("task, question hidden", "full", "random 1/8, % of full", "snapkv 1/8, % of full", "oracle 1/8, its turn"),
            *lines,
        ),
        "Labels are demonstrated dozens of times, the others stand once; the oracle shows that an eighth of the slots "
        "is room enough for any of them.",
    )


def _noise(at: Rows) -> Finding:
    keep = 0.25

    def more(name: str, than: str) -> list[Array]:
        press, part = _press(name, keep), FIRST if name == "evidence" else ALL
        easy, hard = (retention(at(press, t, REQUEST), at("full", t, REQUEST), part) for t in ("passkey", than))
        return [easy - hard]

    names = ("full", "evidence", "keydiff", "kvzip", "snapkv", "random")
    tasks = ("passkey", "needle", "kv")
    lines = [[n, *(_points(_scores(at, n, keep, REQUEST, ALL, [task])) for task in tasks)] for n in names]
    return Finding(
        "H5",
        "a needle in repeated text overstates what keydiff keeps of a retrieval task",
        (
            contrast("keydiff at 1/4: retention of passkey minus that of kv", more("keydiff", "kv"), 1),
            contrast("oracle for turn 1 at 1/4, its question: the same", more("evidence", "kv"), 0),
            contrast("random at 1/4: the same", more("random", "kv"), 0),
        ),
        (("press at 1/4, question hidden", *tasks), *lines),
        "passkey hides one record in a sentence that is repeated, needle several in words that are not, and in kv "
        "everything is a record. Repetition is not what makes it easy here: keydiff, which looks for keys that differ "
        "from the rest, finds a record in any filler. For snapkv, which without the question finds none, it is the "
        "other way round: the claim is of keydiff. The oracle is right on its own turn alone, and passkey has one.",
    )


def _collapse(at: Rows) -> Finding:
    def kept(name: str, keep: float) -> list[Array]:
        part = FIRST if name == "evidence" else ALL
        return [retention(at(_press(name, keep), t, REQUEST), at("full", t, REQUEST), part) for t in STRINGS]

    def spared() -> list[Array]:
        """Retention of many_shot minus that of the strings, both under random dropping at a thirty-second."""
        press = _press("random", 0.03125)
        labels = retention(at(press, "many_shot", REQUEST), at("full", "many_shot", REQUEST))
        return [labels - lost for lost in kept("random", 0.03125)]

    def fall(name: str, high: float, low: float) -> list[Array]:
        return [b - a for a, b in zip(kept(name, high), kept(name, low), strict=True)]

    lines = []
    for name in ("evidence", "kvzip", "snapkv", "random"):
        given = [keep for keep in KEEPS if name != "kvzip" or keep != 0.125]
        means = {keep: _points(sum(v.mean() for v in kept(name, keep)) / len(STRINGS)) for keep in given}
        lines.append([name, *(means.get(keep, NONE) for keep in KEEPS)])
    return Finding(
        "H8",
        "retention is about flat down to a quarter of the slots and collapses by a thirty-second, by task",
        (
            contrast("kvzip: 1/4 minus 1/2", fall("kvzip", 0.5, 0.25), 0),
            contrast("kvzip: 1/32 minus 1/4", fall("kvzip", 0.25, 0.03125), -1),
            contrast("oracle for turn 1, its question: 1/32 minus 1/2", fall("evidence", 0.5, 0.03125), 0),
            contrast("random at 1/32: many_shot minus kv and prefix_suffix", spared(), 1),
        ),
        (("% of full, kv and prefix_suffix, question hidden", *(f"1/{round(1 / keep)}" for keep in KEEPS)), *lines),
        "Where the knee lies depends on the method: snapkv, which chooses without the question, has lost most before a "
        "quarter; the oracle needs no more than a thirty-second.",
    )
