"""A mixture-of-experts adaptor: low-rank experts at one FFN (after LoRAMoE, Dou et al. 2023).

y = W_down·h + Σ_{i ∈ top k} g_i·B_i·A_i·h with g = softmax(W_r·q). The conventional adaptor trains
all experts and the router on every batch; LEMoE adds an expert and a key for each batch, and
freezes the earlier ones. What the router reads, q, is what LEMoE's authors call the granularity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from errata.editing.lane.contract import LaneConfig
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.editing.model.teacher_forcing import TeacherForcing
from errata.evaluation.baselines.activations import (
    activations,
    added,
    chosen_layer,
    prompt_means,
)
from errata.evaluation.data.record import Record
from errata.evaluation.systems import EditOutcome
from errata.evaluation.systems.local import LocalModel

_ROWS = 64  # records of one backward pass


class MoeConfig(LaneConfig):
    """Settings of the adaptor.

    Attributes:
        layer: of the experts; None takes 18/32 of the depth, LEMoE's.
        experts: `shared`, a fixed number that every batch trains again (conventional), or `fresh`,
            one for each batch, frozen afterwards (LEMoE).
        num_experts: of `shared`. LEMoE: 5.
        rank: of an expert.
        top_k: number of experts that a token passes through.
        granularity: what the router reads: each token's own FFN activation (`token`), their mean
            over the prompt (`sentence`), or that of the prompt's last token (`last`).
        steps: upper limit for a batch.
        learning_rate: of AdamW.
        stop_loss: training of a batch ends below it.
        seed: of the initial weights.
    """

    layer: int | None = Field(default=None, ge=0)
    experts: Literal["shared", "fresh"] = "shared"
    num_experts: int = Field(default=5, ge=1)
    rank: int = Field(default=16, ge=1)
    top_k: int = Field(default=1, ge=1)
    granularity: Literal["token", "sentence", "last"] = "token"
    steps: int = Field(default=60, ge=1)
    learning_rate: float = Field(default=5e-3, gt=0.0)
    stop_loss: float = Field(default=2e-2, ge=0.0)
    seed: int = Field(default=0, ge=0)


class Mixture:
    """Experts and the keys that route to them.

    Attributes:
        keys: (E, d_ff) fp32, the rows of W_r.
        down: (E, r, d_ff) fp32, A.
        up: (E, d, r) fp32, B; zero at first, so that a new expert changes nothing.
    """

    def __init__(self, width: int, out: int, device: torch.device) -> None:
        """No experts."""
        self.keys = torch.zeros(0, width, device=device)
        self.down = torch.zeros(0, 0, width, device=device)
        self.up = torch.zeros(0, out, 0, device=device)

    def add(self, keys: Tensor, rank: int, generator: torch.Generator) -> None:
        """Adds an expert for each key (n, d_ff)."""
        number, width = keys.shape
        out, device = self.up.shape[1], self.keys.device
        fresh = torch.randn(number, rank, width, generator=generator).to(device) / width**0.5
        zero = torch.zeros(number, out, rank, device=device)
        is_first = not len(self.keys)
        self.keys = torch.cat([self.keys, keys.to(device)])
        self.down = fresh if is_first else torch.cat([self.down, fresh])
        self.up = zero if is_first else torch.cat([self.up, zero])

    def output(self, hidden: Tensor, queries: Tensor, top_k: int) -> Tensor:
        """Σ g_i·B_i·A_i·h, (n, T, d).

        Args:
            hidden: h, (n, T, d_ff).
            queries: q, (n, T, d_ff) or (n, 1, d_ff).
            top_k: number of experts with a gate; gates are not normalised again.
        """
        gates = (queries @ self.keys.T).softmax(-1)  # (n, T or 1, E)
        kept = gates.topk(min(top_k, gates.shape[-1]), dim=-1)
        sparse = torch.zeros_like(gates).scatter(-1, kept.indices, kept.values)
        inner = torch.einsum("ntf,erf->nter", hidden, self.down) * sparse[..., None]
        return torch.einsum("nter,edr->ntd", inner, self.up)


class MoeAdaptor(LocalModel):
    """A model with a mixture of experts at one layer; its own weights do not change."""

    def __init__(self, model: CausalLM, config: MoeConfig) -> None:
        """Starts without experts, or with experts that change nothing.

        Raises:
            InvalidRequestError: no such layer.
        """
        super().__init__(model)
        self._config, self._layer = config, chosen_layer(model, config.layer, 18 / 32)
        self.reset()

    @property
    def state_bytes(self) -> int:
        """Bytes of experts and keys."""
        parts = (self.mixture.keys, self.mixture.down, self.mixture.up)
        return sum(part.numel() * part.element_size() for part in parts)

    def reset(self) -> None:
        """The mixture before the first edit."""
        model, config = self.model, self._config
        self._generator = torch.Generator().manual_seed(config.seed)
        self.mixture = Mixture(model.d_ff, model.d, model.device)
        if config.experts == "shared":
            shape = config.num_experts, model.d_ff
            keys = torch.randn(*shape, generator=self._generator) / model.d_ff**0.5
            self.mixture.add(keys, config.rank, self._generator)

    def edit(self, records: Sequence[Record]) -> EditOutcome:
        """Trains the experts of this batch on all records together."""
        start = perf_counter()
        trained = 0  # the first expert that this batch trains
        if self._config.experts == "fresh":
            trained = len(self.mixture.keys)
            self.mixture.add(self._centroid(records)[None], self._config.rank, self._generator)
        parts = [
            self._loss(records[first : first + _ROWS], 1.0 / len(records))
            for first in range(0, len(records), _ROWS)
        ]
        self._train(parts, trained)
        return EditOutcome(rejected=(), seconds=perf_counter() - start)

    def _centroid(self, records: Sequence[Record]) -> Tensor:
        """The direction of the prompts' mean activation, (d_ff)."""
        rows = [tokenise(self.model, record.prompt).ids for record in records]
        lengths = [len(row) for row in rows]
        queries = self._queries(activations(self.model, rows, self._layer), lengths)
        if self._config.granularity == "token":  # rows are padded
            queries = torch.cat([row[:n] for row, n in zip(queries, lengths, strict=True)])
        return nn.functional.normalize(queries.reshape(-1, queries.shape[-1]).mean(0), dim=0)

    def _queries(self, hidden: Tensor, lengths: Sequence[int]) -> Tensor:
        """q (n, T or 1, d_ff) from activations (n, T, d_ff) of prompts from column 0 on."""
        if self._config.granularity == "token":
            return hidden
        if self._config.granularity == "sentence":
            return prompt_means(hidden, lengths)[:, None]
        ends = torch.tensor(lengths, device=hidden.device)
        return hidden[torch.arange(len(ends), device=hidden.device), ends - 1][:, None]

    @contextmanager
    def _reading(self, prompts: Sequence[Sequence[int]]) -> Iterator[None]:
        with self._applied([len(prompt) for prompt in prompts]):
            yield

    @contextmanager
    def _applied(self, lengths: Sequence[int]) -> Iterator[None]:
        """The mixture at its layer; a route that is read from the prompt holds for what follows."""
        held: list[Tensor] = []

        def more(hidden: Tensor) -> Tensor | None:
            if not len(self.mixture.keys):
                return None
            if self._config.granularity == "token":
                queries = hidden
            else:
                if not held:
                    held.append(self._queries(hidden, lengths))
                queries = held[0]
            return self.mixture.output(hidden, queries, self._config.top_k)

        with added(self.model, self._layer, more):
            yield

    def _loss(self, records: Sequence[Record], weight: float) -> Callable[[], Tensor]:
        """The sum over records of `weight` times the mean NLL of the new answer's tokens."""
        rows = [tokenise(self.model, record.prompt, record.target_new) for record in records]
        forced = TeacherForcing(self.model, rows, self._layer, bf16=False)
        every = torch.arange(len(rows), device=self.model.device)
        lengths = [len(row.prompt_ids) for row in rows]

        def loss() -> Tensor:
            with self._applied(lengths):
                return weight * forced.losses(every)[0].sum()

        return loss

    def _train(self, parts: Sequence[Callable[[], Tensor]], trained: int) -> None:
        """AdamW on keys and experts from number `trained` on."""
        mixture, names = self.mixture, ("keys", "down", "up")
        whole = {name: getattr(mixture, name) for name in names}
        own = [whole[name][trained:].clone().requires_grad_(True) for name in names]
        optimiser = torch.optim.AdamW(own, lr=self._config.learning_rate, weight_decay=0.0)
        for _ in range(self._config.steps):
            optimiser.zero_grad()
            value = 0.0
            for part in parts:
                with torch.enable_grad():
                    for name, new in zip(names, own, strict=True):
                        setattr(mixture, name, torch.cat([whole[name][:trained], new]))
                    loss = part()
                    loss.backward()
                value += float(loss.detach())
            if value < self._config.stop_loss:
                break
            optimiser.step()
        for name, new in zip(names, own, strict=True):
            setattr(mixture, name, torch.cat([whole[name][:trained], new.detach()]))
