"""What a slot can add to the output of its layer: its value through the model's own output projection.

Which linear layer that is, is read off the model when a press that needs it is entered. That it takes what
attention gave is seen in its first forward.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kvpress.errors import SessionError, UnsupportedError

Output = Callable[[Tensor], Tensor]
_NAMES = ("o_proj", "out_proj", "dense", "c_proj", "wo")
_TILE_BYTES = 16 << 20
_INSTEAD = (
    "Leave out the part that weighs values by it, or use a model whose attention ends in one plain linear layer "
    "(llama, qwen, gemma)."
)


class Projection:
    """The output projection of one layer. It keeps no model alive, and copies no weights."""

    def __init__(self, linear: nn.Linear, name: str) -> None:
        self.linear, self._name = weakref.ref(linear), name
        self._local = threading.local()  # what attention gave last, in each thread
        self._seen = False

    def __call__(self, v: Tensor) -> Tensor:
        """Values v (B, H, n, D) -> (B, H, n) fp32, |W v|_1 on average over the query heads of a KV head."""
        linear = self.linear()
        if linear is None:
            raise SessionError("The model of this cache is gone. Load it, and enter the press again.")
        return projected_norms(v, linear.weight)

    def expect(self, out: Tensor) -> None:
        """Attention gave `out` (B, n, Hq, D), which has to be what the linear layer takes next."""
        self._local.given = None if self._seen else out

    def check(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        """Forward pre-hook of the linear layer, which compares once. Raises UnsupportedError.

        A gate may damp what attention gave, channel by channel (qwen3_next): it does so alike for all slots.
        """
        wanted = getattr(self._local, "given", None)
        self._local.given = None
        if wanted is None:
            return
        x = given[0]
        if x.numel() == wanted.numel():
            grown = x.reshape(wanted.shape)[:, -1].abs() > wanted[:, -1].abs()
            self._seen = not bool(grown.any())
        if not self._seen:
            raise UnsupportedError(
                f"{self._name} takes something else than what attention gives (a norm may lie between), so what a "
                f"value adds to the output of the layer is not its projection. {_INSTEAD}"
            )


def projections(model: nn.Module, config: Any, layers: Mapping[int, int]) -> dict[int, Projection]:
    """Index of a layer -> its output projection, for each of `layers` (index -> query heads x channels of a value).

    config: of the decoder, which its attention modules carry along with their `layer_idx`. Raises UnsupportedError
    where a layer has none, or several, or one that is no plain linear layer.
    """
    found: dict[int, Projection] = {}
    for path, module in model.named_modules():
        index: Any = getattr(module, "layer_idx", None)
        if index not in layers or getattr(module, "config", None) is not config:
            continue
        for name in (name for name, _ in module.named_children() if name in _NAMES):
            where = f"{type(model).__name__}: {path}.{name}"
            if index in found:
                raise UnsupportedError(f"{where} is one of several output projections of layer {index}. {_INSTEAD}")
            found[index] = Projection(_plain(getattr(module, name), where, layers[index]), where)
    if missing := [index for index in layers if index not in found]:
        raise UnsupportedError(
            f"{type(model).__name__}: the attention of layer {missing[0]} has no linear layer called "
            f"{' or '.join(_NAMES)}, through which values reach the output. {_INSTEAD}"
        )
    return found


def _plain(linear: Any, where: str, width: int) -> nn.Linear:
    if type(linear) is not nn.Linear or not linear.weight.is_floating_point():
        raise UnsupportedError(
            f"{where} is a {type(linear).__name__}, and the press reads the weights of a plain linear layer. Load the "
            "model without quantized weights, merge adapters into it (merge_and_unload), or leave out that part."
        )
    if linear.weight.is_meta:
        raise UnsupportedError(
            f"{where} is offloaded, and the press reads its weights while attention runs. Load the model without "
            "offloading, or leave out the part that weighs values by it."
        )
    if linear.in_features != width:
        raise UnsupportedError(
            f"{where} takes {linear.in_features} channels, and the query heads of the model have {width} together. "
            f"{_INSTEAD}"
        )
    return linear


def projected_norms(v: Tensor, weight: Tensor) -> Tensor:
    """(B, H, n) fp32: |W_q v|_1 of values v (B, H, n, D), the mean over the query heads q that read each KV head.

    weight: (hidden, Hq * D), query heads in order, those of a KV head next to each other. A tile of slots is in
    memory at a time: O(tile * hidden), in fp32 whatever the model runs in.
    """
    batch, heads, total, dim = v.shape
    group = weight.shape[1] // (heads * dim)
    tile = max(1, _TILE_BYTES // (4 * batch * weight.shape[0]))
    out = torch.zeros(batch, heads, total, dtype=torch.float32, device=v.device)
    for query in range(heads * group):
        head = query // group
        mine = weight[:, query * dim : (query + 1) * dim].float().mT
        for start in range(0, total, tile):
            part = slice(start, start + tile)
            out[:, head, part] += (v[:, head, part].float() @ mine).abs_().sum(-1)
    return out / group


def completed(v: Tensor, valid: Tensor, output: Output, known: Tensor) -> Tensor:
    """`output` of v (B, H, n, D), computed only for the slots of `valid` (B, H, n) where `known` (B, H, n) is NaN."""
    new = known.isnan() & valid
    width = int(new.sum(-1).max())
    # The new slots of each head come first; where a head has fewer, some known ones are computed again.
    order = (~new).to(torch.int8).argsort(dim=-1, stable=True)[..., :width]
    rows = v.gather(2, order.unsqueeze(-1).expand(*order.shape, v.shape[-1]))
    out = known.nan_to_num(nan=0.0)
    return out.scatter_(2, order, output(rows)) if width else out
