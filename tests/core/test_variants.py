"""Settings of papers and of other libraries: which there are, and that each is what its name says."""

from __future__ import annotations

import pytest

from kvpress import PRESETS, Press
from kvpress.lowrank.gear import Gear
from kvpress.policies.ada import AdaptiveHeads
from kvpress.policies.criticalkv import OutputPerturbation
from kvpress.policies.expected_attention import ExpectedAttention
from kvpress.policies.h2o import HeavyHitters
from kvpress.policies.kvzip import Reconstruction
from kvpress.policies.minicache import SlerpPairs
from kvpress.policies.pyramid import Pyramid
from kvpress.policies.snapkv import WindowVotes
from kvpress.quant.affine import Affine
from kvpress.quant.think import Channels

CONTROLS = {"full", "random", "int8"}  # baselines without a paper
ONCE, ALWAYS = "after_prefill", "every_step"
WHICH = {
    "streaming_llm@paper": (1024, 4, 0, ALWAYS, "slots"),
    "streaming_llm@kvpress": (0.5, 4, 0, ONCE, "keep"),
    "tova@paper": (512, 0, 0, ALWAYS, "keep"),
    "tova@kvpress": (0.5, 0, 1, ONCE, "keep"),
    "h2o@paper": (0.2, 0, 0.5, ALWAYS, "keep"),
    "h2o@authors": (2048, 0, 0.5, ALWAYS, "keep"),
    "h2o@kvpress": (0.5, 0, 0, ONCE, "keep"),
    "h2o@factory": (128, 0, 8, ONCE, "keep"),
    "snapkv@paper": (1024, 0, 32, ONCE, "keep"),
    "snapkv@authors": (1024, 0, 32, ONCE, "keep"),
    "snapkv@kvpress": (0.5, 0, 64, ONCE, "keep"),
    "snapkv@factory": (128, 0, 8, ONCE, "keep"),
    "knorm@paper": (0.5, 0, 0, ONCE, "keep"),
    "leverage@kvpress": (0.5, 0, 0, ONCE, "keep"),
    "cur@random": (0.25, 4, 0, ONCE, "keep"),
    "lagkv@authors": (0.5, 16, 0, ONCE, "keep"),
    "kvzip@paper": (0.3, 4, 0, ONCE, "keep"),
    "kvzip@kvpress": (0.5, 4, 0, ONCE, "keep"),
    "expected_attention@paper": (0.5, 4, 0, ONCE, "keep"),
    "expected_attention@leaderboard": (0.25, 4, 0, ONCE, "keep"),
}
HOW = {
    "snapkv@paper": ("scorer", WindowVotes(32, 7, "max", "mean")),
    "snapkv@authors": ("scorer", WindowVotes(32, 5, "avg", "mean")),
    "snapkv@kvpress": ("scorer", WindowVotes(64, 5, "avg", "mean")),
    "snapkv@factory": ("scorer", WindowVotes(8, 7, "max", "mean")),
    "kvzip@paper": ("scorer", Reconstruction(2000, 8, 4)),
    "kvzip@kvpress": ("scorer", Reconstruction(2048, 8, 4, whole=True)),
    "h2o@kvpress": ("scorer", HeavyHitters(average=True)),
    "expected_attention@paper": ("scorer", ExpectedAttention(512, 4, 0.0)),
    "expected_attention@leaderboard": ("scorer", ExpectedAttention(512, 4, 0.01)),
    "ada@paper": ("heads", AdaptiveHeads(0.2, "interpolate")),
    "ada@kvpress": ("heads", AdaptiveHeads(0.2, "floor")),
    "criticalkv@paper": ("refine", OutputPerturbation(0.5, 1e-4)),
    "criticalkv@kvpress": ("refine", OutputPerturbation(0.5, 1e-4, protected=True, share=False)),
    "pyramid@paper": ("layers", Pyramid(20.0)),
    "pyramid@authors": ("layers", Pyramid(20.0, exact=False)),
    "pyramid@kvpress": ("layers", Pyramid(20.0, exact=False, whole=True)),
    "think@paper": ("channels", Channels(0.6, 1.0, 32)),
    "think@kvpress": ("channels", Channels(0.5, 1.0, 32)),
    "minicache@paper": ("sharer", SlerpPairs(0.5, 0.6, 0.05, "range", 0.05)),
    "minicache@factory": ("sharer", SlerpPairs(0.5, 0.6, 0.05, "ratio")),
    "kivi@paper": ("key", Affine(2, "channel", 32)),
    "gear@paper": ("key", Gear("channel", 2, "kivi", 64, 64, 2, 4, 0.02)),
    "gear@kcvt": ("value", Gear("token", 4, "kcvt", 64, 64, 2, 4, 0.02)),
    "gear_l@paper": ("key", Gear("channel", 2, "kivi", 64, 64, 2, 4, 0.0)),
    "gear_l@authors": ("key", Gear("channel", 2, "kivi", 64, 64, 2, 2, 0.0)),
}
RESIDUAL = {
    "kivi@paper": 128, "gear@paper": 64, "gear@kcvt": 64, "gear_l@paper": 64, "gear_l@authors": 64,
    "think@paper": 32, "think@kvpress": 0,
}  # fmt: skip


def test_every_method_has_the_setting_of_its_paper_or_says_why_not() -> None:
    methods = {name for name in PRESETS if "@" not in name} - CONTROLS
    settled = {name.split("@")[0] for name in PRESETS if name.endswith("@paper")}
    unsettled = {name for name in methods if PRESETS[name].unsettled}
    assert settled | unsettled == methods and not settled & unsettled


def test_every_variant_is_listed_here() -> None:
    """With the values of its source, so that a default that moves does not move it unnoticed."""
    assert WHICH.keys() | HOW.keys() == {name for name in PRESETS if "@" in name}


@pytest.mark.parametrize("name", sorted(WHICH.keys() | HOW.keys()))
def test_values(name: str) -> None:
    recipe = Press.parse(name).recipe
    if name in WHICH:
        schedule = str(recipe.schedule)
        found = recipe.keep, recipe.sinks, recipe.recent, ALWAYS if recipe.schedule.interval else schedule
        assert (*found, recipe.positions) == WHICH[name]
    if name in HOW:
        field, wanted = HOW[name]
        assert getattr(recipe, field) == wanted
    assert recipe.residual == RESIDUAL.get(name, 0)


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ("pyramid@authors | snapkv@factory", 128),
        ("ada@paper | snapkv@paper", 1024),
        ("ada@kvpress | expected_attention@leaderboard(keep=0.5)", 0.5),
        ("think@paper | snapkv@authors(keep=512)", 512),
        ("minicache@paper | kivi(bits=4, group=128)", 1.0),
    ],
)
def test_published_compositions(text: str, slots: float) -> None:
    press = Press.parse(text)
    press.ready()
    assert press.recipe.keep == slots and Press.parse(press.spec()).recipe == press.recipe
