"""The settings of papers, of their authors' code and of other libraries: ``name@whose`` is a press with their values.

``@paper``        what the paper describes. The plain press has this library's defaults, which may be the same.
``@authors``      the authors' code, where it differs from the paper and gave the published figures.
``@kvpress``      NVIDIA's kvpress.   ``@factory``  KVCache-Factory, whose tables many later papers quote.

Where a paper names no share to keep, or many, `keep` is one of its tables'; give another. Budgets over heads and layers
and storage come composed: ``pyramid@authors | snapkv@factory`` are the rows of PyramidKV. UNSETTLED says why a method
has no ``@paper``.
"""

from __future__ import annotations

from kvpress.lowrank.gear import gear, gear_l
from kvpress.recipe.presets import (
    ada,
    criticalkv,
    cur,
    expected_attention,
    h2o,
    kivi,
    knorm,
    kvzip,
    lagkv,
    leverage,
    minicache,
    pyramid,
    snapkv,
    streaming_llm,
    think,
    tova,
)
from kvpress.recipe.press import variant

UNSETTLED = {
    "zigzag": "no code was published, and the paper's tau and floor are not known here",
    "pooled": "it is the threshold of KVzip by itself; kvzip@paper has it",
    "keydiff": "the paper evicts block by block while it reads: session.prefill(ids, chunk=..., between=True)",
    "leverage": "the paper adds a chunked attention term, which is not built",
    "lagkv": "the paper's tables go over several lags and shares; @authors has the defaults of their code",
    "cur": "whether the paper's tables take exact or random scores is not known here; @random has the latter",
    "fp8": "a number format, which many servers use with scales of their own",
}

# Which slots

variant(
    streaming_llm,
    "paper",
    "StreamingLLM with the paper's cache of 4 sinks and 1020 recent tokens, by slots.",
    keep=1024,
)
variant(
    streaming_llm,
    "kvpress",
    "Sinks and window as in NVIDIA's kvpress and KVCache-Factory: once after the prompt, rotations kept.",
    keep=0.5,
    positions="keep",
    schedule="after_prefill",
)
variant(tova, "paper", "TOVA as in the authors' code: a cache of 512, nothing protected, at every step.", keep=512)
variant(
    tova,
    "kvpress",
    "TOVA as in NVIDIA's kvpress: once after the prompt, whose last token stays.",
    keep=0.5,
    recent=1,
    schedule="after_prefill",
)
variant(h2o, "paper", "H2O with the paper's 20 %: a tenth heavy hitters, a tenth recent, at every step.", keep=0.2)
variant(
    h2o,
    "authors",
    "H2O as the authors' summarization runs evict: 1024 heavy hitters and 1024 recent (lm-eval code looks ahead).",
    keep=2048,
)
variant(
    h2o,
    "kvpress",
    "ObservedAttention of NVIDIA's kvpress: the average over the queries that see a slot, once after the prompt.",
    keep=0.5,
    recent=0,
    schedule="after_prefill",
    average=True,
)
variant(
    h2o,
    "factory",
    "H2O as in KVCache-Factory's tables: once after the prompt, a window of 8, no eviction while decoding.",
    keep=128,
    recent=8,
    schedule="after_prefill",
)
variant(snapkv, "paper", "SnapKV as in the paper's LongBench tables: 1024 slots, window 32, max pooling 7.", keep=1024)
variant(
    snapkv,
    "authors",
    "SnapKV with the defaults of the authors' class (not those of their tables): average pooling 5.",
    keep=1024,
    kernel_size=5,
    pooling="avg",
)
variant(
    snapkv,
    "kvpress",
    "SnapKV with the defaults of NVIDIA's kvpress: window 64, average pooling 5.",
    keep=0.5,
    window=64,
    kernel_size=5,
    pooling="avg",
)
variant(
    snapkv, "factory", "SnapKV as in KVCache-Factory's tables: 128 slots, window 8, max pooling 7.", keep=128, window=8
)
variant(knorm, "paper", "Knorm as in the paper: half, the first two layers left whole.", keep=0.5, skip=2)
variant(
    leverage,
    "kvpress",
    "Leverage scores as NVIDIA's kvpress takes them: nothing protected, a ridge of 0.01.",
    keep=0.5,
    sinks=0,
    recent=0,
    ridge=0.01,
)
variant(cur, "random", "CurDKV with random leverage scores: a Gaussian projection to 20 channels first.", sketch=20)
variant(lagkv, "authors", "LagKV with the defaults of the authors' own cache: half, and 16 sinks.", keep=0.5, sinks=16)
variant(
    expected_attention,
    "paper",
    "Expected attention with the defaults of the authors' code: half, epsilon 0, norms of values and not of outputs.",
    keep=0.5,
)
variant(
    expected_attention,
    "leaderboard",
    "Expected attention with the epsilon of NVIDIA's leaderboard, 0.01 (there with adaptive head budgets).",
    epsilon=0.01,
)

variant(
    kvzip,
    "paper",
    "KVzip with its authors' 30 % of the slots and parts of 2000 tokens; set session.instructions for their words.",
    keep=0.3,
)

variant(
    kvzip,
    "kvpress",
    "KVzip as in NVIDIA's kvpress: parts of 2048 tokens, the 4 sinks repeated too; set session.instructions.",
    keep=0.5,
    chunk=2048,
    whole=True,
)

variant(criticalkv, "paper", "CriticalKV with half of each budget by attention alone.", ratio=0.5)
variant(
    criticalkv,
    "kvpress",
    "CriticalKV of NVIDIA's kvpress: protected slots use up the first stage, scores are taken as they come.",
    protected=True,
    share=False,
)

# How slots are spread

variant(
    ada, "paper", "Ada-KV as in the authors' LongBench runs: alpha 0.2 between even and adaptive budgets.", alpha=0.2
)
variant(ada, "kvpress", "Ada-KV with the hard floor of NVIDIA's kvpress.", mode="floor")
variant(pyramid, "paper", "PyramidKV's arithmetic sequence with beta 20, sums exact.", beta=20.0)
variant(
    pyramid,
    "authors",
    "PyramidKV in the authors' integers: for 128 slots 242 in the first of 32 layers, 25 in the last, 133.5 a layer.",
    exact=False,
)
variant(
    pyramid,
    "kvpress",
    "PyramidKV's sequence as in NVIDIA's kvpress: the window is part of it; even where the last layer would be less.",
    exact=False,
    whole=True,
)

# How slots are stored

variant(think, "paper", "ThinK as in the paper: 40 % of the key channels dropped, the last 32 tokens whole.")
variant(
    think, "kvpress", "ThinK as in NVIDIA's kvpress: the last tokens lose channels too.", keep_channels=0.5, recent=0
)
variant(
    minicache,
    "paper",
    "MiniCache from half depth, t 0.6; whole are the slots within gamma 0.05 of the largest angle.",
    rule="range",
)
variant(minicache, "factory", "MiniCache as in KVCache-Factory: the 5 % of largest angle stay whole.", rule="ratio")
variant(kivi, "paper", "KIVI as in the authors' LongBench runs: 2 bits, groups of 32, 128 slots dense.", residual=128)
variant(
    gear,
    "paper",
    "GEAR on KIVI: 2 bits in groups of 64, rank 4 for prompts and 2 for blocks of 64, 2 % outliers.",
    outliers=0.02,
)
variant(
    gear,
    "kcvt",
    "GEAR on the 4-bit per-channel keys and per-token values of the paper's other tables.",
    bits=4,
    backbone="kcvt",
)
variant(gear_l, "paper", "GEAR without outliers: 2 bits in groups of 64, rank 4 for prompts and 2 for blocks of 64.")
variant(
    gear_l,
    "authors",
    "GEAR-L as in the authors' CUDA code, which gave the speed and memory figures: rank 2 for prompts too.",
    prefill_rank=2,
)
