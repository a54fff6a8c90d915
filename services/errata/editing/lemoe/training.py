"""Trains one new expert on a batch of texts; earlier experts are not changed.

Minimises the mean NLL of targets over the new expert's tensors, with `literal` routing also over
its key and the projection (LEMoE §3.2 and appendix); with `num_following`, plus w·KL(base ‖ edited)
of the tokens after targets (ours). `anchored` sends every text through the new
expert with a gate of 1. `literal` sends it through the experts that the keys select, which need not
include the new one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from errata.editing.effects.expert import Expert, ExpertRows, add_experts
from errata.editing.lemoe.config import LemoeConfig
from errata.editing.lemoe.experts import Shape, as_expert, new_expert
from errata.editing.lemoe.projection import Projection, literal_gates
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.devices import fast_training, has_fast_bf16
from errata.editing.model.prompts import TokenRow
from errata.editing.model.said import train_until_said
from errata.editing.model.teacher_forcing import TeacherForcing
from errata.errors import FitError


@dataclass(frozen=True, eq=False, slots=True)
class TrainingSet:
    """Texts to train on.

    Attributes:
        texts: m of them, each with its target.
        owners: (m,) int64, the index of each text's edit.
        is_own: (m,) bool on the CPU: the edit's prompt and rephrases; the lane made the others.
        embeddings: e of the u edits' prompts, (u, d) fp32.
    """

    texts: Sequence[TokenRow]
    owners: Tensor
    is_own: Tensor
    embeddings: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Earlier:
    """Earlier experts of a lane; frozen, except for the projection with `literal` routing.

    Attributes:
        experts: t of them.
        anchors: (t, d) fp32.
        projection: of the lane.
    """

    experts: Sequence[Expert]
    anchors: Tensor
    projection: Projection


@dataclass(frozen=True, eq=False, slots=True)
class Trained:
    """Result of training.

    Attributes:
        tensors: of the new expert, fp32.
        anchor: of the new expert, (d) fp32.
        projection: of the lane after training.
    """

    tensors: Mapping[str, Tensor]
    anchor: Tensor
    projection: Projection


def train(
    model: CausalLM,
    shape: Shape,
    data: TrainingSet,
    earlier: Earlier,
    config: LemoeConfig,
    seed: int,
) -> Trained:
    """Trains a new expert; the model is not changed.

    Planned steps take all texts in turn, until enough is learned. Extra ones follow until all texts
    that edits brought are said.

    Args:
        model: frozen.
        shape: of the lane.
        data: of the batch.
        earlier: of the lane.
        config: of the lane.
        seed: of the expert's initial tensors and of the order of texts.

    Raises:
        FitError: the loss is not finite.
    """
    training = _Training(model, shape, data, earlier, config, seed)
    for step in itertools.islice(_steps(data, config, seed), config.steps):
        loss, nlls = training.losses(step.rows)
        step.record(nlls)
        if step.is_done(config):
            break
        training.update(loss)
    own = data.is_own.nonzero()[:, 0]
    train_until_said(
        [data.texts[number] for number in own.tolist()],
        lambda rows: training.read(own[rows])[0],
        lambda rows: training.update(training.losses(own[rows])[0]),
        num_steps=config.extra_steps,
        most_rows=config.batch_rows,
        seed=seed,
    )
    return training.trained()


class _Training:
    """The losses of a fit's steps, and the updates that they make."""

    def __init__(
        self,
        model: CausalLM,
        shape: Shape,
        data: TrainingSet,
        earlier: Earlier,
        config: LemoeConfig,
        seed: int,
    ) -> None:
        """Makes the new expert, and reads the texts."""
        self._model, self._shape, self._data = model, shape, data
        self._earlier, self._config = earlier, config
        self._tensors = new_expert(model, shape, seed)
        self._is_literal = config.routing == "literal"
        self._router = _Router.of(earlier, data.embeddings, seed, trains=self._is_literal)
        self._bf16 = has_fast_bf16(model.device)
        following = config.num_following
        self._teacher = TeacherForcing(
            model, data.texts, shape.layer, bf16=self._bf16, num_following=following, seed=seed
        )
        router = self._router.parameters() if self._is_literal else ()
        self._optimiser = torch.optim.AdamW(
            [*self._tensors.parameters(), *router], lr=config.learning_rate
        )

    def losses(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a step, a scalar with its gradient, and the NLL of each text.

        Args:
            rows: numbers of the step's texts, (m,) int64 on the CPU.

        Returns:
            The loss, and (m,) nats on the CPU.

        Raises:
            FitError: the loss is not finite.
        """
        with torch.enable_grad(), fast_training(self._model.device, bf16=self._bf16):
            nll, divergence = self._read(rows)
            loss = nll.mean() + self._config.following_weight * divergence.mean()
        if not bool(torch.isfinite(loss)):
            raise FitError("the loss is not finite; use a smaller learning_rate.")
        return loss, nll.detach().cpu()

    def read(self, rows: Tensor) -> Tensor:
        """NLL and divergence of these texts, (2, m) nats, without gradients."""
        with torch.no_grad(), fast_training(self._model.device, bf16=self._bf16):
            return self._read(rows)

    def _read(self, rows: Tensor) -> Tensor:
        model, shape, data = self._model, self._shape, self._data
        chosen = rows.to(model.device)
        new = as_expert(model, shape, dict(self._tensors.items()))
        alike, parts = self._teacher.alike(chosen), []
        for part in (chosen[indices] for indices in alike):
            if self._is_literal:
                e = data.embeddings[data.owners[part]]
                claimed = self._router.select([*self._earlier.experts, new], e, self._config)
            else:
                claimed = single_expert_rows(new, len(part), self._config.weight, model.device)
            with applied_experts(model, shape.layer, claimed):
                parts.append(torch.stack(self._teacher.losses(part)))
        order = torch.cat(list(alike))
        return torch.cat(parts, dim=1)[:, order.argsort()]

    def update(self, loss: Tensor) -> None:
        """Makes a step of the optimiser."""
        self._optimiser.zero_grad(set_to_none=True)
        if loss.requires_grad:  # false if all rows went through frozen experts
            loss.backward()
            self._optimiser.step()

    def trained(self) -> Trained:
        """What was learned."""
        tensors = {name: parameter.detach() for name, parameter in self._tensors.items()}
        router = self._router
        return Trained(tensors, router.newest_anchor.detach(), router.projection_now())


@dataclass(frozen=True, eq=False, slots=True)
class _Step:
    """One step of a pass over all texts.

    Attributes:
        rows: of the texts of this step.
        nlls: of all texts, (m,); the steps of a pass fill it.
        is_own: of the training set.
        is_last: whether it is the pass's last step.
    """

    rows: Tensor
    nlls: Tensor
    is_own: Tensor
    is_last: bool

    def record(self, nlls: Tensor) -> None:
        """Records the NLL of each of `rows`."""
        self.nlls[self.rows] = nlls

    def is_done(self, config: LemoeConfig) -> bool:
        """Whether the pass leaves too little to learn for another one."""
        if not (config.stop_loss and self.is_last):
            return False
        learned = self.nlls < config.stop_loss
        is_enough = float(learned.double().mean()) >= config.stop_share
        return is_enough and bool(learned[self.is_own].all())


def _steps(data: TrainingSet, config: LemoeConfig, seed: int) -> Iterator[_Step]:
    """Yields the steps of shuffled passes over all texts, indefinitely."""
    rng, num = torch.Generator().manual_seed(seed % 2**63), len(data.owners)
    while True:
        parts = torch.randperm(num, generator=rng).split(config.batch_rows)
        nlls = torch.zeros(num)
        for part in parts:
            yield _Step(part, nlls, data.is_own, is_last=part is parts[-1])


class _Router(nn.Module):
    """The frozen keys of earlier experts, the key of the new one, and the projection."""

    def __init__(self, earlier: Earlier, anchor: Tensor) -> None:
        super().__init__()
        self._earlier = earlier.anchors
        self._is_residual = earlier.projection.is_residual
        self.newest_anchor = nn.Parameter(anchor)
        self._down = nn.Parameter(earlier.projection.down.clone())
        self._up = nn.Parameter(earlier.projection.up.clone())

    @classmethod
    def of(cls, earlier: Earlier, embeddings: Tensor, seed: int, *, trains: bool) -> _Router:
        """Starts from a random key if it trains; otherwise the key is the batch's centroid."""
        if not trains:
            return cls(earlier, earlier.projection.anchor(embeddings))
        rng = torch.Generator().manual_seed((seed + 1) % 2**63)
        drawn = torch.randn(embeddings.shape[1], generator=rng).to(embeddings.device)
        return cls(earlier, nn.functional.normalize(drawn, dim=0))

    def projection_now(self) -> Projection:
        return Projection(self._down.detach(), self._up.detach(), self._is_residual)

    def select(self, experts: Sequence[Expert], e: Tensor, config: LemoeConfig) -> ExpertRows:
        """Experts and gates of rows with embeddings e; gradients reach key and projection."""
        v = Projection(self._down, self._up, self._is_residual)(e)
        anchors = torch.cat([self._earlier, self.newest_anchor[None]])
        indices, gates = literal_gates(anchors, v, config.top_k)
        return grouped(experts, indices, config.weight * gates)


def grouped(experts: Sequence[Expert], indices: Tensor, gates: Tensor) -> ExpertRows:
    """Groups rows by expert.

    Args:
        experts: t of them.
        indices: (n, k) int64, the experts of each row.
        gates: (n, k).
    """
    flat = indices.reshape(-1)
    order = flat.argsort(stable=True)
    distinct, sizes = flat[order].unique_consecutive(return_counts=True)
    rows = torch.arange(len(indices), device=indices.device).repeat_interleave(indices.shape[1])
    return ExpertRows(
        tuple(experts[index] for index in distinct.tolist()),
        tuple(sizes.tolist()),
        rows[order],
        gates.reshape(-1)[order][:, None, None],
    )


def single_expert_rows(
    expert: Expert, num_rows: int, gate: float, device: torch.device
) -> ExpertRows:
    """Sends all rows through one expert."""
    rows = torch.arange(num_rows, device=device)
    gates = torch.full((num_rows, 1, 1), gate, device=device)
    return ExpertRows((expert,), (num_rows,), rows, gates)


@contextmanager
def applied_experts(model: CausalLM, layer: int, claimed: ExpertRows) -> Iterator[None]:
    """Applies experts to the forward passes inside the context, with gradients."""

    def add(inputs: Tensor, output: Tensor) -> None:
        add_experts(model, layer, output, inputs, claimed)

    remove = model.hook_ffn(layer, add)
    try:
        yield
    finally:
        remove()
