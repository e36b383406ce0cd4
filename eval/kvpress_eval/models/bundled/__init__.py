"""The bundled model: a 2.46 M-parameter Llama, trained from scratch to read back documents.

It exists so that a compressed KV cache can be measured in seconds on a CPU and without a download:
with the full cache it answers nearly every question of :mod:`~kvpress_eval.models.bundled.dialect`, and every
lost slot shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["load", "weights_path"]

Variant = Literal["plain", "outlier"]


def weights_path() -> Path:
    """Folder of the weights, in the layout that ``from_pretrained`` reads."""
    return Path(__file__).parent / "weights"


def load(
    variant: Variant = "plain", dtype: torch.dtype | None = None
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Model (eval mode, CPU) and tokenizer from the local folder; never touches the network.

    Args:
        variant: ``"plain"`` as trained, or ``"outlier"``: the same function with made key-channel
        outliers, computed
            in fp32 from the plain weights (see :mod:`~kvpress_eval.tiny.outlier`). Label results
            with ``model.config.kvpress_variant``.
        dtype: of the model, ``torch.float32`` by default.

    Raises:
        FileNotFoundError: where the weights are not there (not trained and exported yet).
        ValueError: for another variant.
    """
    if variant not in ("plain", "outlier"):
        raise ValueError(f"variant must be 'plain' or 'outlier', got {variant!r}")
    folder = weights_path()
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"no weights in {folder}; train and export them with "
            "`python -m kvpress_eval.tiny.train --out RUN` "
            "and `python -m kvpress_eval.tiny.export RUN`"
        )
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from .outlier import VARIANT_NAME, add_key_outliers

    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    model.config.kvpress_variant = VARIANT_NAME["plain"]
    if variant == "outlier":
        add_key_outliers(model)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return model.to(dtype or torch.float32).eval(), tokenizer
