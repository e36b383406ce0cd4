"""What a method is given of a model: once, at entering, for its layer; weights by their hash."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from kvpress import PRESETS, Press, PressCache
from kvpress.errors import SessionError, UnsupportedError
from kvpress.evidence.bind import View
from kvpress.evidence.evidence import Evidence, Needs
from kvpress.recipe.kinds import AfterPrefill, Decisions
from kvpress.recipe.press import preset
from kvpress.storage.block import Block
from tests.helpers import kept
from tests.models import shared, tokens

BOUND: list[int] = []


@dataclass(frozen=True)
class Trained:
    """Scores by a direction that was trained for each layer."""

    path: str
    needs = Needs()

    def bind(self, view: View, layer: int) -> Tensor:
        BOUND.append(layer)
        weights: Mapping[str, Tensor] = view.weights(self.path)
        return weights[f"layer{layer}"]

    def __call__(self, block: Block, seen: Evidence) -> Tensor:
        return block.k.float() @ seen.of(self)


def directions(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"layer{i}": torch.randn(16, generator=generator) for i in range(3)}


@pytest.fixture
def trained(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "weights.safetensors"
    save_file(directions(0), path)

    @preset("trained_direction")
    def trained_direction(path: str, keep: float = 0.5) -> Decisions:
        """By a trained direction."""
        return {"keep": keep, "scorer": Trained(path), "schedule": AfterPrefill()}

    yield path
    PRESETS.forget("trained_direction")


def test_a_trained_method_gets_its_weights_once_for_every_layer(trained: Path, tmp_path: Path) -> None:
    model, press, saved = shared("llama"), Press.parse(f'trained_direction(path="{trained}")'), tmp_path / "cache"
    BOUND.clear()
    with press(model) as session:
        assert sorted(set(BOUND)) == [0, 1, 2]
        bound = len(BOUND)
        cache = session.prefill(tokens(1, 21), compress=False)
        blocks = [layer.block().k[0] for layer in cache.stores]
        session.compress(cache)
        session.prefill(tokens(1, 9, 1))
        assert len(BOUND) == bound  # not for every cache
        for layer, (k, direction) in enumerate(zip(blocks, directions(0).values(), strict=True)):
            best = (k @ direction).topk(10, dim=-1).indices
            assert kept(cache)[layer][0] == [sorted(head) for head in best.tolist()]
        cache.save(saved, model)
    with press(model) as session:
        session.compress(PressCache.load(saved, model))  # the same weights
    save_file(directions(1), trained)
    with press(model) as session, pytest.raises(SessionError, match="other weights of the method"):
        session.compress(PressCache.load(saved, model))


def test_weights_that_are_not_there_are_refused_at_entering(trained: Path) -> None:
    trained.unlink()
    press = Press.parse(f'trained_direction(path="{trained}")')
    with pytest.raises(UnsupportedError, match="cannot be read as weights"), press(shared("llama")):
        raise AssertionError("not reached")


def test_what_is_asked_is_known_before() -> None:
    assert Press.parse("leverage").recipe.rotates and not Press.parse('leverage(keys="rotated")').recipe.rotates
    assert Press.parse("streaming_llm").recipe.rotates and not Press.parse("snapkv").recipe.rotates
