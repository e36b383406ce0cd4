"""Loading a model by name: bundled, pretrained, a GGUF file, a local folder, or a hub id."""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CellError, UsageError
from .cached import wanted
from .convert import need_gguf, read_gguf, weights_of
from .hub_cache import cached, check_reachable
from .pretrained import PRETRAINED
from .rendering import Rendering, rendering_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "BUNDLED",
    "LoadedModel",
    "Location",
    "check_positions",
    "find",
    "load_model",
    "locate",
    "note_of",
    "resolve_device",
]

BUNDLED = {
    "tiny": "bundled 2.5 M-parameter Llama, reads the dialect; no download",
    "tiny-outlier": "the same function, with key-channel outliers (real models have some) put in",
}


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, with what a row needs to know about it.

    ``weights`` is a hash of a sample of every parameter: a model trained again under the same name is another one.
    ``max_positions`` is None where the configuration names none.
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
    weights: str

    def check_length(self, length: int) -> None:
        """Raise CellError for more tokens than the model has positions."""
        check_positions(self.name, self.max_positions, length)


def check_positions(name: str, limit: int | None, length: int) -> None:
    """Raise CellError for more tokens than a model has positions; ``limit`` is None where that is not known."""
    if limit is not None and length > limit:
        raise CellError(
            f"length {length} is more than model {name!r} has positions ({limit}); use --length {limit} or less"
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


def load_model(name: str, device: str = "auto", dtype: str = "auto", attn: str = "auto") -> LoadedModel:
    """Load a model and its tokenizer.

    Args:
        name: ``tiny``, ``tiny-outlier``, a pretrained one (``smollm2-135m``), a ``.gguf`` file, a folder that
            ``save_pretrained`` wrote, or a hub id. What is on this machine is used before the hub is asked.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        dtype: ``auto`` (of a folder or a hub id what the checkpoint says, else float32) or a torch dtype's name.
        attn: transformers' name of the attention implementation outside the press; ``auto`` lets it choose.

    Raises:
        UsageError: where the model cannot be found or loaded; says what to check.
    """
    import torch

    target = resolve_device(device)
    asked = None if dtype == "auto" else getattr(torch, dtype)
    try:
        if name in BUNDLED:
            from .bundled import load as load_tiny

            variant: Any = "outlier" if name == "tiny-outlier" else "plain"
            model, tokenizer = load_tiny(variant, asked)
            if attn != "auto":
                model.set_attn_implementation(attn)
        else:
            model, tokenizer = _load_any(name, dtype, attn)
        note = note_of(name)
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(f"cannot load model {name!r}: {_first_sentence(error)}") from None
    model = model.to(target).eval()
    config = model.config.get_text_config()
    return LoadedModel(
        name=name,
        note=note,
        model=model,
        tokenizer=tokenizer,
        rendering=rendering_of(tokenizer),
        device=target,
        dtype=str(model.dtype).removeprefix("torch."),
        attn=str(config._attn_implementation),
        max_positions=getattr(config, "max_position_embeddings", None),
        weights=_weights(model),
    )


@dataclass(frozen=True)
class Location:
    """Where ``from_pretrained`` finds a model: a folder or a hub id, and the GGUF file in that folder if it is one."""

    source: str
    gguf_file: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Of ``from_pretrained``, beside the source."""
        return {"gguf_file": self.gguf_file} if self.gguf_file else {}


def locate(name: str, dtype: str = "auto") -> Location:
    """Where a model of this name is; a hub id is only asked for where nothing of it is here.

    Raises:
        UsageError: where it is neither on this machine nor to be had; within seconds.
    """
    if name in BUNDLED:
        from .bundled import weights_path

        if name != "tiny":
            raise UsageError(f"model {name!r} is made in memory and has no folder; use tiny")
        return Location(str(weights_path()))
    if name in PRETRAINED:
        return Location(str(wanted(PRETRAINED[name], dtype)))
    path = Path(name).expanduser()
    if path.is_dir():
        return Location(str(path))
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise UsageError(f"cannot load model {name!r}: no such file; `kvpress models` lists what can be named")
        need_gguf()
        return Location(str(path.parent), path.name)
    if path.is_file():
        raise UsageError(f"cannot load model {name!r}: a file, but no .gguf; give its folder, or a GGUF file")
    if name.startswith(("/", ".", "~")):
        raise UsageError(f"cannot load model {name!r}: no such folder; give a folder, a hub id, or `tiny`")
    if not cached(name):
        near = difflib.get_close_matches(name, [*BUNDLED, *PRETRAINED], n=1)
        check_reachable(name, f" (did you mean {near[0]!r}?)" if near else "")
    return Location(name)


def find(name: str, dtype: str = "auto") -> None:
    """Say before anything slow is imported that a model is neither here nor to be had.

    Raises:
        UsageError: as :func:`locate`.
    """
    if name not in BUNDLED:
        locate(name, dtype)


def _load_any(name: str, dtype: str, attn: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = locate(name, dtype)
    options: dict[str, Any] = {} if attn == "auto" else {"attn_implementation": attn}
    asked = "auto" if dtype == "auto" else getattr(torch, dtype)
    if place.gguf_file:
        plain = torch.float32 if dtype == "auto" else asked
        return read_gguf(Path(place.source) / place.gguf_file, plain, **options)

    def read(local: bool) -> tuple[Any, Any]:
        tokenizer = AutoTokenizer.from_pretrained(place.source, local_files_only=local)
        model = AutoModelForCausalLM.from_pretrained(place.source, local_files_only=local, dtype=asked, **options)
        return model, tokenizer

    if Path(place.source).is_dir() or not cached(place.source):
        return read(local=Path(place.source).is_dir())
    try:
        return read(local=True)
    except OSError:  # only a part of it is here
        check_reachable(name)
        return read(local=False)


def note_of(name: str) -> str:
    """What stands beside the results of a model: where its weights come from."""
    if name in BUNDLED:
        return BUNDLED[name]
    if name in PRETRAINED:
        return PRETRAINED[name].note
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf" and path.is_file() and (weights := weights_of(path)):
        return f"{path.name} ({weights} weights, read back)"
    return ""


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
