"""What many tests share: the presses under contract, teacher-forced decoding, and plain attention to compare with."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from kvpress import PRESETS, Press, PressCache, Session

KIVI = "kivi(bits=4, group=4, residual=5)"
KIVI8 = "kivi(bits=8, group=4, residual=5)"
GEAR = "gear(bits=4, group=4, block=8, residual=5, outliers=0.1)"
SMALL = {name: f"{name}({PRESETS[name].small})" if PRESETS[name].small else name for name in PRESETS if "@" not in name}
EVICTING = {name: text for name, text in SMALL.items() if Press.parse(text).recipe.scorer is not None}
PARTS = {name: text for name, text in SMALL.items() if Press.parse(text).recipe.unfinished}
STORED = {name: text for name, text in SMALL.items() if name not in {**EVICTING, **PARTS, "full": ""}}
EXACT = {
    "full": "full",
    **EVICTING,
    "h2o-slots": "h2o(keep=13, sinks=1, recent=3)",
    **{name: f"{text} | snapkv(keep=0.4, window=5, kernel_size=3)" for name, text in PARTS.items()},
    "criticalkv-h2o": "criticalkv | h2o(keep=0.4)",
    "criticalkv-ada-h2o": "criticalkv@kvpress | ada | h2o(keep=13, sinks=1, recent=3)",
    "ada-h2o": "ada | h2o(keep=13)",
    "zigzag-h2o": "zigzag(window=6) | h2o(keep=0.4)",
    "pyramid-ada": "pyramid | ada(alpha=0.5, mode=floor) | snapkv(keep=0.4, window=5, kernel_size=3)",
    "pooled-h2o": "pooled | h2o(keep=0.4)",
    "kvzip-all": "kvzip(keep=0.4, sinks=1, recent=2, chunk=50)",
    "cur-random": 'cur(keep=13, sinks=0, combine="mean", window=0, sketch=5, seed=2)',
    "snapkv-again": 'snapkv(keep=13, window=5, kernel_size=3, pooling="avg", every_prompt=true)',
}
COMPOSED = {f"{name}|kivi": f"{text} | {KIVI}" for name, text in EVICTING.items()}
QUANTIZED = {
    **STORED,
    "kivi-token": 'kivi(k_bits=8, v_bits=4, group=4, residual=0, keys="token")',
    "fp8-token": 'fp8(scale="token", block=3, residual=0)',
    "gear-kcvt": 'gear(bits=4, backbone="kcvt", group=4, block=8, residual=0, outliers=0.1)',
    "snapkv|gear": f"{EVICTING['snapkv']} | {GEAR}",
    "h2o|gear": f"{EVICTING['h2o']} | {GEAR}",
    **COMPOSED,
    "h2o|think": "h2o(keep=0.4) | think(keep_channels=0.5, keep_values=0.75, window=6, recent=4)",
    "snapkv|think|kivi": f"{EVICTING['snapkv']} | think(keep_channels=0.5, window=5, recent=5) | {KIVI}",
    "ada|minicache|kivi": f"ada | {EVICTING['snapkv']} | minicache(start=0, block=4, rule=range) | {KIVI8}",
    "zigzag|ada|kivi": f"zigzag | ada | {EVICTING['snapkv']} | {KIVI}",
}
MOVED = {"moved": "streaming_llm(keep=0.4, sinks=2)"}  # keys are turned, so what is held is not what a full cache holds
ALL = {**EXACT, **QUANTIZED, **MOVED}
KEEP_ALL = {
    "full": "full",
    "random": "random(keep=1)",
    "streaming_llm": 'streaming_llm(keep=1.0, positions="keep")',
    "tova": "tova(keep=1)",
    "h2o": "h2o(keep=1.0)",
    "snapkv": "snapkv(keep=1, window=5)",
    "expected_attention": "expected_attention(keep=1)",
    "room": "h2o(keep=400) ",  # a budget that is never reached
}


def over(presses: dict[str, str]) -> pytest.MarkDecorator:
    """Parametrize a test over presses, under readable names."""
    return pytest.mark.parametrize("press", [pytest.param(Press.parse(t), id=n) for n, t in presses.items()])


def positions_of(mask: Tensor) -> Tensor:
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def forward(model: PreTrainedModel, ids: Tensor, cache: Any, mask: Tensor | None = None) -> Tensor:
    """Logits (B, n, V) of ids (B, n) that follow what `cache` holds; mask over all tokens, or None."""
    extra = {}
    if mask is not None and "position_ids" in inspect.signature(model.forward).parameters:
        extra["position_ids"] = positions_of(mask)[:, -ids.shape[1] :]
    return model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **extra).logits


def decode(model: PreTrainedModel, cache: Any, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Logits (B, n, V) of ids (B, n) given one at a time. mask: of the tokens `cache` holds."""
    out = []
    for at in range(ids.shape[1]):
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        out.append(forward(model, ids[:, at : at + 1], cache, mask)[:, -1])
    return torch.stack(out, 1)


def rollout(
    session: Session, ids: Tensor, follow: Tensor, mask: Tensor | None = None, chunk: int | None = None
) -> tuple[Tensor, PressCache]:
    """Logits (B, 1 + n, V) after a prompt and after each of the tokens `follow` (B, n), and the cache."""
    cache = session.prefill(ids, mask, chunk=chunk)
    assert cache.next_logits is not None
    first = cache.next_logits[:, None]
    return torch.cat([first, decode(session.model, cache, follow, mask)], 1), cache


def gap(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference."""
    assert a.shape == b.shape
    return float((a.float() - b.float()).abs().max())


def digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def segment_digests(cache: PressCache) -> list[dict[str, str]]:
    """One dictionary a segment: tensor name -> hash of its bytes."""
    return [
        {name: digest(tensor) for name, _, _, tensor in item.segment.tensors()}
        for layer in cache.stores
        for item in layer.held
    ]


def kept(cache: PressCache) -> list[list[list[list[int]]]]:
    """[layer][row][head] -> sorted logical indices of the slots held."""
    out = []
    for layer in cache.stores:
        pos = layer.block().pos
        out.append([[sorted(p for p in head if p >= 0) for head in row] for row in pos.tolist()])
    return out


def dense_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    see: Tensor,
    scale: float,
    cap: float | None = None,
    sink: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Textbook attention in fp64. q (B, Hq, m, D); k, v (B, H, n, D); see (B, H, m, n) bool -> out, probs.

    out (B, Hq, m, D), zero where nothing is seen; probs (B, Hq, m, n). sink: logits (Hq,) that take mass. bias:
    (B, H, n) added to the logits of each slot.
    """
    group = q.shape[1] // k.shape[1]
    k, v, see = (x.repeat_interleave(group, 1) for x in (k.double(), v.double(), see))
    logits = q.double() @ k.transpose(-1, -2) * scale
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    if bias is not None:
        logits = logits + bias.double().repeat_interleave(group, 1).unsqueeze(2)
    weights = logits.exp() * see
    total = weights.sum(-1, keepdim=True)
    if sink is not None:
        total = total + sink.double().exp().view(1, -1, 1, 1)
    probs = weights / total.clamp(min=1e-300)
    return probs @ v, probs
