"""Why a model is not served, in words that are true of it, and how to reach one that is inside something else."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

_INNER = ("get_base_model()", "_orig_mod", "module", "model")  # of peft, torch.compile, DDP and FSDP, other wrappers
_KINDS = {
    "hybrid": "each keeps a recurrent state beside its keys, in one cache layer",
    "hybrid_sliding": "each keeps a recurrent state beside its last keys, in one cache layer",
    "sliding_attention": "sliding windows do not grow with the context",
    "chunked_attention": "chunks do not grow with the context",
    "linear_attention": "recurrent states do not grow with the context",
    "conv": "recurrent states do not grow with the context",
}


def inside(wrapper: Any) -> str:
    """How to reach the transformers model in a wrapper; "" where there is none."""
    for name in _INNER:
        found = getattr(wrapper, name.removesuffix("()"), None)
        if name.endswith("()") and callable(found):
            found = found()
        if isinstance(found, PreTrainedModel):
            return name
        if isinstance(found, torch.nn.Module) and (deeper := inside(found)):
            return f"{name}.{deeper}"
    return ""


def why_not(types: set[str]) -> str:
    """Why layers of these cache types are not compressed."""
    own = "choose or compress what they cache by themselves"
    return "; ".join(sorted({_KINDS.get(kind, f"{kind} layers {own}") for kind in types - {"dummy"}}))
