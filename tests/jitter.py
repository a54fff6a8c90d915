"""Last digits that another CPU would give: every gradient is multiplied by 1 ± about 1e-6.

A CPU's kernels sum in an order of their own, so that two CPUs' gradients differ by some 1e-7 of
their size, and a fit of a hundred steps carries that far. Such noise stands for all CPUs that are
not at hand. It depends on the number and on the gradient's shape alone: the same fit done twice in
one run still gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

SIZE = 1e-6


def noise(like: Tensor, number: int) -> Tensor:
    """Factors around 1, of the shape, dtype and device of a gradient."""
    rng = torch.Generator().manual_seed(number)
    drawn = torch.randn(like.shape, generator=rng, dtype=torch.float64)
    return (1 + SIZE * drawn).to(like)


def install(number: int) -> None:
    """Disturbs, from now on, what optimisers of this process step by and what `grad` yields."""

    def before_step(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(noise(parameter.grad, number))

    original: Callable[..., Sequence[Tensor | None]] = torch.autograd.grad

    def grad(*arguments: Any, **options: Any) -> tuple[Tensor | None, ...]:
        found = original(*arguments, **options)
        return tuple(g if g is None else g * noise(g, number) for g in found)

    register_optimizer_step_pre_hook(before_step)
    torch.autograd.grad = grad
