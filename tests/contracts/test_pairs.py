"""Every two presses compose and meet the invariants, or are refused with both names and the reason."""

from __future__ import annotations

import itertools

import pytest
import torch

from kvpress import PRESETS, Press
from kvpress.errors import PressConflictError
from tests.contracts.test_i5_bytes import assert_honest
from tests.helpers import decode
from tests.models import left_padded, shared, tokens

# Arguments that make a press do something on prompts of forty tokens; what is not named runs at its defaults.
SMALL = {
    "random": "keep=0.5, sinks=2, recent=4",
    "streaming_llm": 'keep=0.5, positions="keep"',
    "tova": "keep=0.5",
    "h2o": "keep=0.5",
    "snapkv": "keep=0.5, window=4, kernel_size=3",
    "knorm": "keep=0.5",
    "keydiff": "keep=0.5",
    "leverage": "keep=0.5, sinks=2, recent=2, sketch=8",
    "cur": "keep=0.5, sinks=2, window=4",
    "lagkv": "keep=0.5, sinks=2, lag=8",
    "expected_attention": "keep=0.5, sinks=2, future=16",
    "zigzag": "window=4",
    "think": "keep_channels=0.5, window=4, recent=4",
    "minicache": "start=0, block=4",
    "kivi": "bits=4, group=4, residual=4",
    "fp8": "block=4, residual=4",
    "int8": "residual=4",
    "gear": "bits=4, group=4, block=8, residual=4",
    "gear_l": "bits=4, group=4, block=8, residual=4",
}
NAMES = sorted(name for name in PRESETS if "@" not in name and name != "full")
EVICT = {n for n in NAMES if "keep" in PRESETS[n].signature.parameters}
STORE = {"kivi", "fp8", "int8", "gear", "gear_l"}


def text(name: str) -> str:
    return f"{name}({SMALL[name]})" if name in SMALL else name


@pytest.mark.parametrize("pair", list(itertools.combinations(NAMES, 2)), ids="|".join)
def test_pair(pair: tuple[str, str]) -> None:
    first, second = pair
    try:
        press = Press.parse(f"{text(first)} | {text(second)}")
        press.ready()
    except PressConflictError as error:
        said = str(error)
        assert first in said and second in said and len(said) > len(f"{text(first)} | {text(second)}") + 20, said
        return
    assert Press.parse(str(press)) == press and Press.parse(press.spec()).recipe == press.recipe
    (ids, mask), follow = left_padded([tokens(1, 41)[0], tokens(1, 26)[0]]), tokens(2, 9, 1)
    model = shared("llama")
    with press(model) as session:
        cache = session.prefill(ids, mask)
        fork = cache.fork()
        logits = decode(model, cache, follow, mask)
        assert torch.isfinite(logits).all()
        assert torch.equal(decode(model, fork, follow, mask), logits)
        assert_honest(cache)
        alone = session.prefill(ids[1:, 15:])
        assert session.report(alone) == session.report(session.prefill(ids[1:, 15:]))
        single = decode(model, alone, follow[1:])
        # Rounding in another order may turn a code, and a code that is turned moves its whole group.
        assert (single - logits[1:]).abs().max() < (1e-4 if press.recipe.block == 0 else 0.5)


def test_what_composes_is_what_should() -> None:
    """Scorer with storage, budget, channels or sharing; storage with channels and sharing; not two of a kind."""

    def works(*names: str) -> bool:
        try:
            Press.parse(" | ".join(map(text, names))).ready()
        except PressConflictError:
            return False
        return True

    assert all(works(a, b) for a in EVICT for b in STORE)
    assert all(works(a, "think") for a in EVICT)
    assert all(works(a, b) for a in EVICT - {"kvzip"} for b in ("pyramid", "zigzag"))  # kvzip spreads by itself
    assert all(works(a, b) for a in STORE for b in ("think", "minicache"))
    assert not any(works(a, b) for kind in (EVICT, STORE) for a, b in itertools.permutations(sorted(kind), 2))
    assert {a for a in EVICT if works("ada", a)} == {
        "snapkv", "h2o", "keydiff", "leverage", "cur", "expected_attention"
    }  # fmt: skip
    assert {a for a in EVICT if works("criticalkv", a)} == {"snapkv", "h2o", "kvzip"}
    assert {a for a in EVICT if not works("minicache", a)} == {"h2o", "tova", "streaming_llm", "kvzip"}
    for whole in (
        "snapkv(keep=0.25) | think(keep_channels=0.625) | kivi(bits=2)",
        "zigzag | h2o",
        "ada | snapkv | gear_l(bits=2)",
        "minicache | kivi(bits=4)",
        "criticalkv | expected_attention(values=false)",
        "criticalkv | zigzag | ada | h2o | kivi(bits=4)",
        "criticalkv | snapkv | minicache",
    ):
        Press.parse(whole).ready()
