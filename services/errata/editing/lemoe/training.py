"""Fits one new expert to a batch of texts; all that came before stays as it is.

Minimises the mean NLL of targets over the new expert's tensors, in `literal` routing also over its
key and the projection (LEMoE §3.2 and appendix). `anchored` sends every text through the new expert
with a gate of 1; `literal` through the experts that the keys choose, so that nothing forces a text
to the new one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from errata.editing.effects.expert import Expert, ExpertRows, add_experts
from errata.editing.lemoe.config import LemoeConfig
from errata.editing.lemoe.experts import Shape, as_expert, new_expert
from errata.editing.lemoe.projection import Projection, literal_gates
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.devices import fast_training, has_fast_bf16
from errata.editing.model.prompts import TokenRow
from errata.editing.model.teacher_forcing import TeacherForcing
from errata.errors import FitError


@dataclass(frozen=True, eq=False, slots=True)
class TrainingSet:
    """Texts to learn.

    Attributes:
        texts: m of them, each with its target.
        owners: (m,) int64, the edit of each.
        embeddings: e of the u edits' prompts, (u, d) fp32.
    """

    texts: Sequence[TokenRow]
    owners: Tensor
    embeddings: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Earlier:
    """What a lane has learned before: all of it is frozen but, in `literal`, the projection.

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
    """What training made.

    Attributes:
        tensors: of the new expert, fp32.
        anchor: its own, (d) fp32.
        projection: of the lane, from now on.
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
    """Trains a new expert; the model is left as it was.

    Args:
        model: frozen.
        shape: of the lane.
        data: of the batch.
        earlier: of the lane.
        config: of the lane.
        seed: of the expert's start and of the order of texts.

    Raises:
        FitError: the loss is not finite.
    """
    own = new_expert(model, shape, seed)
    is_literal = config.routing == "literal"
    router = _Router.of(earlier, data.embeddings, seed, trains=is_literal)
    bf16 = has_fast_bf16(model.device)
    forced = TeacherForcing(model, data.texts, shape.layer, bf16=bf16)
    parameters = [*own.parameters(), *(router.parameters() if is_literal else ())]
    optimiser = torch.optim.AdamW(parameters, lr=config.learning_rate)
    for batch in itertools.islice(_batches(len(data.texts), config, seed), config.steps):
        rows = batch.rows.to(model.device)
        with torch.enable_grad(), fast_training(model.device, bf16=bf16):
            newest = as_expert(model, shape, dict(own.items()))
            parts = []
            for part in (rows[places] for places in forced.alike(rows)):
                if is_literal:
                    e = data.embeddings[data.owners[part]]
                    claimed = router.choose([*earlier.experts, newest], e, config)
                else:
                    claimed = only(newest, len(part), config.weight, model.device)
                with consulting(model, shape.layer, claimed):
                    parts.append(forced.nll(part))
            nll = torch.cat(parts)
            loss = nll.mean()
        if not bool(torch.isfinite(loss)):
            raise FitError("the loss is not finite; use a smaller learning_rate.")
        batch.worst(float(nll.detach().max()))
        if batch.is_done(config.stop_loss):
            break
        optimiser.zero_grad(set_to_none=True)
        if loss.requires_grad:  # a frozen expert may have taken all rows
            loss.backward()
            optimiser.step()
    tensors = {name: parameter.detach() for name, parameter in own.items()}
    return Trained(tensors, router.newest_anchor.detach(), router.projection_now())


class _Batch:
    """Rows of one step, and what the pass over all texts has seen so far."""

    def __init__(self, rows: Tensor, seen: list[float], *, is_last: bool) -> None:
        self.rows, self._seen, self._is_last = rows, seen, is_last

    def worst(self, nll: float) -> None:
        self._seen.append(nll)

    def is_done(self, stop_loss: float) -> bool:
        return bool(stop_loss) and self._is_last and max(self._seen) < stop_loss


def _batches(num: int, config: LemoeConfig, seed: int) -> Iterator[_Batch]:
    """Shuffled passes over all texts, without end."""
    rng = torch.Generator().manual_seed(seed % 2**63)
    while True:
        parts = torch.randperm(num, generator=rng).split(config.batch_rows)
        seen: list[float] = []
        for part in parts:
            yield _Batch(part, seen, is_last=part is parts[-1])


class _Router(nn.Module):
    """Keys of earlier experts, frozen, that of the new one, and the projection."""

    def __init__(self, earlier: Earlier, anchor: Tensor) -> None:
        super().__init__()
        self._earlier = earlier.anchors
        self._is_residual = earlier.projection.is_residual
        self.newest_anchor = nn.Parameter(anchor)
        self._down = nn.Parameter(earlier.projection.down.clone())
        self._up = nn.Parameter(earlier.projection.up.clone())

    @classmethod
    def of(cls, earlier: Earlier, embeddings: Tensor, seed: int, *, trains: bool) -> _Router:
        """`literal` starts from a random key, `anchored` has the batch's centroid at once."""
        if not trains:
            return cls(earlier, earlier.projection.anchor(embeddings))
        rng = torch.Generator().manual_seed((seed + 1) % 2**63)
        drawn = torch.randn(embeddings.shape[1], generator=rng).to(embeddings.device)
        return cls(earlier, nn.functional.normalize(drawn, dim=0))

    def projection_now(self) -> Projection:
        return Projection(self._down.detach(), self._up.detach(), self._is_residual)

    def choose(self, experts: Sequence[Expert], e: Tensor, config: LemoeConfig) -> ExpertRows:
        """Experts and gates of rows by their embeddings, with gradients to key and projection."""
        v = Projection(self._down, self._up, self._is_residual)(e)
        anchors = torch.cat([self._earlier, self.newest_anchor[None]])
        numbers, gates = literal_gates(anchors, v, config.top_k)
        return grouped(experts, numbers, config.weight * gates)


def grouped(experts: Sequence[Expert], numbers: Tensor, gates: Tensor) -> ExpertRows:
    """Rows sorted by expert.

    Args:
        experts: t of them.
        numbers: (n, k) int64, the experts of each row.
        gates: (n, k).
    """
    flat = numbers.reshape(-1)
    order = flat.argsort(stable=True)
    distinct, sizes = flat[order].unique_consecutive(return_counts=True)
    rows = torch.arange(len(numbers), device=numbers.device).repeat_interleave(numbers.shape[1])
    return ExpertRows(
        tuple(experts[number] for number in distinct.tolist()),
        tuple(sizes.tolist()),
        rows[order],
        gates.reshape(-1)[order][:, None, None],
    )


def only(expert: Expert, num_rows: int, gate: float, device: torch.device) -> ExpertRows:
    """All rows through one expert."""
    rows = torch.arange(num_rows, device=device)
    gates = torch.full((num_rows, 1, 1), gate, device=device)
    return ExpertRows((expert,), (num_rows,), rows, gates)


@contextmanager
def consulting(model: CausalLM, layer: int, claimed: ExpertRows) -> Iterator[None]:
    """Lets the passes inside go through experts, with gradients."""

    def consult(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return add_experts(model, layer, output, args[0], claimed)

    handle = model.ffn(layer).register_forward_hook(consult)
    try:
        yield
    finally:
        handle.remove()
