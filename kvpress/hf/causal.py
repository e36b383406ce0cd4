"""Whether a model's mask function is the plain causal one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

_TILE = 1 << 22  # pairs of a query and a slot


def only_causal(arguments: Mapping[str, Any]) -> bool:
    """Whether a mask function lets every query see what is not after it, and nothing else.

    arguments: as transformers gives them to a mask implementation. A model may build one from what is all text: its
    image blocks are empty then. A tile of queries is looked at at a time.
    """
    rule, device = arguments["mask_function"], arguments.get("device")
    rows, queries, slots = (int(arguments[name]) for name in ("batch_size", "q_length", "kv_length"))
    batch = torch.arange(rows, dtype=torch.long, device=device).view(-1, 1, 1, 1)
    slot = torch.arange(slots, dtype=torch.long, device=device) + arguments.get("kv_offset", 0)
    head, step = batch[:1], max(1, _TILE // (rows * slots))
    for start in range(0, queries, step):
        query = torch.arange(start, min(start + step, queries), dtype=torch.long, device=device).view(1, 1, -1, 1)
        query = query + arguments["q_offset"]
        allowed = rule(batch, head, query, slot.view(1, 1, 1, -1))
        if not torch.equal(*torch.broadcast_tensors(allowed, slot <= query)):
            return False
    return True
