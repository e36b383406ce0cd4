"""The kinds of decision a press is made of. A method is one small frozen object that follows one of these protocols.

What a method can do is said by its traits (`comparable`, `attention`, `waits`, ...), never by its name. Any decision
may have a method `bind(view, layer)`, for what it needs of the model (see kvpress.evidence.bind).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from kvpress.errors import PressConflictError, PressSyntaxError
from kvpress.evidence.bind import View
from kvpress.evidence.evidence import Evidence, Needs
from kvpress.evidence.output import Output
from kvpress.storage.block import Block
from kvpress.storage.pair import Pair, PairCodec

_ALIKE = 0.8  # of two words, where 1 is the same

Decisions = Mapping[str, Any]
"""What a preset decides: names of fields of a Recipe, and their values."""


class Scorer(Protocol):
    """How good a slot is. Padding, sinks, the recent window and exact totals are not its business.

    comparable: scores of different heads are on one scale, so that head budgets may compare them. attention: scores
    are attention a slot gets from its own head, not negative and not weighted by its value, which a refiner may do.
    waits: why the whole prompt has to be there before slots are chosen; "" = they may be chosen after every chunk of
    it, again and again, from those that are left and the new ones. Without the attribute the press waits.
    """

    needs: Needs
    comparable: bool
    attention: bool
    waits: str

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        """(B, H, n) fp32 scores of the block's slots, higher = keep."""
        ...


class Merger(Protocol):
    """What becomes of slots that are dropped: they go into slots that stay. Only dense slots can take some in."""

    needs: Needs

    def __call__(self, block: Block, into: Tensor, gone: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values (B, H, n, D) and bias (B, H, n) fp32 of the block's slots, read for those in `into` alone.

        into, gone: (B, H, n) bool, slots that may take some in, and slots that are dropped. bias: added to a slot's
        logits, log of how many tokens it stands for; 0 for one.
        """
        ...


class HeadBudget(Protocol):
    """How the slots of a layer are spread over its KV heads. compares: scores of different heads are compared."""

    compares: bool

    def __call__(self, total: Tensor, scores: Tensor) -> Tensor:
        """total (B,) slots per head on average, scores (B, H, n) -> (B, H) int64, rows sum to H * total.

        total is int64; for a budget that compares it may be fp64, with H * total whole (a layer budget chose it).
        Scores of protected slots are +inf and those of slots that do not exist are -inf.
        """
        ...


class Refiner(Protocol):
    """How a scorer's scores change once the budget of each head is known. Head budgets go by the scores before."""

    needs: Needs

    def bind(self, view: View, layer: int) -> Output:
        """What says how much a value can add: (B, H, n, D) -> (B, H, n) fp32, usually view.output(layer)."""
        ...

    def __call__(self, scores: Tensor, added: Tensor, pos: Tensor, counts: Tensor, protected: Tensor) -> Tensor:
        """(B, H, n) fp32 scores to choose by, from those of a scorer (B, H, n).

        added: (B, H, n) fp32 what each value can add, by what `bind` gave. pos: (B, H, n), -1 = no slot. counts:
        (B, H) slots that stay, protected ones (B, H, n) bool among them.
        """
        ...


class LayerBudget(Protocol):
    """How slots are spread over layers, from what is measured in each. All layers are dense until then.

    compares: scores of different layers are compared, so they must be on one scale. exact: shares are proportions,
    made whole so that they sum to layers * total; otherwise each is taken as it is, rounded down and bounded by the
    layer's slots, whatever they sum to. waits: as for a scorer. A method `check_layers(layers: int)`, where there is
    one, raises PressConflictError for a model with so many layers that the budget means nothing.
    """

    needs: Needs
    compares: bool
    waits: str
    exact: bool

    def measure(self, block: Block, seen: Evidence, scores: Callable[[], Tensor]) -> Tensor:
        """(B, ...) what tells how much the layer needs.

        scores(): (B, H, n) of the scorer, where a budget asks for them; as in HeadBudget.
        """
        ...

    def weights(self, measured: Sequence[Tensor], total: Tensor, fixed: Tensor, lengths: Tensor) -> Tensor:
        """(L, B) shares from what was measured in every layer.

        total: (B,) slots per head on average, whole ones (int64) where shares are exact, else as asked for (fp64).
        fixed: (B,) of them protected, lengths: (B,) real tokens of each row. All tensors are on one device, whatever
        devices the layers are on.
        """
        ...


class Sharer(Protocol):
    """Which layers store something in common, and what. block: slots are merged in multiples of this.

    `check_layers`: as for a LayerBudget.
    """

    block: int

    def pairs(self, layers: int) -> list[tuple[int, int]]:
        """(lower, upper) of `layers` layers."""
        ...

    def angle(self, a: Tensor, b: Tensor) -> Tensor:
        """(..., n) fp32 distance of the vectors a and b (..., n, D): the larger, the sooner both stay whole."""
        ...

    def keep_whole(self, angle: Tensor, there: Tensor) -> Tensor:
        """(B, H) int64 slots that stay whole, of the slots `there` (B, H, n) bool."""
        ...

    def merge(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What a and b (R, n, D) share (R, n, D), and the scale (R, n) of each."""
        ...

    def scaled(self, inner: Pair, key: Tensor, value: Tensor) -> Pair:
        """What two layers share, packed, as the keys and values of one, with its scales (R, n)."""
        ...

    def relinked(self, low: Pair, high: Pair) -> Pair:
        """The upper layer's pair `high`, reading again what it shares with `low` after both were selected alike."""
        ...

    def around(self, codec: PairCodec) -> PairCodec:
        """The codec that loads what `scaled` made of pairs of `codec`, and those pairs."""
        ...


class Pruner(Protocol):
    """Which channels of keys and values are stored. Chosen once, when the press first fires."""

    needs: Needs
    waits: str

    def around(self, codec: PairCodec) -> PairCodec:
        """Slots stored by `codec`, in the channels that are kept."""
        ...

    def widths(self, key: int, value: int) -> tuple[int, int]:
        """Channels that are left of keys of `key` channels and of values of `value`."""
        ...

    def choose(self, block: Block, seen: Evidence, packed: Tensor) -> dict[str, Tensor]:
        """(B, H, ...) by name, what the codec of `around` needs to know of the layer.

        packed: (B, H, n) bool, the slots that lose channels.
        """
        ...


@dataclass(frozen=True)
class Even:
    """Every head keeps the same number of slots."""

    compares = False

    def __call__(self, total: Tensor, scores: Tensor) -> Tensor:
        return total.unsqueeze(1).expand(-1, scores.shape[1]).contiguous()


class Selector(Protocol):
    """Which pages of the stored slots a decoded token reads. Nothing is dropped; the dense window is always read, and
    prompts read everything. page: slots of a page; slots are packed in multiples of it.
    """

    @property
    def page(self) -> int: ...

    def index(self, k: Tensor, v: Tensor, pos: Tensor) -> Mapping[str, Tensor]:
        """(R, P, ...) by name, what is known of each page, worked out once when its slots are stored.

        k: (R, P, page, Dk), v: (R, P, page, Dv) as they decode, pos: (R, P, page) int32.
        """
        ...

    def choose(self, q: Tensor, index: Mapping[str, Tensor], pages: int) -> Tensor:
        """(R, c) int64 the pages that the queries q (R, G, Dk) of each run read, c of the `pages` there are."""
        ...


class Schedule(Protocol):
    """When slots are chosen, and among which. All choose after the first prompt.

    every_prompt: after every later prompt too. interval: and after so many decoded tokens, 0 = never. decoded: then
    among the decoded tokens alone, which have a budget of their own; what is left of prompts stays.
    """

    @property
    def every_prompt(self) -> bool: ...

    @property
    def interval(self) -> int: ...

    @property
    def decoded(self) -> bool: ...


@dataclass(frozen=True)
class AfterPrefill:
    """Slots are chosen when a prompt has been read; decoded tokens are then added and all kept.

    every_prompt: choose again, over all slots, after every later prompt; otherwise only after the first.
    """

    every_prompt: bool = False
    interval = 0
    decoded = False

    def __str__(self) -> str:
        return "every_prompt" if self.every_prompt else "after_prefill"


@dataclass(frozen=True)
class EveryStep:
    """Slots are chosen after every prompt, and one is evicted for every token decoded."""

    every_prompt = True
    interval = 1
    decoded = False

    def __str__(self) -> str:
        return "every_step"


def schedule_of(name: str) -> Schedule:
    """The schedule that a press names in its text."""
    if name not in ("every_step", "after_prefill"):
        raise PressSyntaxError(f'schedule={name!r}: slots are chosen at "every_step" or once "after_prefill".')
    return EveryStep() if name == "every_step" else AfterPrefill()


TRAITS = {
    "scorer": ("needs", "comparable", "attention", "waits", "premise"),
    "refine": ("needs", "premise"),
    "heads": ("compares", "premise"),
    "merge": ("needs", "premise"),
    "layers": ("needs", "compares", "exact", "waits", "premise"),
    "channels": ("needs", "waits", "premise"),
    "sharer": ("block", "premise"),
    "selector": ("page", "premise"),
    "schedule": ("every_prompt", "interval", "decoded"),
    "key": ("name", "block", "premise"),
    "value": ("name", "block", "premise"),
}
"""Field of a recipe -> what its decision may declare of itself."""


def check_traits(name: str, decision: object) -> None:
    """Raise PressConflictError where a decision declares a trait of another name, which would be taken for none."""
    if decision is None:
        return
    own = {word for cls in type(decision).__mro__[:-1] for word in (*vars(cls), *vars(cls).get("__annotations__", {}))}
    known = TRAITS[name]
    for word in sorted(own - set(known)):
        if not word.startswith("_") and (meant := difflib.get_close_matches(word, known, 1, _ALIKE)):
            raise PressConflictError(
                f"{type(decision).__name__} declares {word!r}, which decides nothing. Call it {meant[0]!r}, if that is "
                "what it is, or something less like it."
            )
