"""What is trained when: stages of growing length, in steps so that a run can be repeated."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from .model import Shape

SHORTER = 0.25  # of the batches of a stage use the length of an earlier stage


@dataclass(frozen=True)
class Stage:
    """``steps`` batches of ``tokens`` tokens in sequences of ``length``."""

    length: int
    steps: int
    tokens: int = 8192
    easy: bool = False


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result, apart from the machine's arithmetic."""

    stages: tuple[Stage, ...]
    shape: Shape = field(default_factory=Shape)
    seed: int = 0
    muon_lr: float = 0.012
    adam_lr: float = 2e-3
    warmup: int = 60
    decay: float = 0.35

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return sum(stage.steps for stage in self.stages)

    def stage(self, step: int) -> Stage:
        """The stage that ``step`` (from 0) belongs to."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        raise IndexError("step is past the end of the recipe")

    def length(self, step: int) -> int:
        """Sequence length of this step: the stage's own, or now and then an earlier one."""
        stage = self.stage(step)
        shorter = sorted({s.length for s in self.stages if s.length < stage.length})
        rng = random.Random(f"length/{self.seed}/{step}")
        return rng.choice(shorter) if shorter and rng.random() < SHORTER else stage.length


FULL = Recipe(
    stages=(
        Stage(128, 100, 4096, easy=True),
        Stage(128, 400, 4096),
        Stage(256, 1000),
        Stage(512, 800),
        Stage(1024, 900),
        Stage(2048, 700),
    )
)
"""30 M tokens."""

SMOKE = Recipe(
    stages=(Stage(64, 20, 512, easy=True), Stage(96, 20, 480)),
    shape=Shape(hidden_size=64, intermediate_size=96, num_hidden_layers=2, head_dim=16),
    warmup=4,
)
"""Seconds; shows that everything runs, learns next to nothing."""
