"""How well the bundled model answers, with the whole cache and with a perfect choice of 6 % of it.

  python -m kvpress_eval.tiny.evaluate
  python -m kvpress_eval.tiny.evaluate --variant outlier --lengths 512 --questions 100

``full`` is exact match of greedy decoding with the whole cache: every answer token is the argmax
given the tokens before it, so teacher forcing decides the same as ``generate``. ``oracle`` keeps,
per layer and KV head, the slots that the question and answer tokens themselves attend most: no
press can know them, it shows how much room there is. Documents with and without filler alternate;
document, question and answer fit in the stated length.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM

from . import load
from .dialect import KINDS, Document, document, encode

ROOM = 32  # tokens left for a question and its answer
PER_DOCUMENT = 10
FILLERS = (0.0, 0.4)
ORACLE_KEEP = 0.06


@dataclass(frozen=True)
class Cell:
    """One task at one length: ``n`` questions, how many were answered exactly."""

    task: str
    length: int
    n: int
    full: int
    oracle: int


def documents(task: str, length: int, questions: int, seed: int = 0) -> Iterator[Document]:
    """Test documents with ``questions`` questions in all; training draws from other seeds."""
    index = 0
    while questions > 0:
        rng = random.Random(f"evaluate/{seed}/{task}/{length}/{index}")
        filler = FILLERS[index % len(FILLERS)]
        doc = document(rng, length - ROOM, [task], filler, max_questions=min(questions, PER_DOCUMENT))
        questions -= len(doc.questions)
        index += 1
        yield doc


@torch.no_grad()
def evaluate(
    model: LlamaForCausalLM,
    tasks: Sequence[str],
    lengths: Sequence[int],
    questions: int,
    seed: int = 0,
) -> Iterator[Cell]:
    """Measure every task at every length, in eager attention: the oracle needs probabilities."""
    model.set_attn_implementation("eager")
    for length in lengths:
        for task in tasks:
            full = oracle = n = 0
            for doc in documents(task, length, questions, seed):
                right, chosen = _answer(model, doc)
                full, oracle, n = full + right, oracle + chosen, n + len(doc.questions)
            yield Cell(task, length, n, full, oracle)


def _answer(model: LlamaForCausalLM, doc: Document) -> tuple[int, int]:
    """Exact answers about one document: with the full cache, and with the oracle's choice."""
    cache = model(
        input_ids=torch.tensor([encode(doc.tokens)], dtype=torch.int64, device="cpu"), use_cache=True
    ).past_key_values
    ids, asked, valid = _question_rows(doc)
    right, attentions = _exact(model, cache, ids, asked, valid)
    kv_heads = model.config.num_key_value_heads
    masks = [_oracle_mask(a, valid, len(doc.tokens), kv_heads) for a in attentions]
    with _masked(model, masks):
        chosen, _ = _exact(model, cache, ids, asked, valid)
    return right, chosen


def _question_rows(doc: Document) -> tuple[Tensor, Tensor, Tensor]:
    """Ids (Q, m) of question + answer, padded at the end; which are answer; which not padding."""
    rows = [encode(q.prompt + q.answer) for q in doc.questions]
    m = max(map(len, rows))
    ids = torch.tensor([row + [0] * (m - len(row)) for row in rows], dtype=torch.int64, device="cpu")
    at = torch.arange(m, dtype=torch.int64, device="cpu")
    valid = at < torch.tensor([[len(row)] for row in rows], dtype=torch.int64, device="cpu")
    return (
        ids,
        valid & (at >= torch.tensor([[len(q.prompt)] for q in doc.questions], dtype=torch.int64, device="cpu")),
        valid,
    )


def _exact(
    model: LlamaForCausalLM, cache: DynamicCache, ids: Tensor, asked: Tensor, valid: Tensor
) -> tuple[int, tuple[Tensor, ...]]:
    """Rows whose every answer token is the argmax, and attention by layer (Q, heads, m, n + m)."""
    cache = copy.deepcopy(cache)
    cache.batch_repeat_interleave(len(ids))
    mask = torch.cat([torch.ones(len(ids), cache.get_seq_length(), dtype=torch.bool, device="cpu"), valid], dim=1)
    out = model(input_ids=ids, past_key_values=cache, attention_mask=mask, output_attentions=True)
    wrong = (out.logits[:, :-1].argmax(-1) != ids[:, 1:]) & asked[:, 1:]
    return int((~wrong.any(1)).sum()), out.attentions


def _oracle_mask(attention: Tensor, valid: Tensor, n: int, kv: int) -> Tensor:
    """Additive mask (Q, heads, m, n + m): each KV head's most attended slots, then causal."""
    rows, heads, m, _ = attention.shape
    score = (attention[..., :n] * valid[:, None, :, None]).sum(2)
    score = score.view(rows, kv, heads // kv, n).sum(2)
    top = score.topk(math.ceil(ORACLE_KEEP * n), dim=-1).indices
    kept = torch.zeros_like(score, dtype=torch.bool).scatter_(-1, top, True)
    kept = kept.repeat_interleave(heads // kv, dim=1)[:, :, None].expand(-1, -1, m, -1)
    causal = torch.ones(m, m, dtype=torch.bool, device="cpu").tril().expand(rows, heads, m, m)
    allowed = torch.cat([kept, causal], dim=-1)
    return torch.zeros_like(attention).masked_fill(~allowed, torch.finfo(attention.dtype).min)


@contextmanager
def _masked(model: LlamaForCausalLM, masks: Sequence[Tensor]) -> Iterator[None]:
    """Give every layer its own attention mask while the context is open."""

    def replace(mask: Tensor) -> Any:
        return lambda _module, args, kwargs: (args, {**kwargs, "attention_mask": mask})

    hooks = [
        layer.self_attn.register_forward_pre_hook(replace(mask), with_kwargs=True)
        for layer, mask in zip(model.model.layers, masks, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


HEADER = "| length | task | n | full | oracle 6 % |\n|---:|---|---:|---:|---:|"


def row(cell: Cell) -> str:
    """A line of the Markdown table under :data:`HEADER`, in per cent."""
    full, oracle = (100 * right / cell.n for right in (cell.full, cell.oracle))
    return f"| {cell.length} | {cell.task} | {cell.n} | {full:.1f} | {oracle:.1f} |"


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m kvpress_eval.tiny.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--variant", choices=("plain", "outlier"), default="plain")
    parser.add_argument("--tasks", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 1024, 2048])
    parser.add_argument("--questions", type=int, default=200, help="per task and length (default 200)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seed", type=int, default=0, help="of the documents (default 0)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    model, _ = load(args.variant, getattr(torch, args.dtype))
    print(
        f"{model.config.kvpress_variant}, {args.dtype}, seed {args.seed}, exact match in %",
        flush=True,
    )
    print(HEADER, flush=True)
    for cell in evaluate(model, args.tasks, args.lengths, args.questions, args.seed):
        print(row(cell), flush=True)


if __name__ == "__main__":
    main()
