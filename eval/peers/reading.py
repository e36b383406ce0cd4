"""How `measure.py` reads a model, and the figures it takes. Needs torch only."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

_ROWS = 32  # predictions that are compared at once, in double precision


class Peer(NamedTuple):
    """What is measured: ``cache()`` makes an empty cache, ``press()`` is around the reading of the context."""

    name: str
    cache: Callable[[], Any]
    press: Callable[[], Callable[[Any], AbstractContextManager[Any]]]
    eager: bool = False


class Read(NamedTuple):
    """(d,) state after the last token of a context, its cache and the bytes that this holds."""

    last: Tensor
    cache: Any
    bytes: int


def divergence(full: Tensor, press: Tensor, tokens: Tensor) -> tuple[list[float], list[float], list[float]]:
    """NLL of the tokens (n,) in nats, KL(full || press) in nats and equal argmaxes (1 or 0) of (n, V) logits."""
    theirs, ours = (torch.log_softmax(logits.double(), -1) for logits in (full, press))
    nll = -ours.gather(1, tokens[:, None])[:, 0]
    terms = torch.where(theirs > -torch.inf, theirs.exp() * (theirs - ours), 0.0)
    agree = (full.argmax(-1) == press.argmax(-1)).double()
    return nll.tolist(), terms.sum(-1).clamp(min=0).tolist(), agree.tolist()


def held_bytes(cache: Any) -> int:
    """Bytes of all tensors of a cache, those of packed values and their scales among them; each counts once."""
    found: dict[int, int] = {}
    pending = [cache]
    seen = set()
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            found[id(one)] = one.numel() * one.element_size()
        elif isinstance(one, dict):
            pending += one.values()
        elif isinstance(one, list | tuple):
            pending += one
        elif type(one).__module__.startswith("transformers.cache"):
            pending += vars(one).values()
    return sum(found.values())


def gold_measures(logits: Tensor, gold: Sequence[int]) -> dict[str, float | None]:
    """Mean log-probability (nats) of a gold answer, predicted by logits (n, V), and whether all of it is likeliest."""
    if not gold:
        return {"gold_logprob": None, "gold_argmax": None}
    ids = torch.tensor(gold, device=logits.device)
    likely = torch.log_softmax(logits.double(), -1).gather(1, ids[:, None])
    mean = float(likely.mean())
    known = math.isfinite(mean)
    return {
        "gold_logprob": round(mean, 6) if known else None,
        "gold_argmax": float((logits.argmax(-1) == ids).all()) if known else None,
    }


def file_name(task: str, press: str) -> str:
    """``lm_code-snapkvpress-compression-ratio-0.5.json``."""
    return f"{task}-{re.sub(r'[^a-z0-9.]+', '-', press.lower()).strip('-')}.json"


def result(
    peer: str, origin: str, lines: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]], masked: bool = False
) -> dict[str, Any]:
    """What the importer reads. ``found`` has a session of each line, with its ``bytes`` and ``bytes_dense``.

    A press that masks slots and keeps them is called so: its bytes are those of the full cache.
    """
    n = len(found)
    return {
        "kind": "kvpress-peer",
        "origin": origin,
        "press": f"{peer}, masked" if masked else peer,
        "bytes": round(sum(one["bytes"] for one in found) / n),
        "bytes_dense": round(sum(one["bytes_dense"] for one in found) / n),
        "bytes_ratio": sum(one["bytes"] / one["bytes_dense"] for one in found) / n,
        "row": lines[0]["row"],
        "sessions": [{k: v for k, v in one.items() if not k.startswith("bytes")} for one in found],
    }


class Reader:
    """A model, read as the peers are meant to be used: the context under the press, all else without it."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer, self.device = model, tokenizer, model.device
        self.known: dict[str, tuple[Tensor, int]] = {}  # of each passage: what its full cache predicts, and its bytes
        self.attn = model.config._attn_implementation

    def logits(self, states: Tensor) -> Tensor:
        return self.model.get_output_embeddings()(states)

    def context(self, ids: Sequence[int], peer: Peer) -> Read:
        """Read and compress a context."""
        self.model.set_attn_implementation("eager" if peer.eager else self.attn)
        cache = peer.cache()
        with peer.press()(self.model):
            states = self.model.model(input_ids=self._ids(ids), past_key_values=cache, use_cache=True).last_hidden_state
            last = states[0, -1].clone()
        return Read(last, cache, held_bytes(cache))

    def after(self, ids: Sequence[int], cache: Any, start: int) -> Tensor:
        """(n, d) states after each of the tokens, which stand at ``start`` and on whatever the cache has dropped.

        One at a time where layers hold different numbers of slots: transformers makes one mask, for the first layer.
        Fewer at a time where slots are masked and NVIDIA's search finds no key that none of the queries sees.
        """
        if not ids:
            return self.model.get_output_embeddings().weight.new_zeros(0, self.model.config.hidden_size)
        even = len({layer.get_seq_length() for layer in cache.layers}) == 1
        masked = self.masked()
        step = len(ids) if even else 1
        while True:
            spare = copy.deepcopy(cache) if masked and step > 1 else None
            try:
                return self._pieces(ids, cache, start, step)
            except ValueError:
                if spare is None:
                    raise
                cache.layers, step = spare.layers, max(1, step // 4)

    def masked(self) -> bool:
        """Whether the press that read last masks slots where it would drop them (AdaKV, KVzip)."""
        return any(getattr(one, "masked_key_indices", None) is not None for one in self.model.modules())

    def _pieces(self, ids: Sequence[int], cache: Any, start: int, step: int) -> Tensor:
        places = torch.arange(start, start + len(ids), device=self.device)[None]
        found = [
            self.model.model(input_ids=some, position_ids=at, past_key_values=cache, use_cache=True).last_hidden_state
            for some, at in zip(self._ids(ids).split(step, 1), places.split(step, 1), strict=True)
        ]
        return torch.cat(found, 1)[0]

    def _ids(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor([list(ids)], device=self.device)

    def passage(self, line: dict[str, Any], peer: Peer, full: Peer) -> dict[str, Any]:
        """A forced text, against the full cache: one value for each forced token."""
        ids = line["forced_ids"]

        def states(which: Peer) -> tuple[Tensor, int]:
            read = self.context(line["prefix_ids"], which)
            return torch.cat([read.last[None], self.after(ids[:-1], read.cache, len(line["prefix_ids"]))]), read.bytes

        if line["id"] not in self.known:
            self.known[line["id"]] = states(full)
        theirs, dense = self.known[line["id"]]
        ours, held = (theirs, dense) if peer is full else states(peer)
        found: dict[str, list[float]] = {"nll": [], "kl": [], "agree": []}
        for at in range(0, len(ids), _ROWS):
            part = slice(at, at + _ROWS)
            values = divergence(
                self.logits(theirs[part]), self.logits(ours[part]), torch.tensor(ids[part], device=self.device)
            )
            for one, more in zip(found.values(), values, strict=True):
                one += more
        return {"id": line["id"], **found, "bytes": held, "bytes_dense": dense}

    def questions(self, line: dict[str, Any], peer: Peer, full: Peer) -> dict[str, Any]:
        """Greedy answers to every question, each from a copy of the compressed context."""
        read, size = self.context(line["context_ids"], peer), len(line["context_ids"])
        if line["id"] not in self.known:
            dense = read if peer is full else self.context(line["context_ids"], full)
            self.known[line["id"]] = dense.last, dense.bytes
            read = read if peer is full else self.context(line["context_ids"], peer)  # masks are kept by the model
        ends = getattr(self.model.generation_config, "eos_token_id", None)
        stops = {*line["stop_ids"], *([ends] if isinstance(ends, int) else ends or [])}
        said = [self._answer(one, read.cache, size, stops) for one in line["questions"]]
        return {
            "id": line["id"],
            "answers": [text for text, _, _ in said],
            "stopped": [stopped for _, stopped, _ in said],
            "expected": [one["expected"] for one in line["questions"]],
            "measures": {name: [gold[name] for *_, gold in said] for name in ("gold_logprob", "gold_argmax")},
            "bytes": read.bytes,
            "bytes_dense": self.known[line["id"]][1],
        }

    def _answer(self, one: dict[str, Any], cache: Any, size: int, stops: set[int]) -> tuple[str, bool, dict[str, Any]]:
        own, at = copy.deepcopy(cache), size + len(one["ids"])
        last = self.after(one["ids"], own, size)[-1:]
        rest = self.after(one["gold_ids"][:-1], copy.deepcopy(own), at)
        gold = gold_measures(self.logits(torch.cat([last, rest])), one["gold_ids"])
        new: list[int] = []
        while True:
            token = int(self.logits(last)[0].argmax())
            if token in stops:
                break
            new.append(token)
            if len(new) == one["max_new_tokens"]:
                break
            last = self.after([token], own, at + len(new) - 1)
        return self.tokenizer.decode(new, skip_special_tokens=True), len(new) < one["max_new_tokens"], gold
