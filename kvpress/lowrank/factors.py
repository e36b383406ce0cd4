"""Low-rank factors of many matrices at once, by power iteration."""

from __future__ import annotations

import torch
from torch import Tensor

_FP16_MAX = 65504.0
_SEED = 20240308


def factors(x: Tensor, rank: int, rounds: int = 3) -> tuple[Tensor, Tensor]:
    """A (R, n, r) and B (R, D, r) in fp16 with x (R, n, D) ~ A B^T for each of R matrices; r = min(rank, n, D).

    Every matrix starts from the same basis and has its own from then on, so none depends on its neighbours. Both
    sides are made orthonormal in every round, which keeps fp32 in range whatever the size of x.
    """
    rank = min(rank, *x.shape[1:])
    start = torch.Generator().manual_seed(_SEED)
    right = (
        torch.randn(x.shape[2], rank, generator=start, dtype=torch.float32, device="cpu")
        .to(x.device)
        .expand(x.shape[0], -1, -1)
    )
    for number in range(rounds):
        left = torch.linalg.qr(x @ right).Q
        right = x.mT @ left
        if number + 1 < rounds:
            right = torch.linalg.qr(right).Q
    # Half of the size on each side, so that neither leaves the range of fp16.
    root = right.norm(dim=1, keepdim=True).sqrt()
    return _half(left * root), _half(right / torch.where(root == 0, 1.0, root))


def _half(x: Tensor) -> Tensor:
    return x.clamp(-_FP16_MAX, _FP16_MAX).half().contiguous()
