"""MEMOIR: a residual memory whose columns a prompt's activations select (Wang et al. 2025).

Beside one FFN's down projection W lies a memory V, zero at first: y = W·a + V·(m ⊙ a), for all
tokens of a text. The mask comes from the prompt (TopHash): the k largest entries, in magnitude, of
the mean of a over its tokens less the mean over other texts, then moved by a fixed random
permutation, so that edits do not share the few columns that are large for all texts.

An edit keeps its mask mᵢ and trains the columns in it: on its prompt, alone and after ten short
texts, always with the prompt's mask and with gradients clipped to a norm of 1. A prompt takes the
mask of the edit whose mask has most in common with its own, m = mᵢ, if |m(x) ∧ mᵢ| ≥ τ·k; otherwise
the memory is off.

The other texts are the model's own, where the authors take a data set's. Training stops at a loss,
not also where the loss no longer changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

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
from errata.evaluation.baselines.texts import NUM_PREFIXES, own_texts, prefixed_rows
from errata.evaluation.data.record import Record
from errata.evaluation.systems import EditOutcome
from errata.evaluation.systems.local import LocalModel

_WEIGHT_DECAY, _MAX_NORM = 1e-5, 1.0  # theirs


class MemoirConfig(LaneConfig):
    """Settings of MEMOIR.

    Attributes:
        layer: of the memory; None takes 27/32 of the depth, as for LLaMA3-8B.
        share: k / d_ff, of the columns that an edit trains. Theirs: 4,096 / 14,336.
        threshold: τ, the smallest share of a mask that a prompt must have in common with an edit's.
            Theirs: 0.4 for ZsRE.
        steps: of an edit's training. Theirs: 30.
        learning_rate: of SGD. Theirs: 1.
        stop_loss: training of an edit stops below this mean NLL of the answer's tokens. Theirs:
            0.02.
        seed: of the permutation, and of the texts that the model writes.
    """

    layer: int | None = Field(default=None, ge=0)
    share: float = Field(default=4096 / 14336, gt=0.0, le=1.0)
    threshold: float = Field(default=0.4, ge=0.0, le=1.0)
    steps: int = Field(default=30, ge=1)
    learning_rate: float = Field(default=1.0, gt=0.0)
    stop_loss: float = Field(default=2e-2, ge=0.0)
    seed: int = Field(default=0, ge=0)


class TopHash:
    """Masks of prompts.

    Attributes:
        num_active: k.
    """

    def __init__(self, mean: Tensor, num_active: int, seed: int) -> None:
        """Draws the permutation.

        Args:
            mean: (d_ff,) fp32, is subtracted from activations.
            num_active: k.
            seed: of the permutation.
        """
        self.num_active, self._mean = num_active, mean
        generator = torch.Generator().manual_seed(seed)
        self._places = torch.randperm(len(mean), generator=generator).to(mean.device)

    def masks(self, activations: Tensor) -> Tensor:
        """m of mean activations (n, d_ff) as (n, d_ff) bool, k of them true in each row."""
        largest = (activations - self._mean).abs().topk(self.num_active, dim=-1).indices
        masks = torch.zeros(activations.shape, dtype=torch.bool, device=activations.device)
        return masks.scatter(-1, self._places[largest], value=True)


class Memoir(LocalModel):
    """A model with a residual memory at one layer; its own weights do not change."""

    def __init__(self, model: CausalLM, config: MemoirConfig) -> None:
        """Lets the model write the other texts, and measures their mean activations.

        Raises:
            InvalidRequestError: no such layer.
            FitError: as `own_texts`.
        """
        super().__init__(model)
        self._config, self._layer = config, chosen_layer(model, config.layer, 27 / 32)
        texts = own_texts(model, config.seed)
        self._prefixes = texts[:NUM_PREFIXES]
        mean = self._means([tokenise(model, text).ids for text in texts]).mean(0)
        num_active = max(1, round(config.share * model.d_ff))
        self.hash = TopHash(mean, num_active, config.seed)
        self.reset()

    @property
    def state_bytes(self) -> int:
        """Bytes of the memory, and of masks with a bit for each column."""
        return self.memory.numel() * self.memory.element_size() + self.masks.numel() // 8

    def reset(self) -> None:
        """An empty memory without masks."""
        model = self.model
        self.memory = torch.zeros(model.d, model.d_ff, device=model.device)
        self.masks = torch.zeros(0, model.d_ff, dtype=torch.bool, device=model.device)

    def edit(self, records: Sequence[Record]) -> EditOutcome:
        """Trains the memory on one record after another, as published."""
        start = perf_counter()
        prompts = [tokenise(self.model, record.prompt).ids for record in records]
        masks = self.hash.masks(self._means(prompts))
        for record, mask in zip(records, masks, strict=True):
            self._train(record, mask)
        self.masks = torch.cat([self.masks, masks])
        return EditOutcome(rejected=(), seconds=perf_counter() - start)

    def matched(self, masks: Tensor) -> Tensor:
        """The masks (n, d_ff) fp32 with which prompts with these masks read the memory."""
        if not len(self.masks):
            return torch.zeros(masks.shape, device=masks.device)
        common = masks.float() @ self.masks.float().T / self.hash.num_active
        most, nearest = common.max(dim=-1)
        is_known = most >= self._config.threshold
        return self.masks[nearest].float() * is_known[:, None]

    @contextmanager
    def _reading(self, prompts: Sequence[Sequence[int]]) -> Iterator[None]:
        lengths = [len(prompt) for prompt in prompts]
        held: list[Tensor] = []  # what the prompt selects holds for what follows it

        def more(hidden: Tensor) -> Tensor | None:
            if not len(self.masks):
                return None
            if not held:
                held.append(self.matched(self.hash.masks(prompt_means(hidden, lengths))))
            return (hidden * held[0][:, None]) @ self.memory.T

        with added(self.model, self._layer, more):
            yield

    def _means(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """The mean of each prompt's activations, (n, d_ff) fp32."""
        lengths = [len(prompt) for prompt in prompts]
        return prompt_means(activations(self.model, prompts, self._layer), lengths)

    def _train(self, record: Record, mask: Tensor) -> None:
        """SGD on the columns of a mask; the others' gradients would be zero."""
        model, layer, config = self.model, self._layer, self._config
        rows = prefixed_rows(model, record, self._prefixes)
        forced = TeacherForcing(model, rows, layer, bf16=False)
        every = torch.arange(len(rows), device=model.device)
        chosen = mask.nonzero()[:, 0]
        columns = self.memory[:, chosen].requires_grad_(True)
        optimiser = torch.optim.SGD([columns], config.learning_rate, weight_decay=_WEIGHT_DECAY)

        def more(hidden: Tensor) -> Tensor:
            return hidden[..., chosen] @ columns.T

        with added(model, layer, more):
            for _ in range(config.steps):
                optimiser.zero_grad()
                with torch.enable_grad():
                    loss = forced.losses(every)[0].mean()
                    loss.backward()
                if float(loss.detach()) < config.stop_loss:
                    break
                nn.utils.clip_grad_norm_([columns], _MAX_NORM)
                optimiser.step()
        self.memory[:, chosen] = columns.detach()
