"""Losses of a model on texts with targets, for training of blocks from a given one on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.continuation import AT_ONCE, continued
from errata.editing.model.devices import fast_training
from errata.editing.model.prompts import TokenRow, pad_right, target_places
from errata.editing.model.replay import Replay, capture, enter

_STEP_ROWS = 20  # texts of a training step's part on CPU, where padding costs as much as text


class TeacherForcing:
    """Texts with targets; the blocks below the first trained one are computed only once.

    The caller hooks the blocks from there on and computes losses with gradients.
    """

    def __init__(
        self,
        model: CausalLM,
        texts: Sequence[TokenRow],
        first: int,
        *,
        bf16: bool,
        num_following: int = 0,
        seed: int = 0,
    ) -> None:
        """Runs the model up to block `first` on all texts.

        Args:
            model: frozen; its blocks below `first` must not change afterwards.
            texts: n texts, each with its target.
            first: the first block that training changes.
            bf16: whether products are computed in bf16.
            num_following: number of tokens after each target whose likelihoods shall stay what they
                are; with any, the whole model runs.
            seed: of the draws of these tokens.
        """
        self._model, self._first = model, first
        self._hidden: Tensor | None = None
        self._after: Tensor | None = None
        if num_following:
            with fast_training(model.device, bf16=bf16):
                found = continued(model, texts, num_following, block=first, seed=seed)
            texts, self._after, self._next_tokens = found.texts, found.places, found.next_tokens
            self._hidden = found.hidden if model.has_equal_layers else None
        self._ids, self._mask = pad_right(model, [text.ids for text in texts])
        self._lengths = self._mask.sum(1).cpu()
        self._at = torch.tensor(target_places(texts), device=model.device)
        if model.has_equal_layers and not num_following:
            with fast_training(model.device, bf16=bf16):
                self._hidden = self._below()

    def losses(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The two losses of each row, (m,) nats each, fp32.

        Args:
            rows: (m,) int64, distinct indices of texts.

        Returns:
            The mean negative log-likelihood of its target; and the mean KL(untrained ‖ trained) of
            the tokens that follow it, zero without `num_following`.
        """
        model = self._model
        part = self._replay(rows)
        hidden = part.run(part.hidden, part.first, model.num_layers)
        row, column, target = self._places(self._at, rows).unbind(1)
        num = len(row)
        if self._after is not None:
            places = self._places(self._after, rows)
            row = torch.cat([row, places[:, 0]])
            column = torch.cat([column, places[:, 1]])
        logits = model.head(model.norm(hidden[row, column])).float()
        each = nn.functional.cross_entropy(logits[:num], target, reduction="none")
        nll = _means(each, row[:num], len(rows))
        if self._after is None:
            return nll, torch.zeros_like(nll)
        each = self._next_tokens.divergence(logits[num:], places[:, 2])
        return nll, _means(each, row[num:], len(rows))

    def alike(self, rows: Tensor) -> Sequence[Tensor]:
        """Splits indices into `rows` into parts, (≤ m) int64 each, by similar text length.

        The parts have the same losses as the whole, with less padding.
        """
        order = self._lengths[rows.cpu()].argsort(stable=True).to(rows.device)
        return order.split(_STEP_ROWS) if rows.device.type == "cpu" else (order,)

    def _below(self) -> Tensor:
        """The input of block `first`, (n, T, d)."""
        width = self._ids.shape[1]
        made = torch.zeros(len(self._ids), width, self._model.d, device=self._ids.device)
        for rows in self._lengths.argsort(stable=True).split(AT_ONCE):
            length = int(self._lengths[rows].max())
            ids, mask = self._ids[rows, :length], self._mask[rows, :length]
            made[rows, :length] = enter(self._model, ids, mask, block=self._first).hidden.float()
        return made

    def _replay(self, rows: Tensor) -> Replay:
        """The blocks from `first` on, for these rows."""
        length = int(self._lengths[rows.cpu()].max())
        ids, mask = self._ids[rows, :length], self._mask[rows, :length]
        if self._hidden is None:  # the blocks' arguments may differ: record all of them
            return capture(self._model, ids, mask, first=self._first)
        calls = enter(self._model, ids, mask, block=0).calls
        hidden = self._hidden[rows, :length].to(self._model.dtype)
        return Replay(self._model, self._first, hidden, calls[self._first :])

    def _places(self, at: Tensor, rows: Tensor) -> Tensor:
        """Those of (row, column, number) that are of `rows`; rows are renumbered."""
        number = torch.full((len(self._lengths),), -1, device=at.device)
        number[rows] = torch.arange(len(rows), device=at.device)
        mine = at[number[at[:, 0]] >= 0]
        return torch.cat([number[mine[:, :1]], mine[:, 1:]], dim=1)


def _means(values: Tensor, groups: Tensor, num: int) -> Tensor:
    """The mean of each group, (num,)."""
    total = torch.zeros(num, device=values.device).index_add(0, groups, values)
    return total / groups.bincount(minlength=num)
