"""Modes of torch that a caller is in, and that must not reach what is stored or how it is computed.

Under `torch.inference_mode` every new tensor is an inference tensor, which cannot be written to once the mode is
left: a cache outlives the mode its prompt was read in. Under autocast products run in half precision: scores,
budgets and packed numbers are worked out in the types the code names. The model itself runs in the caller's modes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import ParamSpec, TypeVar

import torch

_DEVICES = ("cpu", "cuda", "mps", "xpu")
_NOTHING: AbstractContextManager[object] = nullcontext()
_P = ParamSpec("_P")
_R = TypeVar("_R")


def undisturbed() -> AbstractContextManager[object]:
    """Within, tensors are ordinary ones and products have the type of their factors, whatever mode the caller is in."""
    inference = torch.is_inference_mode_enabled()
    casting = [device for device in _DEVICES if torch.is_autocast_enabled(device)]
    if not (inference or casting):
        return _NOTHING
    stack = ExitStack()
    if inference:  # leaving that mode turns gradients on, which nobody asked for there
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
    for device in casting:
        stack.enter_context(torch.autocast(device, enabled=False))
    return stack


def steady(call: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorator: run a function `undisturbed`."""

    @functools.wraps(call)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with undisturbed():
            return call(*args, **kwargs)

    return wrapped
