"""Which tokens of a prompt a press kept, by layer and KV head: what ``kvpress show`` prints and draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .evidence_places import known_tokens, ranges

if TYPE_CHECKING:
    from kvpress import PressCache

    from ..suites.episode import Episode
    from .config import RunConfig
    from .loaded import Loaded

__all__ = ["Evidence", "Survivors", "of_episode", "of_text"]

Kept = NDArray[np.bool_]


@dataclass(frozen=True)
class Evidence:
    """The tokens ``[start, end)`` that hold the answer to question ``turn`` (from 1)."""

    turn: int
    start: int
    end: int


@dataclass(frozen=True)
class Survivors:
    """What is left of a prompt of n tokens.

    ``kept[i]`` is (H, n) bool for the layer numbered ``layers[i]``: which KV head still holds which token. The first
    ``context`` tokens are the context, the rest is a question that the press saw. ``evidence`` is None where it is not
    known. ``evicts`` is False for a press that only changes how tokens are stored. ``others`` counts layers that the
    press leaves alone (sliding windows).
    """

    press: str
    model: str
    prompt: str
    tokens: tuple[str, ...]
    context: int
    layers: tuple[int, ...]
    kept: tuple[Kept, ...]
    evidence: tuple[Evidence, ...] | None
    evicts: bool
    others: int
    bytes_ratio: float

    @property
    def by_layer(self) -> NDArray[np.float64]:
        """(L, n): the share of a layer's heads that kept each token."""
        return np.stack([heads.mean(0) for heads in self.kept])

    @property
    def by_token(self) -> NDArray[np.float64]:
        """(n,): the share of all heads that kept each token."""
        share: NDArray[np.float64] = np.concatenate(self.kept).mean(0)
        return share

    def survival(self, evidence: Evidence) -> tuple[float, int]:
        """How much of an evidence is left: mean over its tokens and all heads; heads that hold all of it."""
        heads = np.concatenate(self.kept)[:, evidence.start : evidence.end]
        return float(heads.mean()), int(heads.all(1).sum())

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; positions count from the beginning of the prompt."""
        return {
            **{name: getattr(self, name) for name in ("press", "model", "prompt", "context", "evicts", "others")},
            "bytes_ratio": self.bytes_ratio,
            "tokens": list(self.tokens),
            "share": [round(float(share), 4) for share in self.by_token],
            "layers": [
                {"layer": layer, "heads": [np.flatnonzero(head).tolist() for head in heads]}
                for layer, heads in zip(self.layers, self.kept, strict=True)
            ],
            "evidence": None if self.evidence is None else [self._evidence(one) for one in self.evidence],
        }

    def _evidence(self, one: Evidence) -> dict[str, Any]:
        share, whole = self.survival(one)
        return {"turn": one.turn, "start": one.start, "end": one.end, "share": round(share, 4), "whole_heads": whole}


def of_episode(config: RunConfig, loaded: Loaded, session: int = 0) -> Survivors:
    """What the press of a cell keeps of one of its prompts, at the moment it first fires.

    Raises:
        UsageError: for a session that is not there, or a press that cannot hold the bytes asked for.
    """
    from .prepare import prepare

    if session < 0:
        raise UsageError(f"--session must be at least 0, got {session}")
    cell = prepare(config, loaded)
    if cell.problem:
        raise UsageError(cell.problem)
    episode = cell.episode(session)
    prompt = loaded.prompter.prompt(episode)
    ids = [*prompt.context, *(prompt.questions[0] if config.question_visible else [])]
    with cell.session() as opened, cell.informed(episode):
        cache = opened.prefill(_row(ids, loaded), chunk=config.chunk or None)
    seen = "with its first question" if config.question_visible else "its context alone"
    about = f"{config.task}, {config.length} tokens, seed {config.seed}, session {session}, {seen}"
    return _read(cache, loaded, ids, about, len(prompt.context), _evidence(episode, prompt.context, loaded))


def of_text(press: str, loaded: Loaded, text: str) -> Survivors:
    """What a press keeps of a text of one's own.

    Raises:
        UsageError: for an empty text, or one with words that the bundled model does not know.
    """
    from kvpress import Press

    from .evidence_oracle import EvidenceOracle  # not before: importing it registers its press

    ids = [*loaded.prompter.bos, *loaded.tokenizer(text, add_special_tokens=False)["input_ids"]]
    unknown = loaded.tokenizer.unk_token_id
    if loaded.rendering == "dialect" and unknown in ids:
        words = [word for word in text.split() if loaded.tokenizer.convert_tokens_to_ids(word) == unknown]
        raise UsageError(
            f"{loaded.name} reads its dialect only and does not know {words[0]!r}; see `kvpress show --task`"
        )
    if len(ids) == len(loaded.prompter.bos):
        raise UsageError("the text has no tokens; give --text or --file with something in it")
    chosen = Press.parse(press)
    if isinstance(chosen.recipe.scorer, EvidenceOracle):
        raise UsageError(f"{press} needs a prompt that says where its evidence stands; give --task instead of a text")
    with chosen(loaded.model) as opened:
        cache = opened.prefill(_row(ids, loaded))
    return _read(cache, loaded, ids, "a text of one's own", len(ids), None)


def _row(ids: Sequence[int], loaded: Loaded) -> Any:
    import torch

    return torch.tensor([ids], device=loaded.device, dtype=torch.int64)


def _read(
    cache: PressCache,
    loaded: Loaded,
    ids: Sequence[int],
    prompt: str,
    context: int,
    evidence: tuple[Evidence, ...] | None,
) -> Survivors:
    cache.settle()
    kept = []
    for store in cache.stores:
        positions = store.block().pos[0].cpu().numpy()
        heads = np.zeros((len(positions), len(ids)), dtype=np.bool_)
        for head, held in enumerate(positions):
            heads[head, held[held >= 0]] = True
        kept.append(heads)
    return Survivors(
        press=str(cache.press),
        model=loaded.name,
        prompt=prompt,
        tokens=tuple(loaded.tokenizer.decode([token]) for token in ids),
        context=context,
        layers=tuple(store.index for store in cache.stores),
        kept=tuple(kept),
        evidence=evidence,
        evicts=cache.press.recipe.evicts,
        others=len(cache.layers) - len(cache.stores),
        bytes_ratio=cache.nbytes() / max(1, cache.dense_nbytes()),
    )


def _evidence(episode: Episode, ids: Sequence[int], loaded: Loaded) -> tuple[Evidence, ...] | None:
    """The tokens of every turn's evidence; None where it is not known where they stand."""
    found = known_tokens(loaded.prompter, episode, ids)
    if found is None:
        return None
    return tuple(Evidence(turn, *span) for turn, tokens in enumerate(found, 1) for span in ranges(tokens))
