"""From a GGUF file to a normal Hugging Face folder: the weights are dequantized once, and load in seconds afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UsageError

__all__ = ["need_gguf", "read_gguf", "save", "weights_of"]


def need_gguf() -> None:
    """Raise UsageError where the package that reads such files is missing."""
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise UsageError(
            'reading a GGUF file needs the package gguf; pip install "gguf>=0.10" (the extra "gguf" of kvpress-lab)'
        ) from None


def read_gguf(file: Path, dtype: Any, **options: Any) -> tuple[Any, Any]:
    """(model, tokenizer) of a GGUF file, as a model of plain weights.

    Args:
        dtype: torch dtype that the weights are dequantized to.
        options: further ones of ``from_pretrained`` for the model.

    Raises:
        UsageError: where the package ``gguf`` is missing.
    """
    need_gguf()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place, name = str(file.parent), file.name
    tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name)
    model: Any = AutoModelForCausalLM.from_pretrained(place, gguf_file=name, dtype=dtype, **options)
    # the weights are plain from here on; what says otherwise would be saved with them
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    return model, tokenizer


def save(file: Path, folder: Path, dtype: str) -> None:
    """Write the model and the tokenizer of a GGUF file as a folder that ``from_pretrained`` reads."""
    import torch

    model, tokenizer = read_gguf(file, getattr(torch, dtype))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def weights_of(file: Path) -> str:
    """How a GGUF file stores most of its weights, for example ``Q4_1``; "" where it does not say."""
    from gguf import GGUFReader, LlamaFileType

    field = GGUFReader(file).get_field("general.file_type")
    try:
        return "" if field is None else LlamaFileType(int(field.contents())).name.removeprefix("MOSTLY_")
    except ValueError:
        return ""
