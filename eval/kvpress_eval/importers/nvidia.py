"""The result folders of NVIDIA's kvpress (evaluation/evaluate.py, read for 0.5.5).

``<dataset>[__<data_dir>]__<org--model>__<press>__<0.50>[__flag...]/{predictions.csv,metrics.json,config.yaml}``; a
rerun of the same settings is in ``1/``, ``2/``, ... under it, and the last complete one counts.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml  # what transformers reads its own files with

from .imported_rows import UNREADABLE, Damaged, Found, Session, Skipped, make_row, name_under
from .nvidia_scores import SOURCES, scores

__all__ = ["ORIGIN", "read"]

ORIGIN = "NVIDIA/kvpress results"
_FILES = ("predictions.csv", "metrics.json", "config.yaml")
_AMOUNT = re.compile(r"-?\d+\.\d\d")
_FLAGS = {
    "fraction": re.compile(r"fraction(\d\.\d+)"),
    "max_context_length": re.compile(r"max_context(\d+)"),
    "key_channel_compression_ratio": re.compile(r"key_channel_cr(\d\.\d+)"),
    "needle_depth": re.compile(r"needle_depth(\d+)"),
}
# evaluate.py's options, in the order of its dataclass; False and None are its defaults
_OPTIONS = (
    *("dataset", "data_dir", "model", "press_name", "compression_ratio", "key_channel_compression_ratio"),
    *("head_compression_ratio", "threshold", "fraction", "max_new_tokens", "max_context_length", "query_aware"),
    *("compress_questions", "needle_depth", "compression_interval", "target_size", "hidden_states_buffer_size"),
    *("fp8", "seed"),
)
_NUMBERS = (
    *("compression_ratio", "key_channel_compression_ratio", "head_compression_ratio", "threshold", "fraction"),
    *("max_new_tokens", "max_context_length", "compression_interval", "target_size", "hidden_states_buffer_size"),
    "seed",
)


def read(folder: Path) -> Iterator[Found | Skipped]:
    """Rows of every run under ``folder``, one per task of it; what is no run of this layout, with its reason."""
    runs: dict[Path, list[Path]] = {}
    for path in sorted((folder, *folder.rglob("*")), key=lambda path: path.as_posix()):
        name = name_under(path, folder)
        if path.is_dir():
            if any((path / file).is_file() for file in _FILES):
                home = path.parent if path.name.isdigit() and "__" in path.parent.name else path
                runs.setdefault(home, []).append(path)
        elif path.name not in _FILES and not any(part.startswith(".") for part in name.split("/")):
            yield Skipped(name, f"not a file of this layout ({', '.join(_FILES)})")
    for home, paths in runs.items():
        paths.sort(key=lambda path: int(path.name) if path != home else 0, reverse=True)
        taken = ""
        for path in paths:
            name = name_under(path, folder)
            if taken:
                yield Skipped(name, f"an older run of the settings of {taken}, which was taken")
                continue
            try:
                rows = _rows(path, home.name)
            except UNREADABLE as error:
                yield Skipped(name, " ".join(str(error).split()))
                continue
            taken = name
            yield from (Found(row, name) for row in rows)


def _rows(path: Path, name: str) -> list[Any]:
    told, config = _from_name(name), _config(path / "config.yaml")
    settings = {**told, **config}
    missing = [key for key in ("dataset", "model", "press_name") if not isinstance(settings.get(key), str)]
    if missing:
        raise Damaged(
            f"no {' and no '.join(missing)}: neither config.yaml nor the name of the folder "
            "(<dataset>__<data_dir>__<org--model>__<press>__<0.50>) says it"
        )
    aware = bool(settings.get("query_aware") or settings.get("compress_questions"))
    options = settings.get("model_kwargs") or {}
    dtype = str(options.get("dtype") or options.get("torch_dtype") or "auto").removeprefix("torch.")
    shared = {
        "origin": ORIGIN,
        "suite": settings["dataset"],
        "source": _source(settings),
        "prompts": "reference",
        "scorer": "imported",
        "model": settings["model"],
        "press": _press(settings),
        "mode": "multi-request",
        "history": "gold",
        "schedule": "after_turn1_prompt" if aware else "after_context",
        "question_visible": aware,
        "length": _length(settings),
        "seed": settings.get("seed") or 0,
        "depth": settings["needle_depth"] if isinstance(settings.get("needle_depth"), int) else None,
        "device": str(settings.get("device") or ""),
        "dtype": "" if dtype == "auto" else dtype,
        "attn": str(options.get("attn_implementation") or ""),
        "press_spec": str(settings.get("press_init_command") or _press(settings)),
        "command": _command(config) if config else "",
    }
    names = ("max_new_tokens", "max_context_length", "needle_depth", "data_dir", "fraction")
    identity = {key: str(settings[key]) for key in names if settings.get(key) is not None}
    found = scores(path, settings)
    return [_row(shared, task, sessions, identity) for task, sessions in found.items()]


def _row(shared: Mapping[str, Any], task: str, sessions: list[Session], identity: Mapping[str, Any]) -> Any:
    return make_row({**shared, "task": task}, sessions, identity)


def _from_name(name: str) -> dict[str, Any]:
    """What the name of a folder tells; {} for a name that is not of this layout."""
    parts = name.split("__")
    at = next((i for i in range(3, len(parts)) if _AMOUNT.fullmatch(parts[i])), 0)
    if at not in (3, 4):
        return {}
    told: dict[str, Any] = {
        "dataset": parts[0],
        "data_dir": parts[1] if at == 4 else None,
        "model": parts[at - 2].replace("--", "/", 1),
        "press_name": parts[at - 1],
        "compression_ratio": float(parts[at]),
    }
    if told["press_name"] in ("kvzap_linear", "kvzap_mlp"):  # the folder names their threshold in this place
        told["threshold"] = told.pop("compression_ratio")
    for flag in parts[at + 1 :]:
        if flag in ("query_aware", "compressed_questions"):
            told["query_aware"] = True
        for key, pattern in _FLAGS.items():
            if match := pattern.fullmatch(flag):
                told[key] = float(match[1]) if "." in match[1] else int(match[1])
    return told


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        raise Damaged("config.yaml is not YAML: the file is cut or damaged") from None
    if not isinstance(config, dict):
        raise Damaged("config.yaml holds no settings")
    if not isinstance(config.get("model_kwargs") or {}, dict):
        raise Damaged("config.yaml: model_kwargs is not a mapping")
    for key in _NUMBERS:
        if not isinstance(config.get(key) or 0, int | float):
            raise Damaged(f"config.yaml: {key} is {config[key]!r}, expected a number")
    return {str(key): value for key, value in config.items() if value is not None}


def _press(settings: Mapping[str, Any]) -> str:
    """``snapkv(compression_ratio=0.5)`` in NVIDIA's names: it is their press and not ours."""
    name = str(settings["press_name"])
    if name == "no_press":
        return "full" if not settings.get("fp8") else "fp8"
    amounts = ["threshold"] if settings.get("threshold") is not None else ["head_compression_ratio"]
    if settings.get(amounts[0]) is None:
        amounts = [] if name.startswith("decoding_") or name == "think" else ["compression_ratio"]
    amounts += ["key_channel_compression_ratio", "compression_interval", "target_size", "hidden_states_buffer_size"]
    given = [f"{key}={_shown(settings[key])}" for key in amounts if settings.get(key) is not None]
    return f"{name}({', '.join(given)})" + (" | fp8" if settings.get("fp8") else "")


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _length(settings: Mapping[str, Any]) -> int:
    """Tokens of a context where the settings say so (RULER names its data by them), else 0: not known."""
    told = settings.get("max_context_length")
    if settings["dataset"] == "ruler" and str(settings.get("data_dir") or "").isdigit():
        told = int(settings["data_dir"])
    return told if isinstance(told, int) else 0


def _source(settings: Mapping[str, Any]) -> str:
    fraction = settings.get("fraction") or 1.0
    hub = SOURCES.get(settings["dataset"], settings["dataset"])
    return hub if fraction >= 1 else f"{hub} ({fraction * 100:g} % of it)"


def _command(config: Mapping[str, Any]) -> str:
    """evaluate.py's own command: the settings file says everything it was given."""
    words = ["python", "evaluate.py"]
    for key in _OPTIONS:
        value = config.get(key)
        if value is not None and value is not False and not (key == "fraction" and value == 1):
            words += [f"--{key}", str(value)]
    return shlex.join(words)
