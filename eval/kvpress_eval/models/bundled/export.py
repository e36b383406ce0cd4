"""Write a finished run as the folder that ``from_pretrained`` reads, training log included.

python -m kvpress_eval.tiny.export runs/tiny                 replaces the bundled weights
python -m kvpress_eval.tiny.export runs/tiny --to FOLDER     somewhere else
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from . import weights_path
from .dialect import TOKEN_ID
from .model import Shape
from .train import CHECKPOINT, LOG

MAX_POSITIONS = 2048


def to_transformers(shape: Shape, weights: dict[str, torch.Tensor], dtype: torch.dtype) -> LlamaForCausalLM:
    """A ``LlamaForCausalLM`` with these weights, in eval mode.

    Raises:
        RuntimeError: where names or shapes do not match exactly.
    """
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        head_dim=shape.head_dim,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        max_position_embeddings=MAX_POSITIONS,
        pad_token_id=TOKEN_ID["<pad>"],
        bos_token_id=TOKEN_ID["<bos>"],
        eos_token_id=TOKEN_ID["<eos>"],
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict(weights)
    # an answer ends with ";", so plain generate() stops there
    model.generation_config.eos_token_id = [TOKEN_ID["<eos>"], TOKEN_ID[";"]]
    model.generation_config.do_sample = False
    return model.to(dtype).eval()


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per whitespace-separated word; adds nothing before or after."""
    backend = Tokenizer(models.WordLevel(dict(TOKEN_ID), unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def export(run: Path, to: Path) -> None:
    """Write the run's last checkpoint, in bf16, and its log into ``to`` (a README.md stays).

    Raises:
        FileNotFoundError: where ``run`` has no checkpoint.
    """
    state: dict[str, Any] = torch.load(run / CHECKPOINT, weights_only=True)
    shape = Shape(**state["recipe"]["shape"])
    to.mkdir(parents=True, exist_ok=True)
    to_transformers(shape, state["model"], torch.bfloat16).save_pretrained(to)
    build_tokenizer().save_pretrained(to)
    # the checkpoint's own log: the run's file may hold later steps than these weights
    (to / LOG).write_text("".join(json.dumps(line) + "\n" for line in state["log"]))
    size = (to / "model.safetensors").stat().st_size
    tokens, minutes = state["tokens"] / 1e6, state["seconds"] / 60
    print(f"step {state['step']}, {tokens:.1f} M tokens, {minutes:.1f} min; {size} bytes")


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m kvpress_eval.tiny.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder that the training wrote")
    parser.add_argument("--to", type=Path, default=weights_path(), help="default: the bundled weights' folder")
    args = parser.parse_args(argv)
    export(args.run, args.to)


if __name__ == "__main__":
    main()
