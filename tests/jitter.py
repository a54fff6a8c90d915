"""Simulates the last digits of another CPU: every gradient is multiplied by 1 ± about 1e-6.

CPUs' kernels sum in different orders, so that the gradients of two CPUs differ by some 1e-7 of
their size, and a fit of a hundred steps amplifies the difference. The noise represents all CPUs
that are not available. It is derived from the gradient's own bits, so it differs at each step
(Adam would compensate for a constant factor), and the same fit repeated in one run gives the same
bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

SIZE = 1e-6


def noise(like: Tensor, number: int, size: float = SIZE) -> Tensor:
    """Factors around 1 with the shape, dtype and device of a gradient."""
    digest = hash((number, float(like.double().sum()), float(like.abs().max())))
    rng = torch.Generator().manual_seed(digest % 2**63)
    drawn = torch.randn(like.shape, generator=rng, dtype=torch.float64)
    return (1 + size * drawn).to(like)


def install(number: int, size: float = SIZE) -> None:
    """Adds noise, from now on, to all gradients of this process: optimisers' and those of `grad`.

    Sizes far above `SIZE` measure margins: a fit that passes its test with 1e-2 has a margin.
    """

    def before_step(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(noise(parameter.grad, number, size))

    original: Callable[..., Sequence[Tensor | None]] = torch.autograd.grad

    def grad(*arguments: Any, **options: Any) -> tuple[Tensor | None, ...]:
        found = original(*arguments, **options)
        return tuple(g if g is None else g * noise(g, number, size) for g in found)

    register_optimizer_step_pre_hook(before_step)
    torch.autograd.grad = grad
