"""What a forward is given: whether it is text, token by token, and nothing else.

A press that feeds a prompt again has the token ids alone. What else told the model what to read is not there
the second time, so a prompt is read again only where everything it came with is known to carry no content.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor

from kvpress.errors import UnsupportedError, short
from kvpress.recipe.press import like, reads_once

# Tensors and objects that may come with tokens: where they stand, where they are kept, and what to compute.
_TEXT = {"input_ids", "attention_mask", "position_ids", "cache_position", "past_key_values", "logits_to_keep", "labels"}
_OF_TEXT = ("bos", "eos", "pad", "sep", "cls", "mask", "unk", "eod", "decoder_start", "forced_bos", "forced_eos")
_ENDS = ("_token_id", "_token_index", "_token_ids")


def check_text(press: object, given: Mapping[str, Any], config: Any) -> None:
    """Raise UnsupportedError where `given`, the arguments of a forward, may be more than tokens that can be fed again.

    config: of the whole model, which names the tokens that stand for images, audio and the like.
    """
    ids = given.get("input_ids")
    if not isinstance(ids, Tensor):
        raise UnsupportedError(
            f"{short(press)} reads the prompt a second time and needs input_ids; this forward has none. Give them, or "
            f"use a press that reads the prompt once ({like(reads_once)})."
        )
    marks = placeholders(config)
    other = [name for name, value in given.items() if not _carries_nothing(name, value, bool(marks))]
    if other:
        raise UnsupportedError(
            f"{short(press)} reads the prompt a second time, as tokens alone, and this one has "
            f"{short(', '.join(other))} too. Use a press that reads the prompt once ({like(reads_once)})."
        )
    stands = torch.isin(ids, torch.tensor(sorted(marks), dtype=ids.dtype, device=ids.device)) if marks else None
    if stands is not None and bool(stands.any()):
        token = int(ids[stands][0])
        raise UnsupportedError(
            f"{short(press)} reads the prompt a second time, as text alone, and token {token} in it is the model's "
            f"{marks[token]}, which stands for something else. Use a press that reads the prompt once "
            f"({like(reads_once)})."
        )


def placeholders(config: Any) -> dict[int, str]:
    """Token id -> its name in a model's config, for tokens that are no text (images, audio, video)."""
    found: dict[int, str] = {}
    for part in _parts(config):
        for name, value in part.items():
            if name.endswith(_ENDS) and not name.startswith(_OF_TEXT):
                ids = value if isinstance(value, list | tuple) else [value]
                found |= {token: name for token in ids if isinstance(token, int) and not isinstance(token, bool)}
    return found


def _parts(config: Any) -> Iterator[dict[str, Any]]:
    """The fields of a config and of the configs in it."""
    yield vars(config)
    for value in vars(config).values():
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            yield from _parts(value)


def _carries_nothing(name: str, value: Any, multimodal: bool) -> bool:
    """Whether an argument adds nothing to what the tokens say. Numbers and words are options, not content."""
    if name in _TEXT or empty(value) or isinstance(value, bool | int | float | str):
        return True
    # Zero is text where other numbers are images; elsewhere (gpt2) a type of its own, which has an embedding.
    types = isinstance(value, Tensor) and name.endswith("token_type_ids") and multimodal
    return types and not bool(value.any())


def empty(value: Any) -> bool:
    """None, or something that holds nothing else: `generate` hands on a dict of the images there are."""
    if isinstance(value, Mapping):
        return all(map(empty, value.values()))
    return value is None or (isinstance(value, Sequence | Set) and not isinstance(value, str) and not len(value))
