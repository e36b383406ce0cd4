"""Random slots of left-padded rows, and the comparison of a scorer with a formula applied to each row alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kvpress.evidence.evidence import Evidence, Rule
from kvpress.evidence.rope import Rotate
from kvpress.recipe.kinds import Scorer
from kvpress.storage.block import Block

LENGTHS = (37, 19, 30, 4)
THETA = 10_000.0
ROUNDED = 3e-4  # relative error of scores with 12 binary digits
Formula = Callable[[Tensor, Tensor], list[float]]


class Rotates(dict[object, Rotate]):
    """Whatever a scorer is, it was given the rotary embedding."""

    def __contains__(self, decision: object) -> bool:
        return True

    def __missing__(self, decision: object) -> Rotate:
        return rotate


ROTATES = Rotates()


def padded(
    lengths: tuple[int, ...] = LENGTHS, heads: int = 3, dim: int = 16, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Block, Evidence]:
    """Slots of rows padded on the left, with an offset in every channel. Padding would be noticed."""
    generator = torch.Generator().manual_seed(seed)
    n = max(lengths)
    k, v = (torch.randn(len(lengths), heads, n, dim, generator=generator) for _ in range(2))
    k = k * (1 + torch.rand(dim, generator=generator)) + torch.randn(dim, generator=generator)
    number = torch.arange(n) - (n - torch.tensor(lengths)).unsqueeze(1)
    pad = (number < 0)[:, None, :, None]
    k, v = k.masked_fill(pad, 1e4).to(dtype), v.masked_fill(pad, -1e4).to(dtype)
    pos = torch.where(number >= 0, torch.arange(n), -1).int()[:, None].expand(-1, heads, -1).contiguous()
    rank = torch.where(number >= 0, number, -1).int()[:, None].expand(-1, heads, -1).contiguous()
    return Block(k, v, pos), Evidence(1, Rule(dim**-0.5), rank, given=ROTATES)


def compare(scorer: Scorer, formula: Formula, block: Block, seen: Evidence, tolerance: float) -> int:
    """The scores of every row and head are those of the formula for its real slots (n, D), in order, in fp64.

    Returns how many slots were compared.
    """
    scores = scorer(block, seen)
    assert scores.dtype == torch.float32 and scores.shape == block.pos.shape
    for row in range(scores.shape[0]):
        for head in range(scores.shape[1]):
            there = block.valid[row, head]
            wanted = torch.tensor(formula(block.k[row, head, there].double(), block.v[row, head, there].double()))
            error = (scores[row, head, there].double() - wanted).abs() / wanted.abs().clamp(min=1e-3)
            assert error.max() < tolerance, (row, head, float(error.max()))
    return int(block.valid.sum())


def shuffled(block: Block, seen: Evidence) -> tuple[Block, Evidence, Tensor]:
    """The same slots in another order in memory, and the order."""
    order = torch.randperm(block.k.shape[2], generator=torch.Generator().manual_seed(9))
    moved = Block(block.k[:, :, order], block.v[:, :, order], block.pos[..., order])
    return moved, Evidence(seen.layer, seen.rule, seen.rank[..., order], given=ROTATES), order


def assert_order_in_memory_is_nothing(scorer: Scorer) -> None:
    block, seen = padded()
    moved, other, order = shuffled(block, seen)
    there = block.valid[..., order]
    gap = (scorer(moved, other) - scorer(block, seen)[..., order])[there].abs().max()
    assert gap < 1e-3 * scorer(block, seen)[block.valid].abs().max()


def rotate(x: Tensor, by: Tensor) -> Tensor:
    """RoPE of x (B, H, n, D) by (B,) or (B, n) positions, written out; as fp32 like the library's."""
    half = x.shape[-1] // 2
    angle = by.double().view(len(by), 1, -1, 1) / THETA ** (torch.arange(half).double() / half)
    a, b = x.double().chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1).to(x.dtype)
