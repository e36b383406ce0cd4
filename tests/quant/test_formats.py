"""Every storage format in a cache: bytes by its formula for any length and width, and decoded tokens really coded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kvpress import Press, PressCache
from tests.helpers import decode
from tests.models import build, tokens

H, FP32, R = 2, 4, 32  # KV heads, bytes of a number, slots that stay dense
LENGTHS = (1, R - 1, R, R + 1, 1000)
DIMS = (64, 80, 96, 128, 256)
Formula = Callable[[int, int], tuple[int, int]]


def blocks(n: int, size: int) -> int:
    return max(0, n - R) // size * size


def kivi(n: int, d: int) -> tuple[int, int]:
    p = blocks(n, 16)
    return p, p * (2 * d * 2 // 8 + 4 * d // 16) + 4 * d * p // 16


def int8(n: int, d: int) -> tuple[int, int]:
    p = blocks(n, 1)
    return p, 2 * p * (d + 4)


def fp8(n: int, d: int) -> tuple[int, int]:
    p = blocks(n, 32)
    return p, 2 * (p * d + 2 * p // 32)


def fp8_token(n: int, d: int) -> tuple[int, int]:
    p = blocks(n, 32)
    return p, 2 * p * (d + 2)


def gear_l(n: int, d: int) -> tuple[int, int]:
    p = blocks(n, 16)
    rank = 4 if p > 16 else 2
    return p, kivi(n, d)[1] + 2 * 2 * rank * (p + d) * (p > 0)


def think(n: int, d: int) -> tuple[int, int]:
    kept = d - int(d * 0.4 + 1e-9)
    p = blocks(n, 1)
    return p, p * (kept + d) * FP32 + kept  # the channels' numbers once a head, also before anything is packed


FORMATS: dict[str, Formula] = {
    "kivi(bits=2, group=16, residual=32)": kivi,
    "int8(residual=32)": int8,
    "fp8(block=32, residual=32)": fp8,
    'fp8(scale="token", block=32, residual=32)': fp8_token,
    "gear_l(bits=2, group=16, block=16, residual=32)": gear_l,
    "think(keep_channels=0.6, recent=32)": think,
}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("text", FORMATS)
def test_bytes_are_the_formula(text: str, dim: int, length: int) -> None:
    """Of one KV head what the formula says, and 2 * D numbers for every slot that stays dense; to the byte."""
    model = build("llama", num_hidden_layers=1, head_dim=dim, max_position_embeddings=1024)
    with Press.parse(text)(model) as session:
        empty = session.new_cache()
        assert empty.nbytes() == 0  # no token, no byte
        cache = session.prefill(tokens(1, length))
    packed, size = FORMATS[text](length, dim)
    kinds = cache.ledger().by_kind()
    assert kinds.get("window", 0) == H * (length - packed) * 2 * dim * FP32
    assert cache.nbytes() - kinds.get("window", 0) - overhead(cache) == H * size


def overhead(cache: PressCache) -> int:
    """Twelve bytes for each run of a segment: which row and head it is, and the position of its first slot."""
    return sum(slab.runs.numel() * 12 for layer in cache.stores for item in layer.held for slab in item.segment.slabs)


# K and V of one token and KV head in bf16, D = 128, without what stays dense
TABLE = {
    "full": 512.0,
    "fp8": 256.0,
    "kivi(bits=4, group=32)": 160.0,
    "kivi(bits=4, group=128)": 136.0,
    "kivi(bits=2, group=32)": 96.0,
    "kivi(bits=2, group=64)": 80.0,
    "kivi(bits=2, group=128)": 72.0,
    "think(keep_channels=0.625)": 416.0,
    "think(keep_channels=0.6)": 410.0,
    "think(keep_channels=0.625) | kivi(bits=4, group=32)": 130.0,
    "think(keep_channels=0.625) | kivi(bits=2, group=32)": 78.0,
    "think(keep_channels=0.625) | kivi(bits=2, group=128)": 58.5,
    "gear_l(bits=2)": 97.1,  # 80 and rank 4 of 2048 slots: 2 * 2 * 4 * (1 + 128 / 2048)
    "minicache(retained=0.0)": 386.0,  # half of the layers share
    "minicache(retained=0.0) | kivi(bits=4, group=128)": 104.0,
    "minicache(retained=0.0) | kivi(bits=2, group=128)": 56.0,
}


@pytest.mark.parametrize("text", TABLE)
def test_bytes_of_a_token(text: str) -> None:
    """What a slot costs by the tables of the papers, from the ledger, within 1 % (fp8 has a scale here too)."""
    press, n = Press.parse(text), 2048
    model = build("llama", num_hidden_layers=4, head_dim=128, num_key_value_heads=1, max_position_embeddings=4096)
    with press(model.to(torch.bfloat16)) as session:
        cache = session.prefill(tokens(1, n + press.recipe.residual))
    whole = press.recipe.residual * 2 * 2 * 128  # bytes that stay dense in a layer
    found = (cache.nbytes() - 4 * whole - overhead(cache)) / (4 * n)
    assert found == pytest.approx(TABLE[text], rel=0.01)


CODES = (
    "kivi(bits=2, group=8, residual=4)",
    "kivi(bits=8, group=8, residual=4)",
    'kivi(bits=4, group=4, residual=4, keys="token")',
    "fp8(block=4, residual=4)",
    'fp8(scale="token", block=1, residual=4)',
    "int8(residual=4)",
    "gear(bits=2, group=8, block=8, residual=4)",
    "gear_l(bits=4, backbone=kcvt, block=8, residual=4)",
)


@pytest.mark.parametrize("text", CODES)
def test_tokens_decoded_one_at_a_time_are_really_coded(text: str) -> None:
    """A group of one token would come back exact and still be billed as coded: every packed slot has an error."""
    model, prompt, follow = build("llama", num_hidden_layers=1), tokens(1, 20), tokens(1, 60, 1)
    true = model(torch.cat([prompt, follow], 1)).past_key_values.layers[0]
    press = Press.parse(text)
    with press(model) as session:
        cache = session.prefill(prompt)
        decode(model, cache, follow)
    layer = cache.stores[0]
    packed = (80 - 4) // press.recipe.block * press.recipe.block
    block, coded = layer.block(), 0
    for name in ("k", "v"):
        held, own = getattr(block, name), true.keys if name == "k" else true.values
        for head in range(H):
            at = block.pos[0, head]
            there = at >= 0
            error = (held[0, head, there] - own[0, head, at[there].long()]).abs().amax(-1)
            where = at[there]
            assert (error[where >= packed] < 1e-5).all()
            coded_error = error[where < packed]
            assert coded_error.min() > 2**-11 * own.abs().max()  # more than the rounding of a minimum to fp16
            assert coded_error.max() < own.abs().max() / 3
            coded += int(((where >= 20) & (where < packed)).sum())
    assert coded == 2 * H * (packed - 20)
