"""What `model.generate` is about, which its forwards alone cannot show."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from transformers import DynamicCache, GenerationConfig, PreTrainedModel

from kvpress.errors import UnsupportedError


@contextlib.contextmanager
def generation_of(
    model: PreTrainedModel,
    new_cache: Callable[[], Any],
    reading: Callable[[bool], contextlib.AbstractContextManager[None]],
    guessing: Callable[[], None],
) -> Iterator[None]:
    """Tell what `model.generate` is about, which its forwards alone cannot show.

    new_cache(): stands in for the cache that `generate` makes where it is given none. reading(chunked): surrounds
    the reading of a prompt, in one forward or (prefill_chunk_size=) in several. guessing(): called before
    generation that takes tokens back (assistant models, prompt lookup) begins.
    """
    if not model.can_generate():
        yield
        return
    prefill, candidates, prepare = model._prefill, model._get_candidate_generator, model._prepare_cache_for_generation

    def make(config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if config.use_cache is False:
            raise UnsupportedError(
                "generate(use_cache=False) keeps no cache that a press could compress. Leave it out."
            )
        if config.is_assistant:
            guessing()
        given = model_kwargs.get("past_key_values")
        out = prepare(config, model_kwargs, *args, **kwargs)
        made = model_kwargs.get("past_key_values")
        if given is None and type(made) is DynamicCache and not getattr(made, "offloading", False):
            model_kwargs["past_key_values"] = new_cache()
        return out

    def read(*args: Any, **kwargs: Any) -> Any:
        config = next(a for a in (*args, *kwargs.values()) if isinstance(a, GenerationConfig))
        with reading(config.prefill_chunk_size is not None):
            return prefill(*args, **kwargs)

    def guess(*args: Any, **kwargs: Any) -> Any:
        guessing()
        return candidates(*args, **kwargs)

    model._prefill, model._get_candidate_generator, model._prepare_cache_for_generation = read, guess, make
    try:
        yield
    finally:
        del model._prefill, model._get_candidate_generator, model._prepare_cache_for_generation
