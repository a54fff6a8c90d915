"""WISE: a side memory, and the strength of its answer as router (Wang et al. 2024, WISE-Retrieve).

Beside one FFN's down projection W lies a copy W′ = W + D, with D zero at first. How strongly it
answers a text decides which of the two the text reads (equation 3):

    Δ(x) = mean over the text's tokens of ‖(W′ − W)·a‖ = ‖D·a‖

An edit trains D on its prompt xₑ, alone and after ten short texts, with one other text xᵢ beside it
(equations 4 and 5; h = max(0, ·)):

    NLL(yₑ | xₑ) + h(Δ(xᵢ) − α) + h(β − Δ(xₑ)) + h(γ − (Δ(xₑ) − Δ(xᵢ)))

Knowledge sharding: the edits of a shard change only a random share ρ of D's entries. A shard that
is full is closed, and the next one starts from zero; each `num_shards` closed shards become one
memory by TIES: of each, the largest entries; where these differ in sign, those of the larger sum;
and their mean.

A prompt reads the memory that answers it most strongly, of those with Δ(x) > ratio·ε, where ε is
the smallest Δ of the memory's edits when they were made; if there is none, W. That holds for what
follows the prompt. Δ here is that of prompts, without their answers.

Where the authors' code and ours differ:

- Its other texts are a data set's, ours the model's own. NLL, Δ(xₑ) and margins are means over an
  edit's texts; its margins, over the texts that violate them.
- It applies the FFN's activation function to both outputs before their distance, which the paper
  does not. `unit` is the scale of Δ; the learning rate has to be chosen with it.
- It routes every token that it generates anew, and the open shard's Δ bars weaker memories even if
  it is below its own threshold.
- Training stops at a loss, where it also stops once the loss no longer changes. There is no weight
  decay, which in its code also shrinks entries outside the mask, and no replay of earlier edits
  (its appendix B.3), which it leaves off by default.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import torch
from pydantic import Field
from torch import Tensor

from errata.editing.lane.contract import LaneConfig
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.editing.model.teacher_forcing import TeacherForcing
from errata.errors import FitError
from errata.evaluation.baselines.activations import added, chosen_layer, prompt_means
from errata.evaluation.baselines.texts import NUM_PREFIXES, own_texts, prefixed_rows
from errata.evaluation.data.record import Record
from errata.evaluation.systems import EditOutcome
from errata.evaluation.systems.local import LocalModel


class WiseConfig(LaneConfig):
    """Settings of WISE.

    Attributes:
        layer: of the side memory; None takes 27/32 of the depth, as for LLaMA2-7B.
        share: ρ, of a shard's entries that its edits may change. Theirs: 0.2.
        shard_edits: edits of a shard. Theirs: 500.
        num_shards: k, shards that are merged into a memory. Theirs: 2.
        density: share of a shard's entries that TIES keeps. Theirs: 0.53.
        unit: of Δ, as a norm of the layer's output. Theirs: 1.
        alpha: α. Theirs: 5.
        beta: β. Theirs: 20.
        gamma: γ. Theirs: 10.
        ratio: of ε. Theirs: 0.88.
        steps: of an edit's training. Theirs: 70.
        learning_rate: of SGD. Theirs: 1.
        bound: largest magnitude of an entry of D. Theirs: 1.
        stop_loss: training of an edit stops below this loss.
        seed: of the masks, and of the texts that the model writes.
    """

    layer: int | None = Field(default=None, ge=0)
    share: float = Field(default=0.2, gt=0.0, le=1.0)
    shard_edits: int = Field(default=500, ge=1)
    num_shards: int = Field(default=2, ge=1)
    density: float = Field(default=0.53, gt=0.0, le=1.0)
    unit: float = Field(default=1.0, gt=0.0)
    alpha: float = Field(default=5.0, ge=0.0)
    beta: float = Field(default=20.0, ge=0.0)
    gamma: float = Field(default=10.0, ge=0.0)
    ratio: float = Field(default=0.88, ge=0.0)
    steps: int = Field(default=70, ge=1)
    learning_rate: float = Field(default=1.0, gt=0.0)
    bound: float = Field(default=1.0, gt=0.0)
    stop_loss: float = Field(default=2e-2, ge=0.0)
    seed: int = Field(default=0, ge=0)


@dataclass(slots=True)
class SideMemory:
    """A shard, or what shards were merged into.

    Attributes:
        delta: D, (d, d_ff) fp32.
        least: ε; infinite without edits.
        num_edits: that were trained in it.
    """

    delta: Tensor
    least: float = math.inf
    num_edits: int = 0


def ties(deltas: Tensor, density: float) -> Tensor:
    """Merges changes of the same weight (TIES, Yadav et al. 2023).

    Args:
        deltas: (k, d, d_ff) fp32.
        density: share of each one's entries that is kept, the largest in magnitude.

    Returns:
        (d, d_ff), the mean of the kept entries that have the sign of their sum; else 0.
    """
    flat = deltas.flatten(1)
    largest = flat.abs().topk(math.ceil(density * flat.shape[1]), dim=1).indices
    kept = torch.zeros_like(flat).scatter(1, largest, flat.gather(1, largest))
    agrees = (kept != 0) & (kept.sign() == kept.sum(0).sign())
    mean = (kept * agrees).sum(0) / agrees.sum(0).clamp(min=1)
    return mean.view_as(deltas[0])


class Wise(LocalModel):
    """A model with side memories at one layer; its own weights do not change."""

    def __init__(self, model: CausalLM, config: WiseConfig) -> None:
        """Lets the model write the other texts.

        Raises:
            InvalidRequestError: no such layer.
            FitError: as `own_texts`.
        """
        super().__init__(model)
        self._config, self._layer = config, chosen_layer(model, config.layer, 27 / 32)
        texts = own_texts(model, config.seed)
        self._prefixes, self._others = texts[:NUM_PREFIXES], texts[NUM_PREFIXES:]
        self.reset()

    @property
    def memories(self) -> list[SideMemory]:
        """What prompts may read: merged shards, full ones, and the open one."""
        return [*self._merged, *self._full, self.shard]

    @property
    def state_bytes(self) -> int:
        """Bytes of all memories."""
        deltas = [memory.delta for memory in self.memories]
        return sum(delta.numel() * delta.element_size() for delta in deltas)

    def reset(self) -> None:
        """An empty shard with the first mask, and no other memory."""
        self._generator = torch.Generator().manual_seed(self._config.seed)
        self._merged: list[SideMemory] = []
        self._full: list[SideMemory] = []
        self._open()

    def edit(self, records: Sequence[Record]) -> EditOutcome:
        """Trains the open shard on one record after another, as published."""
        start = perf_counter()
        for record in records:
            self._train(record)
            if self.shard.num_edits == self._config.shard_edits:
                self._full.append(self.shard)
                self._open()
            if len(self._full) == self._config.num_shards:
                self._merge()
        return EditOutcome(rejected=(), seconds=perf_counter() - start)

    def _open(self) -> None:
        """Starts a shard, with the random mask of the entries that its edits may change."""
        shape = self.model.d, self.model.d_ff
        mask = torch.rand(shape, generator=self._generator) < self._config.share
        self.mask = mask.to(self.model.device)
        self.shard = SideMemory(torch.zeros(shape, device=self.model.device))

    def _merge(self) -> None:
        deltas = torch.stack([shard.delta for shard in self._full])
        least = min(shard.least for shard in self._full)
        num_edits = sum(shard.num_edits for shard in self._full)
        self._merged.append(SideMemory(ties(deltas, self._config.density), least, num_edits))
        self._full = []

    def chosen(self, activations: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The memory that prompts read.

        Args:
            activations: (n, T, d_ff) fp32, inputs of the down projection.
            lengths: n, tokens of the prompts.

        Returns:
            (n,) int64 index into `memories`, and (n,) bool, whether the prompt reads it.
        """
        memories = self.memories
        strengths = torch.stack(
            [self._strength(activations @ memory.delta.T, lengths) for memory in memories], dim=-1
        )
        least = strengths.new_tensor([memory.least for memory in memories])
        eligible = strengths > self._config.ratio * least
        index = strengths.masked_fill(~eligible, -math.inf).argmax(dim=-1)
        return index, eligible.any(dim=-1)

    @contextmanager
    def _reading(self, prompts: Sequence[Sequence[int]]) -> Iterator[None]:
        lengths = [len(prompt) for prompt in prompts]
        held: list[tuple[Tensor, Tensor]] = []  # what the prompt selects holds for what follows it

        def more(hidden: Tensor) -> Tensor | None:
            if not held:
                held.append(self.chosen(hidden, lengths))
            index, is_read = held[0]
            if not is_read.any():
                return None
            found = hidden.new_zeros(*hidden.shape[:2], self.model.d)
            for number, memory in enumerate(self.memories):
                rows = is_read & (index == number)
                found[rows] = hidden[rows] @ memory.delta.T
            return found

        with added(self.model, self._layer, more):
            yield

    def _train(self, record: Record) -> None:
        """SGD on the shard's entries in the mask; ε is at most the edit's Δ in its last step.

        Raises:
            FitError: the loss is not finite; the shard is unchanged.
        """
        model, layer, config = self.model, self._layer, self._config
        rows = prefixed_rows(model, record, self._prefixes)
        num_before = sum(memory.num_edits for memory in self.memories)
        rows.append(tokenise(model, self._others[num_before % len(self._others)]))
        lengths = [len(row.prompt_ids) for row in rows]
        forced = TeacherForcing(model, rows, layer, bf16=False)
        every = torch.arange(len(rows), device=model.device)
        delta = self.shard.delta.clone().requires_grad_(True)
        delta.register_hook(lambda gradient: gradient * self.mask)
        optimiser = torch.optim.SGD([delta], config.learning_rate)
        strengths: list[Tensor] = []

        def more(hidden: Tensor) -> Tensor:
            found = hidden @ delta.T
            strengths[:] = [self._strength(found, lengths)]
            return found

        with added(model, layer, more):
            for _ in range(config.steps):
                optimiser.zero_grad()
                with torch.enable_grad():
                    nll = forced.losses(every)[0][:-1].mean()  # the other text has no answer
                    loss = nll + self._margins(strengths[-1])
                    loss.backward()
                if not loss.isfinite():
                    raise FitError("WISE's loss is not finite; lower the learning rate.")
                if float(loss.detach()) < config.stop_loss:
                    break
                optimiser.step()
                delta.data.clamp_(-config.bound, config.bound)
        self.shard.delta = delta.detach()
        self.shard.least = min(self.shard.least, float(strengths[-1][:-1].detach().mean()))
        self.shard.num_edits += 1

    def _margins(self, strengths: Tensor) -> Tensor:
        """The three margins of Δ (n + 1,): of an edit's n texts, and of the other text."""
        config, own, other = self._config, strengths[:-1], strengths[-1]
        above = (other - config.alpha).relu()
        below = (config.beta - own).relu() + (config.gamma - (own - other)).relu()
        return above + below.mean()

    def _strength(self, more: Tensor, lengths: Sequence[int]) -> Tensor:
        """Δ (n,) of texts from D·a (n, T, d), over their first `lengths` tokens."""
        norms = torch.linalg.vector_norm(more, dim=-1) / self._config.unit
        return prompt_means(norms[..., None], lengths)[:, 0]
