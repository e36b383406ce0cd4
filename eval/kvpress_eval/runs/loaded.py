"""A loaded model with what its cells share: how it is prompted, and what was built, solved and predicted so far."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from ..models.loading import LoadedModel, load_model
from ..suites.episode import Episode
from ..suites.prompt import Prompter
from .baselines import Bases

if TYPE_CHECKING:
    from kvpress import Press

    from ..sources.passages import Passages
    from .forcing import States

__all__ = ["Loaded", "Solutions", "load"]

Solutions = dict[tuple[str, str, int], "Press | str"]


@dataclass(frozen=True)
class Loaded(LoadedModel):
    """A model ready to run, with what the cells that are run on it share.

    ``episodes`` are those built so far: every press asks the same ones. ``solved`` are the presses found for an amount
    of bytes, by press, amount and context length; where none was found, the text of why. ``passages`` are the texts of
    the tasks that force one, and ``bases`` what the full cache predicts of them.
    """

    prompter: Prompter
    episodes: dict[tuple[object, ...], Episode] = field(default_factory=dict, compare=False)
    solved: Solutions = field(default_factory=dict, compare=False)
    passages: dict[tuple[object, ...], Passages] = field(default_factory=dict, compare=False)
    bases: Bases[States] = field(default_factory=Bases, compare=False)


def load(name: str, device: str = "auto", dtype: str = "auto", attn: str = "auto", chat: str = "auto") -> Loaded:
    """Load a model and its tokenizer: see `load_model`.

    Args:
        chat: use the tokenizer's chat template: ``auto``, ``on`` or ``off``.

    Raises:
        UsageError: where the model cannot be found or loaded, or has no chat template; says what to check.
    """
    model = load_model(name, device, dtype, attn)
    known = {f.name: getattr(model, f.name) for f in fields(model)}
    return Loaded(**known, prompter=Prompter(model.tokenizer, model.rendering, chat))
