"""The training twin of ``LlamaForCausalLM``: same parameters, a forward made for the loss.

Only the positions that carry a loss pass the last feed-forward block and the vocabulary.
``export.py`` moves the weights over unchanged (``load_state_dict``), and a test compares the
logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .words import VOCAB_ROWS


@dataclass(frozen=True)
class Shape:
    """Sizes of the network, in the words of ``LlamaConfig``."""

    hidden_size: int = 256
    intermediate_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    rope_theta: float = 1e5
    vocab_size: int = VOCAB_ROWS

    @property
    def group(self) -> int:
        """Query heads per KV head."""
        return self.num_attention_heads // self.num_key_value_heads

    def frequencies(self) -> Tensor:
        """RoPE's angular frequencies, ``(head_dim / 2,)``, fastest first."""
        return self.rope_theta ** -(
            torch.arange(0, self.head_dim, 2, dtype=torch.int64, device="cpu").float() / self.head_dim
        )


def rope_table(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each ``(length, head_dim / 2)``."""
    angles = torch.arange(length, dtype=torch.int64, device="cpu").float()[:, None] * shape.frequencies()
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on ``(..., n, head_dim)`` in the half-split layout of Llama."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class RMSNorm(nn.Module):
    """Llama's normalisation, always in fp32."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size, dtype=torch.float32, device="cpu"))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, 1e-5)


class Attention(nn.Module):
    """Causal grouped-query attention."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        d, q = shape.hidden_size, shape.num_attention_heads * shape.head_dim
        kv = shape.num_key_value_heads * shape.head_dim
        self.q_proj = nn.Linear(d, q, bias=False)
        self.k_proj = nn.Linear(d, kv, bias=False)
        self.v_proj = nn.Linear(d, kv, bias=False)
        self.o_proj = nn.Linear(q, d, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, n, _ = x.shape

        def heads(y: Tensor) -> Tensor:
            return y.view(batch, n, -1, self.shape.head_dim).transpose(1, 2)

        v = heads(self.v_proj(x))
        q = rotate(heads(self.q_proj(x)), cos, sin).to(v.dtype)
        k = rotate(heads(self.k_proj(x)), cos, sin).to(v.dtype)
        k, v = (y.repeat_interleave(self.shape.group, dim=1) for y in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(batch, n, -1))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One pre-norm decoder layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = FeedForward(shape)
        self.input_layernorm = RMSNorm(shape.hidden_size)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size)


class Decoder(nn.Module):
    """Embedding, layers and the final norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.num_hidden_layers))
        self.norm = RMSNorm(shape.hidden_size)

    @property
    def blocks(self) -> Sequence[Block]:
        """The layers, first to last; a ModuleList does not say what it holds."""
        return cast("Sequence[Block]", self.layers)


class TinyLM(nn.Module):
    """Decoder with tied embeddings; weights drawn from torch's global generator."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
        for name, p in self.named_parameters():
            if "embed_tokens" in name or "lm_head" in name:
                nn.init.normal_(p, std=shape.hidden_size**-0.5)
            elif p.dim() == 2:
                residual = "o_proj" in name or "down_proj" in name
                depth = math.sqrt(2 * shape.num_hidden_layers) if residual else 1.0
                nn.init.normal_(p, std=p.shape[1] ** -0.5 / depth)
        self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, ids: Tensor, cos: Tensor, sin: Tensor, at: Tensor) -> Tensor:
        """Logits ``(m, vocab)`` at the flat positions ``at`` (m,) of ``ids`` (B, n)."""
        x = self.model.embed_tokens(ids)
        last = len(self.model.blocks) - 1
        for i, block in enumerate(self.model.blocks):
            x = x + block.self_attn(block.input_layernorm(x), cos, sin)
            if i == last:
                x = x.reshape(-1, self.shape.hidden_size)[at]
            x = x + block.mlp(block.post_attention_layernorm(x))
        return self.lm_head(self.model.norm(x))

    def loss(
        self, ids: Tensor, cos: Tensor, sin: Tensor, at: Tensor, target: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weighted mean cross-entropy at the positions ``at``, and the predicted ids there (m,)."""
        logits = self(ids, cos, sin, at).float()
        losses = F.cross_entropy(logits, target, reduction="none")
        return (losses * weight).sum() / weight.sum(), logits.argmax(-1)
