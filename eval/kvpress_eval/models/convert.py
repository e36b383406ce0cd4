"""From a GGUF file to a normal Hugging Face folder: the weights are dequantized once and load in seconds afterwards."""

from __future__ import annotations

import errno
import importlib.util
import io
import os
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any

from ..errors import UsageError

__all__ = ["need_gguf", "read_gguf", "save", "weights_of"]


def need_gguf() -> None:
    """Raise UsageError where a package that reads such files is missing."""
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f'reading a GGUF file needs {" and ".join(missing)}: pip install {" ".join(missing)} (the extra "gguf" of '
            "kvpress-lab)"
        )


def read_gguf(file: Path, dtype: Any, **options: Any) -> tuple[Any, Any]:
    """(model, tokenizer) of a GGUF file, as a model of plain weights.

    Args:
        dtype: torch dtype that the weights are dequantized to.
        options: further ones of ``from_pretrained`` for the model.

    Raises:
        UsageError: where a package for it is missing.
    """
    need_gguf()
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if hasattr(transformers, "GgufConfig"):  # later versions can leave weights packed, which would be another model
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    place, name = str(file.parent), file.name
    tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name)
    with _without_bars():
        model: Any = AutoModelForCausalLM.from_pretrained(place, gguf_file=name, dtype=dtype, **options)
    # the weights are plain from here on; what says otherwise would be saved with them
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    return model, tokenizer


def _without_bars() -> AbstractContextManager[object]:
    """Hide the bar of dequantizing, which does not ask whether bars are wanted."""
    from transformers.utils import logging

    return nullcontext() if logging.is_progress_bar_enabled() else redirect_stderr(io.StringIO())


def save(file: Path, folder: Path, dtype: str) -> None:
    """Write the model and the tokenizer of a GGUF file as a folder that ``from_pretrained`` reads.

    Raises:
        OSError: where there is no room for it.
    """
    import torch
    from safetensors import SafetensorError

    model, tokenizer = read_gguf(file, getattr(torch, dtype))
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # holds the system's error as text only
        full = "os error 28" in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, os.strerror(errno.ENOSPC) if full else str(error)) from error
    tokenizer.save_pretrained(folder)


def weights_of(file: Path) -> str:
    """How a GGUF file stores most of its weights, for example ``Q4_1``; "" where it does not say."""
    from gguf import GGUFReader, LlamaFileType

    field = GGUFReader(file).get_field("general.file_type")
    try:
        return "" if field is None else LlamaFileType(int(field.contents())).name.removeprefix("MOSTLY_")
    except ValueError:
        return ""
