"""What a model reads: the dialect of the bundled one, or natural text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Rendering", "rendering_of"]

Rendering = Literal["dialect", "natural"]


def rendering_of(tokenizer: PreTrainedTokenizerBase) -> Rendering:
    """The dialect for a tokenizer whose words are the dialect's, natural text for any other."""
    from .bundled.dialect import VOCAB

    words = tokenizer.get_vocab()
    same = len(words) == len(VOCAB) and all(words.get(word) == i for i, word in enumerate(VOCAB))
    return "dialect" if same else "natural"
