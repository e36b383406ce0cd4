"""What a gold must be, and which rule scores it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import UsageError

__all__ = ["Gold", "Rule", "check_reference", "golds", "is_empty", "rule_name"]

Gold = str | int | float | Sequence[str] | Mapping[str, Any]
"""What a scorer compares an answer with: a text, a number, a list of names, or a mapping (RepoQA:
function name, language and the functions it might be mistaken for).
"""

Rule = Callable[[str, Gold], float]


def rule_name(task: str, reference: Gold) -> str:
    """The rule that scores this gold: a mixed task is told apart by what its gold is."""
    name = task.removeprefix("scbench_")
    if name == "repoqa_and_kv":
        return "repoqa" if isinstance(reference, Mapping) else "kv"
    if name == "summary_with_needles":
        return "passkey" if re.fullmatch(r"\s*[0-9]+\s*", str(reference)) else "summary"
    if name == "needle_grid":
        return "needle"
    if name.startswith("ruler_"):
        return "ruler_match_part" if name in ("ruler_qa_1", "ruler_qa_2", "ruler_match_part") else "ruler_match_all"
    return "longgen" if name.startswith("longgen") else name


def is_empty(gold: object) -> bool:
    """Whether any answer would count as right. A number is never empty, 0 included."""
    if isinstance(gold, str):
        return not gold.strip()
    if isinstance(gold, Mapping):
        return not gold
    return isinstance(gold, Sequence) and (not gold or any(map(is_empty, gold)))


def check_reference(reference: Gold) -> None:
    """Refuse a gold that every answer would match.

    Raises:
        UsageError: for an empty one, or one of another type.
    """
    if isinstance(reference, bytes) or not isinstance(reference, (str, int, float, Sequence, Mapping)):
        raise UsageError(
            f"a reference is text, a number, a list of texts or a mapping, got {type(reference).__name__}; "
            "convert it first"
        )
    if is_empty(reference):
        raise UsageError("a reference must not be empty: every answer would count as right")


def golds(reference: Gold) -> list[str]:
    """The golds as a list of texts; text and numbers are one gold.

    Raises:
        UsageError: for a mapping.
    """
    if isinstance(reference, Mapping):
        raise UsageError("the reference of this task is text or a list of texts, got a mapping; see repoqa and longgen")
    return [str(reference)] if isinstance(reference, (str, int, float)) else [str(gold) for gold in reference]
