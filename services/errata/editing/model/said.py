"""Trains until a model says every target that it must, whatever its other texts lost meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from errata.editing.model.prompts import TokenRow


def train_until_said(
    texts: Sequence[TokenRow],
    read: Callable[[Tensor], Tensor],
    learn: Callable[[Tensor], None],
    *,
    num_steps: int,
    most_rows: int,
    seed: int,
) -> None:
    """Makes further steps until each text gives its target a probability above one half.

    Greedy decoding then says the target, whatever else is likely. All texts are read anew before
    each step, since a step can lose what an earlier one learned. A step takes texts that are not
    said, in a random order, and others where it has room.

    Args:
        texts: k of them, each with its target.
        read: the mean NLL of the targets of texts with these numbers, (m,) nats, without gradients.
        learn: a step of the optimiser on texts with these numbers, (m,) int64.
        num_steps: maximum number of steps; 0 reads nothing.
        most_rows: maximum number of texts that are read at once, and in a step.
        seed: of the steps' orders.
    """
    rng = torch.Generator().manual_seed(seed % 2**63)
    lengths = torch.tensor([text.num_target for text in texts])
    parts = torch.arange(len(texts)).split(most_rows)
    for _ in range(num_steps):
        nlls = torch.cat([read(part).cpu() for part in parts])
        is_said = nlls * lengths < math.log(2)
        if bool(is_said.all()):
            return
        order = torch.randperm(len(texts), generator=rng)
        learn(order[is_said[order].int().argsort(stable=True)][:most_rows])
