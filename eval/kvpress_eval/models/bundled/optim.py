"""Muon for the layers' matrices, AdamW for embedding and norms, one rate curve in steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def rate(step: int, total: int, warmup: int, decay: float) -> float:
    """Factor on the peak rates: linear warm-up, flat, linear to 2 % over the last ``decay``."""
    left = (total - step) / max(1.0, total * decay)
    return min(1.0, (step + 1) / warmup) * min(1.0, max(0.02, left))


class Muon:
    """Momentum with an orthogonalised update (Jordan et al. 2024); same shapes run together."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.01) -> None:
        self.lr, self.momentum, self.decay = lr, momentum, decay
        self.groups: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for p in params:
            self.groups.setdefault(tuple(p.shape), []).append(p)
        self.buffers = {
            shape: torch.zeros(len(ps), *shape, dtype=torch.float32, device="cpu") for shape, ps in self.groups.items()
        }

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One update with the rate ``lr * factor``."""
        lr = self.lr * factor
        for (rows, columns), params in self.groups.items():
            grad = torch.stack([p.grad for p in params if p.grad is not None])
            buffer = self.buffers[rows, columns]
            buffer.lerp_(grad, 1 - self.momentum)
            update = _orthogonal(grad.lerp(buffer, self.momentum)).float()
            scale = lr * max(1.0, rows / columns) ** 0.5
            for p, u in zip(params, update, strict=True):
                p.mul_(1 - lr * self.decay).add_(u, alpha=-scale)

    def state_dict(self) -> dict[str, Tensor]:
        """Momentum buffers by shape."""
        return {"x".join(map(str, shape)): b for shape, b in self.buffers.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over buffers saved by :meth:`state_dict`."""
        for shape, buffer in self.buffers.items():
            buffer.copy_(state["x".join(map(str, shape))])


def _orthogonal(x: Tensor) -> Tensor:
    """Nearly the nearest semi-orthogonal matrices of ``(k, rows, columns)``, by Newton-Schulz."""
    a, b, c = NEWTON_SCHULZ
    tall = x.shape[-2] > x.shape[-1]
    x = x.bfloat16()
    x = x.mT if tall else x
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


class Optimizers:
    """Both optimizers as one."""

    def __init__(self, model: nn.Module, muon_lr: float, adam_lr: float) -> None:
        matrices = [p for n, p in model.named_parameters() if ".layers." in n and p.dim() == 2]
        rest = [p for n, p in model.named_parameters() if not (".layers." in n and p.dim() == 2)]
        self.params = matrices + rest
        self.adam_lr = adam_lr
        self.muon = Muon(matrices, muon_lr)
        self.adam = torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def step(self, factor: float) -> float:
        """Clip the gradients to norm 1, update, clear them; the norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self.params, 1.0)
        for group in self.adam.param_groups:
            group["lr"] = self.adam_lr * factor
        self.adam.step()
        self.muon.step(factor)
        for p in self.params:
            p.grad = None
        return float(norm)

    def state_dict(self) -> dict[str, Any]:
        """State of both."""
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
