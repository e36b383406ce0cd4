"""What the checks run on: a tiny random model, prompts long enough to compress, and ways to read and decode them."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from kvpress.cache.cache import PressCache
from kvpress.errors import PressConflictError
from kvpress.evidence.evidence import Evidence
from kvpress.recipe.press import Press
from kvpress.recipe.recipe import Recipe
from kvpress.session.second_reading import read_again
from kvpress.session.session import Session
from kvpress.storage.block import Block

VOCAB = 61
LAYERS, HEADS, GROUP = 3, 2, 3
_DIMS = (16, 32, 64, 128)
_MOST = 499  # tokens of a prompt: checks take seconds
View = tuple[Block, Evidence]


@cache
def tiny_model(head_dim: int, dtype: torch.dtype = torch.float32, layers: int = LAYERS) -> PreTrainedModel:
    """A random Llama of 3 layers (or more), 2 KV heads and 6 query heads, sharp enough to notice a lost slot."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=48,
        intermediate_size=56,
        num_hidden_layers=layers,
        num_attention_heads=HEADS * GROUP,
        num_key_value_heads=HEADS,
        head_dim=head_dim,
        max_position_embeddings=4096,
        initializer_range=0.08,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            parameter.mul_(3.0)
    return model.to(dtype)


@dataclass(frozen=True)
class Case:
    """A press under check, and the model it is checked on."""

    press: Press
    head_dim: int
    layers: int

    @staticmethod
    def of(press: Press) -> Case:
        """The press on a model whose head dimension it can store. Raises PressConflictError where none will do."""
        refused = None
        for head_dim in _DIMS:
            try:
                press.recipe.fits(head_dim)
            except PressConflictError as error:
                refused = error
                continue
            # Layers may share from half depth on, which takes two layers there.
            return Case(press, head_dim, LAYERS if press.recipe.sharer is None else 4)
        assert refused is not None
        raise PressConflictError(f"no head dimension of {_DIMS} will do, for {_DIMS[-1]}: {refused}")

    @cached_property
    def model(self) -> PreTrainedModel:
        return tiny_model(self.head_dim, torch.float32, self.layers)

    @property
    def recipe(self) -> Recipe:
        return self.press.recipe

    @cached_property
    def length(self) -> int:
        """Tokens of the longest row: enough to evict from, and to pack two blocks of what is left; odd."""
        recipe = self.recipe
        kept = recipe.sinks + (recipe.recent if isinstance(recipe.recent, int) else 0) + 9
        if recipe.block:
            kept = max(kept, recipe.residual + 2 * recipe.block + 3)
        if recipe.evicts:
            kept = 2 * recipe.keep if isinstance(recipe.keep, int) else math.ceil(kept / recipe.keep)
        return min(_MOST, max(41, kept)) | 1

    @cached_property
    def steps(self) -> int:
        """Tokens to decode: several evictions, and a packing unless blocks are large."""
        return min(40, max(6, self.recipe.block + 2))

    @cached_property
    def rows(self) -> list[Tensor]:
        """Three prompts (n_i,) of different lengths."""
        lengths = self.length, max(9, 11 * self.length // 20), max(13, 4 * self.length // 5)
        return [tokens(1, length, seed)[0] for seed, length in enumerate(lengths)]

    @cached_property
    def batch(self) -> tuple[Tensor, Tensor]:
        """The three prompts as ids and mask (3, n), padded on the left."""
        return left_padded(self.rows)

    @property
    def tolerance(self) -> float:
        """Of logits. A rounding tie that falls the other way turns a code, and with low bits that is a large step."""
        return 1e-4 if self.recipe.block == 0 else 0.1

    def views(self, ids: Tensor, mask: Tensor | None = None, dtype: torch.dtype = torch.float32) -> list[View]:
        """What a scorer is given after a prompt, layer by layer, each with memory of its own."""
        with self.press(tiny_model(self.head_dim, dtype, self.layers)) as session:
            cache = session.prefill(ids, mask, compress=False)
            if self.recipe.needs.repeat is not None:
                read_again(session, cache)
            stores = cache.stores
            blocks = [layer.block() for layer in stores]
            return [fresh((block, layer.evidence(block))) for layer, block in zip(stores, blocks, strict=True)]


def tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    """(batch, length) ids without padding and special tokens; equal arguments, equal ids."""
    generator = torch.Generator().manual_seed(1000 * seed + length)
    return torch.randint(2, VOCAB, (batch, length), generator=generator, dtype=torch.int64, device="cpu")


def left_padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows (n_i,) as ids (B, max n_i) padded on the left, and their mask."""
    width = max(len(row) for row in rows)
    ids = torch.stack([torch.cat([row.new_zeros(width - len(row)), row]) for row in rows])
    return ids, torch.stack(
        [torch.arange(width, dtype=torch.int64, device="cpu") >= width - len(row) for row in rows]
    ).long()


def fresh(view: View) -> View:
    """A copy that can be written to without harm."""
    block, seen = view
    copied = {name: value.clone() for name, value in vars(seen).items() if isinstance(value, Tensor)}
    return Block(block.k.clone(), block.v.clone(), block.pos.clone()), Evidence(**{**vars(seen), **copied})


@torch.no_grad()
def forward(model: PreTrainedModel, ids: Tensor, cache: Any, mask: Tensor | None = None) -> Tensor:
    """Logits (B, n, V) of ids (B, n) that follow what `cache` holds; mask over all tokens, or None."""
    extra = {}
    if mask is not None:
        extra["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    out = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **extra)
    logits: Tensor = out.logits
    return logits


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


def kept(cache: PressCache) -> list[list[list[list[int]]]]:
    """[layer][row][head] -> sorted logical indices of the slots held."""
    held = [layer.block().pos.tolist() for layer in cache.stores]
    return [[[sorted(p for p in head if p >= 0) for head in row] for row in rows] for rows in held]


def gap(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference; NaN on both sides is none."""
    a, b = a.double(), b.double()
    apart = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs())
    return float(apart.nan_to_num(nan=torch.inf).max()) if apart.numel() else 0.0


def digest(tensor: Tensor) -> str:
    """Hash of a tensor's bytes."""
    data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(data.numpy().tobytes()).hexdigest()
