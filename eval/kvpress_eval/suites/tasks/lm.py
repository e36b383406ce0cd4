"""Continuations of real text: a prefix is read and compressed, the text that follows is forced, token by token.

Nothing is asked, so no text is built here: ``sources.genres`` has the texts, ``sources.passage_cutting`` cuts them. The
score is the share of tokens at which the compressed cache predicts the same one as the full cache; what tells presses
apart is the divergence (KL) and the change of the text's negative log-likelihood (NLL).
"""

from __future__ import annotations

from ..task import Task

__all__ = ["GENRES", "NAMED", "TASKS"]

GENRES = {
    "lm_reference": "continuation of reference documentation: the topics of Python's help()",
    "lm_code": "continuation of source code: modules of Python's standard library",
    "lm_docstrings": "continuation of docstrings: those of Python's standard library",
    "lm_text": "continuation of texts of your own (--text FILE ..., or --source)",
    "lm_dialect": "continuation of the bundled model's records by questions about them",
}
NAMED = ("lm_text", "lm_dialect")
"""Those that have to be named: not every model and not every command has a text for them."""


def _unknown(rendering: str, turns: int) -> float:
    return float("nan")  # nobody guesses a distribution


TASKS = tuple(
    Task(name=name, about=about, build={}, solve={}, chance=_unknown, suite="lm", kind="continuation")
    for name, about in GENRES.items()
)
