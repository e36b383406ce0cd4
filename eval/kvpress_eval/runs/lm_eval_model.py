"""lm-evaluation-harness on a pressed model: ``--model kvpress`` with a model argument ``press=...``.

The harness finds a model by name once its class is registered, and asks no entry points: importing this module
registers it. ``kvpress lm-eval ...`` does so and hands everything to the harness's own command; in Python, import
this module before ``lm_eval.simple_evaluate(model="kvpress", ...)``.

Generation runs with the press entered. A continuation is scored on the compressed cache: the context but its last
token is read and compressed, then that token and the continuation are fed. Reading context and continuation in one
forward, as the harness does, would compress after every score is known. Contexts that several continuations
share are read once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from kvpress import Press, PressCache, Session
from kvpress.errors import extra
from kvpress.policies.kvzip import instructions

from ..errors import UsageError
from ..models import load_model, locate
from ..models.loading import note_of
from .lm_eval_arguments import OTHERS

try:
    from lm_eval.__main__ import cli_evaluate
    from lm_eval._cli.utils import key_val_to_dict
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
    from tqdm import tqdm
except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    raise UsageError(f"{package} is not installed; {extra('lm-eval')}") from None

__all__ = ["PressedLM", "main"]

Request = tuple[tuple[str, str] | None, list[int], list[int]]
"""(context, continuation) as text, or None; their tokens."""


@register_model("kvpress")
class PressedLM(HFLM):  # type: ignore[misc]  # the harness is not typed
    """The harness's Hugging Face model under a press.

    Args:
        pretrained: a model as ``--model`` names it (``tiny``, ``smollm2-135m``, a GGUF file, a folder, a hub id), or a
            model object as for ``hf``.
        press: text of a press, commas and all; ``full`` by default.
        options: the other arguments of ``hf``. Continuations are scored one at a time, whatever the batch size.

    Raises:
        KVPressError: for a press that cannot be read, or a model it cannot serve.
        UsageError: for ``mixed_precision_dtype``, which is not supported under a press.
    """

    def __init__(self, pretrained: Any = "tiny", press: str = "full", **options: Any) -> None:
        self.press = Press.parse(str(press))
        if options.get("mixed_precision_dtype") is not None:
            raise UsageError("mixed_precision_dtype is not supported under a press; give the model's dtype instead")
        bundled = pretrained == "tiny"
        self._named = pretrained if isinstance(pretrained, str) else ""
        if self._named:
            place = locate(self._named, str(options.get("dtype", "auto")).removeprefix("torch."))
            pretrained = place.source
            if bundled:  # its weights are stored in half
                options.setdefault("dtype", "float32")
            if place.gguf_file:
                pretrained, options["tokenizer"] = _from_gguf(self._named, options)
        super().__init__(pretrained=pretrained, **options)
        self._held: list[tuple[int, int]] = []
        # what a press says that makes the model repeat the prompt; the bundled one reads no English
        self._instructions = None if bundled else instructions(self.tokenizer, chat=False)
        with self._entered():
            pass  # what cannot work is refused now, and not after the data has been loaded

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> PressedLM:
        """As the harness does, but commas inside brackets and quotes belong to the press."""
        given = {name: value for name, value in (additional_config or {}).items() if value is not None}
        return cls(**key_val_to_dict(arg_string), **given)

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside the results: the press with every value, and the bytes it held.

        ``kv_bytes_ratio`` is the mean over contexts of bytes held right after compression / bytes of a dense cache of
        as many tokens; None where nothing was compressed.
        """
        ratios = [held / dense for held, dense in self._held]
        return {
            **super().get_model_info(),
            "pretrained": self._named,
            "model_note": note_of(self._named),
            "press": str(self.press),
            "press_spec": self.press.spec(),
            "kv_bytes_ratio": sum(ratios) / len(ratios) if ratios else None,
        }

    def apply_chat_template(self, *args: Any, **options: Any) -> str:
        """As the harness does, which does so where it was asked to; then a prompt that is repeated is a user's turn."""
        if self._instructions is not None:
            self._instructions = instructions(self.tokenizer)
        return str(super().apply_chat_template(*args, **options))

    @contextmanager
    def _entered(self) -> Iterator[Session]:
        with self.press(self.model) as session:
            if self._instructions is not None:
                session.instructions = self._instructions
            yield session

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **options: Any) -> Any:
        with self._entered() as session:
            cache = session.new_cache()
            options |= {"past_key_values": cache, "logits_processor": [_Weigh(cache, self._held)]}
            return super()._model_generate(context, max_length, stop, **options)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """The harness's own where nothing is compressed.

        Raises:
            UsageError: for any other press: a whole text has no context that could be compressed before it.
        """
        if str(self.press) != "full":
            raise UsageError(
                "rolling log-likelihood (perplexity of a whole text) has no context to compress before it is scored, "
                f"so {self.press} would change nothing; use tasks with a context, or press=full"
            )
        return super().loglikelihood_rolling(requests, disable_tqdm)

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Sum of log-probabilities of each continuation, and whether it is what greedy decoding would say."""
        answers: dict[int, tuple[float, bool]] = {}
        progress = tqdm(total=len(requests), disable=disable_tqdm or self.rank != 0, desc="Scoring continuations")
        with self._entered() as session:
            for context, indices in self._by_context(requests):
                read = self._read(session, context[:-1])
                for i in indices:
                    text, _, continuation = requests[i]
                    cache = session.new_cache() if read is None else read.fork()
                    answers[i] = self._score(cache, [context[-1], *continuation[:-1]], continuation)
                    if text is not None:
                        self.cache_hook.add_partial("loglikelihood", text, answers[i])
                    progress.update(1)
        progress.close()
        return [answers[i] for i in range(len(requests))]

    def _by_context(self, requests: Sequence[Request]) -> Iterable[tuple[tuple[int, ...], list[int]]]:
        """Indices of the requests of each context, cut from the left where the model has no room for it."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, (_, context, continuation) in enumerate(requests):
            room = self.max_length + 1 - len(continuation)  # the last token is scored and never fed
            if room < 1:
                raise UsageError(
                    f"a continuation of {len(continuation)} tokens is longer than the model's {self.max_length}"
                )
            groups.setdefault(tuple(context[-room:]), []).append(i)
        return groups.items()

    def _read(self, session: Session, ids: Sequence[int]) -> PressCache | None:
        if not ids:
            return None
        cache = session.prefill(torch.tensor([ids], device=self.device, dtype=torch.int64))
        self._held.append((cache.nbytes(), cache.dense_nbytes()))
        return cache

    def _score(self, cache: PressCache, fed: list[int], wanted: list[int]) -> tuple[float, bool]:
        """Feed tokens as decoding would: one by one where the press acts at every step or packs what is new."""
        recipe = self.press.recipe
        step = 1 if recipe.schedule.interval or recipe.block else len(fed)
        rows = []
        for start in range(0, len(fed), step):
            ids = torch.tensor([fed[start : start + step]], device=self.device, dtype=torch.int64)
            rows.append(self.model(input_ids=ids, past_key_values=cache, use_cache=True).logits[0])
        logits = torch.cat(rows)
        target = torch.tensor(wanted, device=logits.device, dtype=torch.int64)
        scores = torch.log_softmax(logits, dim=-1, dtype=self.softmax_dtype)
        sums = scores.gather(1, target[:, None]).sum()
        return float(sums), bool((logits.argmax(-1) == target).all())


def _from_gguf(name: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """(model, tokenizer) of a file, which the harness would load with its weights packed where it can."""
    loaded = load_model(
        name, options.pop("device", None) or "auto", str(options.pop("dtype", "auto")).removeprefix("torch.")
    )
    return loaded.model, loaded.tokenizer


class _Weigh(LogitsProcessor):  # type: ignore[misc]  # transformers is not followed
    """Notes what a cache holds when the first token of an answer is chosen: the prompt, compressed."""

    def __init__(self, cache: PressCache, held: list[tuple[int, int]]) -> None:
        self.cache, self.held, self.due = cache, held, True

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.due:
            self.held.append((self.cache.nbytes(), self.cache.dense_nbytes()))
            self.due = False
        return scores


def main(words: Sequence[str]) -> int:
    """Run lm_eval's command with ``kvpress`` among its models, and chosen where no model is named."""
    given = list(words)
    if not (given and given[0] in OTHERS):
        given = given if given[:1] == ["run"] else ["run", *given]
        if not any(word in ("--model", "-M") or word.startswith("--model=") for word in given):
            given += ["--model", "kvpress"]
    before = sys.argv
    sys.argv = ["lm_eval", *given]
    try:
        cli_evaluate()
    finally:
        sys.argv = before
    return 0
