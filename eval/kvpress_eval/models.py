"""Models by name: the bundled one (``tiny``, ``tiny-outlier``), a local folder, or a hub id."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .episode import Episode, Rendering
from .errors import UsageError
from .prompt import Prompter

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kvpress import Press

__all__ = ["BUNDLED", "Loaded", "Solutions", "load", "resolve_device"]

Solutions = dict[tuple[str, str, int], "Press | str"]

BUNDLED = {
    "tiny": "bundled 2.5 M-parameter Llama, reads the dialect; no download",
    "tiny-outlier": "the same function, with key-channel outliers (real models have some) put in",
}


@dataclass(frozen=True)
class Loaded:
    """A model ready to run, with what the runner and the row need to know about it.

    ``weights`` is a hash of a sample of every parameter: a model trained again under the same name is another one.
    ``max_positions`` is None where the configuration names none. ``episodes`` are those built so
    far: every press asks the same ones. ``solved`` are the presses found for an amount of bytes, by press, amount and
    context length; where none was found, the text of why.
    """

    name: str
    note: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    rendering: Rendering
    device: torch.device
    dtype: str
    attn: str
    max_positions: int | None
    prompter: Prompter
    weights: str
    episodes: dict[tuple[object, ...], Episode] = field(default_factory=dict, compare=False)
    solved: Solutions = field(default_factory=dict, compare=False)

    def check_length(self, length: int) -> None:
        """Raise UsageError for more tokens than the model has positions."""
        limit = self.max_positions
        if limit is not None and length > limit:
            raise UsageError(
                f"length {length} is more than model {self.name!r} has positions ({limit}); "
                f"use --length {limit} or less"
            )


def resolve_device(name: str) -> torch.device:
    """The device of a name; ``auto`` is the first GPU, or the CPU.

    Raises:
        UsageError: where it is not there.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device, dtype=torch.float32)
    except (RuntimeError, AssertionError) as error:
        line = str(error).splitlines()[0] if str(error) else "not available"
        raise UsageError(f"device {name!r} cannot be used here ({line}); try --device cpu") from None
    return device


def load(name: str, device: str = "auto", dtype: str = "auto", attn: str = "auto", chat: str = "auto") -> Loaded:
    """Load a model and its tokenizer.

    Args:
        name: ``tiny``, ``tiny-outlier``, a folder that ``save_pretrained`` wrote, or a hub id.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        dtype: ``auto`` (float32 for the bundled model, else what the checkpoint says) or a torch dtype's name.
        attn: transformers' name of the attention implementation outside the press; ``auto`` lets it choose.
        chat: use the tokenizer's chat template: ``auto``, ``on`` or ``off``.

    Raises:
        UsageError: where the model cannot be found or loaded; says what to check.
    """
    import torch

    target = resolve_device(device)
    wanted = None if dtype == "auto" else getattr(torch, dtype)
    try:
        if name in BUNDLED:
            from .tiny import load as load_tiny

            variant: Any = "outlier" if name == "tiny-outlier" else "plain"
            model, tokenizer = load_tiny(variant, wanted)
            if attn != "auto":
                model.set_attn_implementation(attn)
        else:
            model, tokenizer = _load_any(name, wanted or "auto", attn)
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(f"cannot load model {name!r}: {_first_sentence(error)}") from None
    model = model.to(target).eval()
    config = model.config.get_text_config()
    rendering = _rendering(tokenizer)
    return Loaded(
        name=name,
        note=BUNDLED.get(name, ""),
        model=model,
        tokenizer=tokenizer,
        rendering=rendering,
        device=target,
        dtype=str(model.dtype).removeprefix("torch."),
        attn=str(config._attn_implementation),
        max_positions=getattr(config, "max_position_embeddings", None),
        prompter=Prompter(tokenizer, rendering, chat),
        weights=_weights(model),
    )


def _load_any(name: str, dtype: Any, attn: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(name).expanduser()
    if name.startswith(("/", ".", "~")) and not folder.is_dir():
        raise UsageError(f"cannot load model {name!r}: no such folder; give a folder, a hub id, or `tiny`")
    source = str(folder) if folder.is_dir() else name
    options: dict[str, Any] = {"dtype": dtype}
    if attn != "auto":
        options["attn_implementation"] = attn
    tokenizer = AutoTokenizer.from_pretrained(source)
    return AutoModelForCausalLM.from_pretrained(source, **options), tokenizer


def _rendering(tokenizer: PreTrainedTokenizerBase) -> Rendering:
    """The dialect for a tokenizer whose words are the dialect's, natural text for any other."""
    from .tiny.dialect import VOCAB

    words = tokenizer.get_vocab()
    same = len(words) == len(VOCAB) and all(words.get(word) == i for i, word in enumerate(VOCAB))
    return "dialect" if same else "natural"


def _weights(model: PreTrainedModel) -> str:
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        sample = parameter.detach().flatten()[:: max(1, parameter.numel() // 64)][:64]
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(sample.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def _first_sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    hint = " (offline: HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
    return text[:300] + hint
