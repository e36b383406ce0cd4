"""KVzip (2505.23416): what the model needs to repeat the prompt is what any question will need.

paper     Kim et al. 2025, KVzip: Query-Agnostic KV Cache Compression with Context Reconstruction
idea      the prompt is fed a second time, after "repeat the previous context"; slots it does not look at can go
formula   score_j = max over the queries of the repetition and the query heads of softmax over [first tokens, slots of
          the part, the repetition itself]_j; the best slots of all heads and layers stay
cost      one more prefill, O(n chunk) attention for the scores; all layers stay dense until it is done
deviates  fp32 and exact totals (the authors' threshold drops ties); the instruction is optional
          (`session.instructions`): a press has no tokenizer; sinks always stay and are not repeated (whole=true: they
          are, as in NVIDIA's kvpress, which repeats all but a chat template's first words)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kvpress.errors import PressSyntaxError
from kvpress.evidence.evidence import Evidence, Needs, Repeat
from kvpress.policies.ada import AdaptiveHeads
from kvpress.policies.pooled import Pooled
from kvpress.recipe.kinds import AfterPrefill, Decisions
from kvpress.recipe.press import preset, variant
from kvpress.storage.block import Block

_MARK = "\u2603"  # stands for a user's words in a chat template
_FIRST = "\n\nRepeat the previous context exactly."
_LATER = "\n\nRepeat the part of the previous context exactly, starting with "


@dataclass(frozen=True)
class Reconstruction:
    """Largest attention each slot gets while the prompt is repeated. chunk: tokens repeated at once; overlap: last
    tokens of the part before that lead into the next; skip: first tokens, not repeated and seen by every part; whole:
    they are repeated too.
    """

    chunk: int = 2000
    overlap: int = 8
    skip: int = 4
    whole: bool = False
    comparable = True
    attention = True
    waits = "kvzip reads the whole prompt a second time"

    @property
    def needs(self) -> Needs:
        return Needs(repeat=Repeat(self.chunk, self.overlap, self.skip, self.whole))

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        return seen.strongest()


def instructions(tokenizer: Any, chat: bool = True) -> tuple[list[int], list[int], list[int]]:
    """The paper's two instructions as token ids, for `session.instructions`: to repeat all, and a later part.

    The third list ends the user's turn and begins the model's answer, where there is a chat template. chat: False for
    raw text.
    """
    end = ""
    if chat and getattr(tokenizer, "chat_template", None):
        turn = [{"role": "user", "content": _MARK}]
        end = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True).split(_MARK)[-1]
    first, later, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (_FIRST, _LATER, end))
    return list(first), list(later), list(after)


@preset("kvzip", small='keep=0.4, sinks=2, chunk=6, overlap=3, spread="even"')
def kvzip(
    keep: float | int = 0.25,
    sinks: int = 4,
    recent: int = 0,
    chunk: int = 2000,
    overlap: int = 8,
    spread: str = "all",
    whole: bool = False,
) -> Decisions:
    """Slots the model attends to when it repeats the prompt, which is read a second time (2505.23416)."""
    if chunk < 1 or overlap < 0 or spread not in ("all", "layer", "even"):
        raise PressSyntaxError(
            f'chunk={chunk} must be positive, overlap={overlap} not negative, and spread={spread!r} is "all" (the best '
            'slots of all layers and heads stay), "layer" (those of all heads of a layer) or "even".'
        )
    chosen: dict[str, Any] = {"keep": keep, "scorer": Reconstruction(chunk, overlap, sinks, whole), "sinks": sinks}
    if spread != "even":
        chosen["heads"] = AdaptiveHeads(alpha=0.0)
    if spread == "all":
        chosen["layers"] = Pooled()
    return chosen | {"recent": recent, "schedule": AfterPrefill()}


variant(
    kvzip,
    "paper",
    "KVzip with its authors' 30 % of the slots and parts of 2000 tokens; set session.instructions for their words.",
    keep=0.3,
)
variant(
    kvzip,
    "kvpress",
    "KVzip as in NVIDIA's kvpress: parts of 2048 tokens, the 4 sinks repeated too; set session.instructions.",
    keep=0.5,
    chunk=2048,
    whole=True,
)
