"""Measure the presses of NVIDIA's kvpress, or transformers' QuantizedCache, on inputs that `kvpress data` wrote.

    python measure.py nvidia INPUT.jsonl ... --model FOLDER --name MODEL --out RESULTS
    python measure.py hqq INPUT.jsonl ... --model FOLDER --name MODEL --out RESULTS

Writes one JSON file a press and task, which `kvpress import peer` reads. Runs where the peer is installed and imports
nothing of this repository (NVIDIA's package has the same import name): torch, transformers and what is measured.
A result that is there already is kept, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from reading import Peer, Reader, file_name, result

PRESSES = (
    *("SnapKV", "KVzip", "ExpectedAttention", "Knorm", "StreamingLLM", "TOVA", "ObservedAttention", "KeyDiff"),
    *("LagKV", "PyramidKV", "CriticalKV(SnapKV)", "CriticalKV(ExpectedAttention)", "AdaKV(SnapKV)"),
)


def nvidia(names: Sequence[str], ratios: Sequence[float], config: Any) -> Iterator[Peer]:
    """Presses of NVIDIA's package by name, ``SnapKV`` or ``AdaKV(SnapKV)``."""
    from transformers import DynamicCache

    for name in names:
        for ratio in ratios:
            press, text = _press(name, ratio)
            yield Peer(text, DynamicCache, lambda press=press: press, eager="ObservedAttention" in name)


def _press(name: str, ratio: float) -> tuple[Any, str]:
    import kvpress

    outer, _, inner = name.partition("(")
    kind = getattr(kvpress, f"{outer}Press", None)
    if kind is None:
        raise SystemExit(f"measure.py: NVIDIA's kvpress has no {outer}Press")
    if not inner:
        return kind(compression_ratio=ratio), f"{outer}Press(compression_ratio={ratio})"
    press, text = _press(inner.removesuffix(")"), ratio)
    if outer.startswith("Critical") and getattr(press, "use_vnorm", False):
        press.use_vnorm, text = False, text.removesuffix(")") + ", use_vnorm=False)"  # as they ask for
    return kind(press), f"{outer}Press({text})"


def hqq(bits: Sequence[int], config: Any) -> Iterator[Peer]:
    """transformers' QuantizedCache with its own settings."""
    from transformers import QuantizedCache

    for n in bits:
        make: Callable[[], Any] = lambda n=n: QuantizedCache("hqq", config, nbits=n)  # noqa: E731
        yield Peer(f"QuantizedCache(hqq, nbits={n})", make, lambda: lambda model: nullcontext())


def plain_tokenizer(tokenizer: Any, folder: Path) -> str:
    """A folder with the tokenizer but no chat template: KVzip takes the template's head for the first tokens of any
    context, and leaves them unscored; a raw passage has none.
    """
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    bare.save_pretrained(folder)
    return str(folder)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("peer", choices=("nvidia", "hqq"))
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT.jsonl", help="of `kvpress data --model MODEL`")
    parser.add_argument("--model", required=True, help="folder of the model, as save_pretrained writes it")
    parser.add_argument("--name", required=True, help="what our rows call the model")
    parser.add_argument("--out", required=True, type=Path, help="folder for the results")
    parser.add_argument("--press", nargs="+", default=list(PRESSES), metavar="NAME", help="of NVIDIA's (all of ours)")
    parser.add_argument("--ratio", nargs="+", type=float, default=[0.5, 0.75, 0.875], help="compression ratios")
    parser.add_argument("--bits", nargs="+", type=int, default=[4, 2], help="of hqq")
    parser.add_argument("--sessions", type=int, help="only the first so many")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(argv)


def read_lines(path: Path, most: int | None) -> list[dict[str, Any]]:
    """What is to be read of each line: passages as they are, sessions of questions by their tokens."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][:most]
    found = [line if "prefix_ids" in line else (line.get("meta") or {}).get("fed") for line in lines]
    if not found or not all(found):
        raise SystemExit(f"measure.py: {path} has no token ids; write it with `kvpress data --model MODEL`")
    return found


def _there(path: Path, lines: Sequence[dict[str, Any]]) -> bool:
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return [one["id"] for one in before["sessions"]] == [line["id"] for line in lines]


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
    from transformers import __version__ as transformers_version
    from transformers.utils import logging as transformers_logging

    origin = f"transformers {transformers_version}"
    if options.peer == "nvidia":
        try:
            origin = f"NVIDIA kvpress {version('kvpress')}"
        except PackageNotFoundError:
            raise SystemExit("measure.py: NVIDIA's kvpress is not installed here; see README.md") from None
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).eval().to(options.device)
    reader = Reader(model, tokenizer)
    full = Peer("full", DynamicCache, lambda: lambda model: nullcontext())
    if options.peer == "nvidia":
        peers = [full, *nvidia(options.press, options.ratio, model.config)]
    else:
        peers = [full, *hqq(options.bits, model.config)]
    options.out.mkdir(parents=True, exist_ok=True)
    shared = {
        "model": options.name,
        "dtype": options.dtype,
        "device": options.device,
        "threads": options.threads,
        "versions": {"torch": torch.__version__, "transformers": transformers_version},
        "command": shlex.join(["python", *sys.argv]) if argv is None else "",
    }
    with tempfile.TemporaryDirectory() as bare, torch.inference_mode():
        homes = {True: plain_tokenizer(tokenizer, Path(bare)), False: options.model}
        for path in options.inputs:
            lines = read_lines(path, options.sessions)
            raw = "prefix_ids" in lines[0]
            model.config.name_or_path = homes[raw or not lines[0]["chat"]]
            measure = reader.passage if raw else reader.questions
            for peer in peers:
                into = options.out / file_name(lines[0]["row"]["task"], f"{options.peer}-{peer.name}")
                if _there(into, lines):
                    continue
                start = time.perf_counter()
                found = [measure(line, peer, full) for line in lines]
                data = {**shared, **result(peer.name, origin, lines, found, reader.masked())}
                data["attn"], data["seconds"] = model.config._attn_implementation, time.perf_counter() - start
                part = into.with_name(f"{into.name}.{os.getpid()}.part")
                part.write_text(json.dumps(data), encoding="utf-8")
                part.replace(into)
                print(f"{into.name}: {data['seconds']:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
