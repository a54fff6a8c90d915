"""Trains the shared parameters of a lane on texts: Adam on answers and allocations.

L = CE(answers) + λ·L_alloc, where L_alloc = Σ_l Σ_{i∈P^l} −log s_i^l is the guided loss (ELDER
eq. 6), averaged over the batch. The forward pass uses the k highest experts of each router; the
gradient of the model's loss reaches the routers through their weights s. With `num_following`, L
also has w·KL(base ‖ edited) of the tokens after answers (ours).

A text is trained with the query by which it will be served: with its own, where codes of queries
decide claims or a row's own query weights its experts (as published); otherwise with its edit's. In
the former case L_alloc is over all texts of a step's edits, which costs little: routers are linear.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from errata.editing.effects.mixture import MixtureRows, add_mixture
from errata.editing.elder.config import ElderConfig
from errata.editing.elder.experts import Experts
from errata.editing.elder.queries import queries_of_rows
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.devices import fast_training, has_fast_bf16
from errata.editing.model.prompts import TokenRow
from errata.editing.model.said import train_until_said
from errata.editing.model.teacher_forcing import TeacherForcing
from errata.errors import FitError

_CLOSE = 0.1  # nats of KL(base ‖ edited) after an answer: the fit may stop


@dataclass(frozen=True, eq=False, slots=True)
class TrainingSet:
    """Edits to learn: their texts, queries and allocations.

    Attributes:
        texts: the texts of each of n edits with their targets, the bare prompt first.
        queries: (n, d_q), of the edits.
        allocations: P, (n, L, N) bool.
        num_new: number of new edits, which come first and are in every planned step; each of these
            steps draws some of the others.
        num_own: numbers of texts that new edits brought, which come first: prompt and rephrases.
    """

    texts: Sequence[Sequence[TokenRow]]
    queries: Tensor
    allocations: Tensor
    num_new: int
    num_own: Sequence[int]

    @property
    def counts(self) -> Tensor:
        """Number of texts of each edit, (n,) int64."""
        return torch.tensor([len(texts) for texts in self.texts])

    @property
    def firsts(self) -> Tensor:
        """Number of each edit's bare prompt among all texts, (n,) int64."""
        counts = self.counts
        return counts.cumsum(0) - counts

    @property
    def needed(self) -> tuple[Tensor, Tensor]:
        """The texts that must be learned: their edits' numbers and their own, (k,) int64 each.

        These are the texts that new edits brought, and the prompts of the others.
        """
        counts = torch.ones(len(self.texts), dtype=torch.int64)
        counts[: self.num_new] = torch.tensor(self.num_own, dtype=torch.int64)
        edits = torch.arange(len(counts)).repeat_interleave(counts)
        before = (counts.cumsum(0) - counts)[edits]
        return edits, self.firsts[edits] + torch.arange(len(edits)) - before


def train(
    model: CausalLM, experts: Experts, data: TrainingSet, config: ElderConfig, seed: int
) -> None:
    """Trains the experts in place; the model stays unchanged.

    Planned steps end once enough is learned. Extra ones follow until all that must be learned is
    said: a text that was learned some steps ago, or by an earlier fit of the bank, can be lost.

    Args:
        model: frozen; the layers below the first adapted one are computed once.
        experts: the lane's current ones.
        data: new texts and replayed ones.
        config: of the lane.
        seed: of the draws of edits and texts.

    Raises:
        FitError: the loss is not finite.
    """
    sampler, progress = _StepSampler(data, config, seed), _Progress(data)
    steps = [sampler.next() for _ in range(config.steps)]
    owners, needed = data.needed
    asked = [needed] if config.extra_steps else []
    used = torch.cat([*asked, *(texts for _, texts in steps)]).unique()
    training = _Training(model, experts, data, config, used, seed)
    for edits, texts in steps:
        loss, losses = training.losses(edits, texts)
        progress.record(edits, texts, *losses)
        if config.stop_loss and progress.is_enough(config):
            break
        training.update(loss)
    train_until_said(
        [training.texts[number] for number in needed.tolist()],
        lambda rows: training.read(owners[rows], needed[rows])[0],
        lambda rows: training.update(training.losses(owners[rows], needed[rows])[0]),
        num_steps=config.extra_steps,
        most_rows=config.replay_rows,
        seed=seed,
    )


class _Training:
    """The losses of a fit's steps, and the updates that they make.

    Attributes:
        texts: all of the training set.
    """

    def __init__(
        self,
        model: CausalLM,
        experts: Experts,
        data: TrainingSet,
        config: ElderConfig,
        used: Tensor,
        seed: int,
    ) -> None:
        """Reads the texts with the numbers `used`, ascending: most replayed ones are in no step."""
        self._model, self._experts, self._data = model, experts, data
        self._config, self._used = config, used
        self._bf16 = config.precision == "auto" and has_fast_bf16(model.device)
        self.texts = [text for texts in data.texts for text in texts]
        self._forced = TeacherForcing(
            model,
            [self.texts[number] for number in used.tolist()],
            experts.shape.layers[0],
            bf16=self._bf16,
            num_following=config.num_following,
            seed=seed,
        )
        self._own = _OwnQueries(model, experts, data) if config.has_own_queries else None
        self._optimiser = torch.optim.Adam(experts.parameters(), lr=config.learning_rate)
        self._num_steps = 0

    def losses(self, edits: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a step, a scalar with its gradient, and each text's NLL and divergence.

        Args:
            edits: (m,) int64 on the CPU.
            texts: the number of a text of each edit; no text twice.

        Returns:
            The loss, and (2, m) nats on the CPU.

        Raises:
            FitError: the loss is not finite.
        """
        data, config = self._data, self._config
        chosen = edits.to(self._model.device)
        with torch.enable_grad(), fast_training(self._model.device, bf16=self._bf16):
            own = self._own
            queries, owners = (
                (data.queries[chosen], chosen) if own is None else own.of_edits(chosen)
            )
            steer = steering(self._experts, queries, data.allocations[owners], config)
            losses = self._read(edits, texts)
            nll, divergence = losses
            loss: Tensor = nll.mean() + config.following_weight * divergence.mean()
            loss = loss + config.loss_weight * steer
        if not bool(torch.isfinite(loss)):
            raise FitError(
                f"the loss is not finite after {self._num_steps} steps; use a smaller "
                "learning_rate."
            )
        return loss, losses.detach().cpu()

    def read(self, edits: Tensor, texts: Tensor) -> Tensor:
        """NLL and divergence of these texts, (2, m) nats, without gradients."""
        with torch.no_grad(), fast_training(self._model.device, bf16=self._bf16):
            return self._read(edits, texts)

    def _read(self, edits: Tensor, texts: Tensor) -> Tensor:
        chosen = edits.to(self._model.device)
        rows = torch.searchsorted(self._used, texts).to(self._model.device)
        by_row = self._own is not None and self._config.gates == "row"
        queries = self._own.of(texts) if self._own and by_row else self._data.queries[chosen]
        gates = self._experts.gates(queries)
        parts, found = self._forced.alike(rows), []
        for part in parts:
            with mixing(self._model, self._experts, gates[part]):
                found.append(torch.stack(self._forced.losses(rows[part])))
        return torch.cat(found, dim=1)[:, torch.cat(list(parts)).argsort()]

    def update(self, loss: Tensor) -> None:
        """Makes a step of the optimiser."""
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()
        self._num_steps += 1


def own_queries(model: CausalLM, experts: Experts, texts: Sequence[TokenRow]) -> Tensor:
    """q of each text, (n, d_q), at the last token of its prompt."""
    prompts = [text.prompt_ids for text in texts]
    return queries_of_rows(model, experts.shape, prompts)


class _OwnQueries:
    """The own query of each text of a training set."""

    def __init__(self, model: CausalLM, experts: Experts, data: TrainingSet) -> None:
        """Computes them, by passes that end at the first adapted layer."""
        self._counts, self._firsts = data.counts.to(model.device), data.firsts.to(model.device)
        texts = [text for texts in data.texts for text in texts]
        self._queries = own_queries(model, experts, texts)

    def of(self, texts: Tensor) -> Tensor:
        """q of texts with these numbers, (m, d_q)."""
        return self._queries[texts.to(self._queries.device)]

    def of_edits(self, edits: Tensor) -> tuple[Tensor, Tensor]:
        """q of all texts of these edits, (m, d_q), and the edit of each, (m,) int64."""
        counts = self._counts[edits]
        owners = edits.repeat_interleave(counts)
        before = (counts.cumsum(0) - counts).repeat_interleave(counts)
        numbers = torch.arange(len(owners), device=owners.device) - before
        return self._queries[self._firsts[owners] + numbers], owners


class _StepSampler:
    """Draws the edits of each step, and one text of each: the bare prompt or any other.

    An edit's prompt comes at regular intervals, from a random step on, and its other texts in a
    random order that repeats: drawn independently, some prompts would come three times as often as
    others, and the fit would last as long as the rarest takes.
    """

    def __init__(self, data: TrainingSet, config: ElderConfig, seed: int) -> None:
        self._rng = torch.Generator().manual_seed(seed % 2**63)
        self._num_new = data.num_new
        self._num_replayed = config.num_replayed(data.num_new)
        self._counts, self._firsts = data.counts, data.firsts
        self._share = config.prompt_share
        num, most = len(self._counts), int(self._counts.max())
        self._turn = torch.rand(num, generator=self._rng, dtype=torch.float64)
        self._num_others = torch.zeros(num, dtype=torch.int64)
        rank = torch.rand(num, most, generator=self._rng)
        rank[:, 0] = torch.inf  # the prompt
        rank[torch.arange(most) >= self._counts[:, None]] = torch.inf
        self._order = rank.argsort(1)

    def next(self) -> tuple[Tensor, Tensor]:
        """Indices of edits and of their texts, (m,) int64 each."""
        others = torch.randperm(len(self._counts) - self._num_new, generator=self._rng)
        edits = torch.cat(
            [torch.arange(self._num_new), self._num_new + others[: self._num_replayed]]
        )
        before = self._turn[edits]
        self._turn[edits] = after = before + self._share
        alone = self._counts[edits] == 1
        is_prompt = (after.floor() > before.floor()) | alone
        place = self._num_others[edits] % (self._counts[edits] - 1).clamp(min=1)
        self._num_others[edits] += (~is_prompt).long()
        return edits, self._firsts[edits] + torch.where(is_prompt, 0, self._order[edits, place])


class _Progress:
    """The latest NLL of each text, and the latest losses of each edit's prompt and other texts."""

    def __init__(self, data: TrainingSet) -> None:
        """New edits have not been read yet; replayed ones count once they have been."""
        counts, self._firsts, num_new = data.counts, data.firsts, data.num_new
        self._num_new = num_new
        self._latest = torch.zeros(len(counts), 2, 2)
        self._latest[:num_new] = torch.inf
        self._latest[counts == 1, 1] = 0.0
        edits, self._needed = data.needed
        self._nlls = torch.zeros(int(counts.sum()))
        self._nlls[self._needed[edits < num_new]] = torch.inf

    def record(self, edits: Tensor, texts: Tensor, nll: Tensor, divergence: Tensor) -> None:
        """Records the losses of a text of each edit, (m,) each."""
        found = torch.stack([nll, divergence], dim=1)
        self._latest[edits, (texts != self._firsts[edits]).long()] = found
        self._nlls[texts] = found[:, 0]

    def is_enough(self, config: ElderConfig) -> bool:
        """Whether all prompts and new rephrases are learned, and enough of the rest.

        Enough of the new edits, and of these with the replayed ones: other texts are learned, and
        what follows is nearly as it was.
        """
        if not bool((self._nlls[self._needed] < config.stop_loss).all()):
            return False
        for latest in (self._latest[: self._num_new], self._latest):
            learned, kept = latest[:, 1, 0] < config.stop_loss, latest[..., 1] < _CLOSE
            if min(learned.double().mean(), kept.double().mean()) < config.stop_share:
                return False
        return True


def steering(experts: Experts, queries: Tensor, allocations: Tensor, config: ElderConfig) -> Tensor:
    """The loss term that steers the routers, a mean over rows; a scalar.

    Guided (ELDER eq. 6): −Σ_l Σ_{i∈P^l} log s_i^l, in nats. Balanced (Switch Transformer eq. 4):
    N·Σ_i f_i·P_i of each layer, with the shares f of rows and the mean scores P; its minimum, 1, is
    reached where all experts are used equally.

    Args:
        experts: with the routers to steer.
        queries: (n, d_q).
        allocations: P, (n, L, N) bool.
        config: selects the term.
    """
    if config.loss == "none":
        return queries.new_zeros(())
    scores = experts.scores(queries)
    if config.loss == "guided":
        return -(scores * allocations).sum((1, 2)).mean()
    used = experts.codes(queries).float().mean(0) / experts.shape.top_k
    return (experts.shape.num_experts * used * scores.exp().mean(0)).sum(-1).mean()


@contextmanager
def mixing(model: CausalLM, experts: Experts, gates: Tensor) -> Iterator[None]:
    """Adds the mixture to all rows of the forward passes inside, with gradients.

    Args:
        model: its adapted projections have hooks inside the block.
        experts: of the mixture.
        gates: (n, L, N).
    """
    mixture = experts.mixture()
    claimed = MixtureRows(mixture, torch.arange(len(gates), device=gates.device), gates)

    def mix(index: int, place: Any, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        add_mixture(model, place, output, args[0], claimed, mixture.banks[place], index)
        return output

    with ExitStack() as hooks:
        for index, place in enumerate(mixture.banks):
            layer, part = place
            module = model.down(layer) if part == "down" else model.up(layer)
            handle = module.register_forward_hook(partial(mix, index, place))
            hooks.callback(handle.remove)
        yield
