"""Last digits that another CPU would give: every gradient is multiplied by 1 ± about 1e-6.

A CPU's kernels sum in an order of their own, so that two CPUs' gradients differ by some 1e-7 of
their size, and a fit of a hundred steps carries that far. Such noise stands for all CPUs that are
not at hand. It is drawn from the gradient's own bits: another one at each step, for Adam would make
up for a factor that stays; and the same fit done twice in one run still gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

SIZE = 1e-6


def noise(like: Tensor, number: int, size: float = SIZE) -> Tensor:
    """Factors around 1, of the shape, dtype and device of a gradient."""
    digest = hash((number, float(like.double().sum()), float(like.abs().max())))
    rng = torch.Generator().manual_seed(digest % 2**63)
    drawn = torch.randn(like.shape, generator=rng, dtype=torch.float64)
    return (1 + size * drawn).to(like)


def install(number: int, size: float = SIZE) -> None:
    """Disturbs, from now on, what optimisers of this process step by and what `grad` yields.

    Sizes far above `SIZE` measure margins: a fit that passes its test with 1e-2 has one.
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
