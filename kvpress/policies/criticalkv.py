"""CriticalKV (2502.03805): a slot matters by its attention and by what its value adds to the layer's output.

paper     Feng et al. 2025, Identify Critical KV Cache in LLM Inference from an Output Perturbation Perspective
idea      dropping slots moves the output by at most sum_j A_j |W_o v_j|_1: bound that once most attention is safe
formula   the ratio b best of the b slots of a head by A_j, the others by (A_j + epsilon) |W_o v_j|_1
cost      one more output projection of the prompt, in fp32 tiles; where slots go one by one, of each new token, and
          4 bytes a slot and KV head to remember the norms
deviates  A_j is its share of the head's attention, so that epsilon is one thing for sums and for means (share=false:
          the scores as they come); the ratio is of the slots there is a choice of, sinks and recent tokens left out
          (protected=true: of all, as in the authors' code, where the window fills the first stage); with ada as
          there: head budgets by A alone; a gate on what attention gives (qwen3_next) is taken to be open; layers that
          share a cache go by its owner's W_o
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvpress.errors import PressSyntaxError
from kvpress.evidence.bind import View
from kvpress.evidence.evidence import Needs
from kvpress.evidence.output import Output
from kvpress.recipe.kinds import Decisions
from kvpress.recipe.press import preset, variant
from kvpress.storage.block import choose


@dataclass(frozen=True)
class OutputPerturbation:
    """Two stages over a scorer's attention.

    ratio: of the slots that are chosen, how many by attention alone. epsilon: added to attention before it is
    weighted. protected: sinks and recent tokens count as chosen by attention. share: attention is taken as a share of
    what the head's slots get together.
    """

    ratio: float = 0.5
    epsilon: float = 1e-4
    protected: bool = False
    share: bool = True
    needs = Needs()

    def bind(self, view: View, layer: int) -> Output:
        return view.output(layer)

    def __call__(self, scores: Tensor, added: Tensor, pos: Tensor, counts: Tensor, protected: Tensor) -> Tensor:
        sure = protected.sum(-1)
        chosen = counts if self.protected else counts - sure
        first = (chosen.clamp(min=0).double() * self.ratio + 1e-9).floor().long()
        safe = torch.maximum(first, sure) if self.protected else first + sure
        attention = scores.float().masked_fill(pos < 0, 0.0)
        if self.share:
            attention = attention / attention.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        by_attention = choose(scores, pos, safe, protected)
        return torch.where(by_attention, torch.inf, (attention + self.epsilon) * added)


@preset("criticalkv")
def criticalkv(ratio: float = 0.5, epsilon: float = 1e-4, protected: bool = False, share: bool = True) -> Decisions:
    """Attention first, then attention weighted by what values add to the output (2502.03805). Compose with a scorer."""
    if not 0 <= ratio <= 1 or epsilon < 0:
        raise PressSyntaxError(f"ratio={ratio} lies in [0, 1] and epsilon={epsilon} is not negative.")
    return {"refine": OutputPerturbation(ratio, epsilon, protected, share)}


variant(criticalkv, "paper", "CriticalKV with half of each budget by attention alone.", ratio=0.5)
variant(
    criticalkv,
    "kvpress",
    "CriticalKV of NVIDIA's kvpress: protected slots use up the first stage, scores are taken as they come.",
    protected=True,
    share=False,
)
