"""FT-L: fine-tuning of one layer under a bound (Zhu et al. 2020, as Meng et al. 2022 run it).

min over W of the mean NLL of the new answers, subject to ‖W − W′‖∞ ≤ ε, where W is the down
projection of one FFN and W′ its value before the call. Adam; each step is clamped to the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import torch
from pydantic import Field
from torch import Tensor

from errata.editing.lane.contract import LaneConfig, check_layer
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.editing.model.teacher_forcing import TeacherForcing
from errata.evaluation.data.record import Record
from errata.evaluation.systems import EditOutcome
from errata.evaluation.systems.local import LocalModel

_ROWS = 64  # records of one backward pass


class FtlConfig(LaneConfig):
    """Settings of FT-L.

    Attributes:
        layer: whose down projection is tuned. Meng et al. find 0 best.
        steps: upper limit. Theirs: 25.
        learning_rate: of Adam. Theirs: 5e-4.
        bound: ε. Theirs: 5e-4 for GPT-2 XL, 5e-5 for GPT-J.
        stop_loss: training ends below it. Theirs: 1e-2.
    """

    layer: int = Field(default=0, ge=0)
    steps: int = Field(default=25, ge=1)
    learning_rate: float = Field(default=5e-4, gt=0.0)
    bound: float = Field(default=5e-4, gt=0.0)
    stop_loss: float = Field(default=1e-2, ge=0.0)


class ConstrainedFineTuning(LocalModel):
    """A model with one fine-tuned matrix."""

    def __init__(self, model: CausalLM, config: FtlConfig) -> None:
        """Copies the base weight, which `reset` restores.

        Raises:
            InvalidRequestError: no such layer.
        """
        super().__init__(model)
        check_layer(config.layer, model.num_layers, "config.layer")
        self._config = config
        self._weight = model.down(config.layer).get_parameter("weight")
        self._base = self._weight.data.clone()
        self.state_bytes = self._base.numel() * self._base.element_size()

    def edit(self, records: Sequence[Record]) -> EditOutcome:
        """Tunes the weight on all records together."""
        start = perf_counter()
        parts = [
            self._loss(records[first : first + _ROWS], 1.0 / len(records))
            for first in range(0, len(records), _ROWS)
        ]
        self._tune(parts)
        return EditOutcome(rejected=(), seconds=perf_counter() - start)

    def reset(self) -> None:
        """Restores the base weight, bit for bit."""
        self._weight.data.copy_(self._base)

    def _loss(self, records: Sequence[Record], weight: float) -> Callable[[], Tensor]:
        """The sum over records of `weight` times the mean NLL of the new answer's tokens."""
        rows = [tokenise(self.model, record.prompt, record.target_new) for record in records]
        forced = TeacherForcing(self.model, rows, self._config.layer, bf16=False)
        every = torch.arange(len(rows), device=self.model.device)
        return lambda: weight * forced.losses(every)[0].sum()

    def _tune(self, parts: Sequence[Callable[[], Tensor]]) -> None:
        before, bound = self._weight.data.clone(), self._config.bound
        optimiser = torch.optim.Adam([self._weight], lr=self._config.learning_rate)
        self._weight.requires_grad_(True)
        try:
            for _ in range(self._config.steps):
                optimiser.zero_grad()
                value = 0.0
                for part in parts:
                    with torch.enable_grad():
                        loss = part()
                        loss.backward()
                    value += float(loss.detach())
                if value < self._config.stop_loss:
                    break
                optimiser.step()
                self._weight.data.clamp_(before - bound, before + bound)
        finally:
            self._weight.requires_grad_(False)
            self._weight.grad = None
