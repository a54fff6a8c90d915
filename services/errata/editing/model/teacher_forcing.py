"""Losses of a model on texts with targets, for training of blocks from a given one on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.devices import fast_training
from errata.editing.model.prompts import TokenRow, pad_right, target_places
from errata.editing.model.replay import Replay, capture, enter

_AT_ONCE = 64  # texts of similar length that are read together
_STEP_ROWS = 20  # texts of a training step's part on CPU, where padding costs as much as text


class TeacherForcing:
    """Texts with targets; the blocks below the first trained one are computed only once.

    The caller hooks the blocks from there on and computes losses with gradients.
    """

    def __init__(
        self, model: CausalLM, texts: Sequence[TokenRow], first: int, *, bf16: bool
    ) -> None:
        """Runs the model up to block `first` on all texts.

        Args:
            model: frozen; its blocks below `first` must not change afterwards.
            texts: n texts, each with its target.
            first: the first block that training changes.
            bf16: whether products are computed in bf16.
        """
        self._model, self._first = model, first
        self._ids, self._mask = pad_right(model, [text.ids for text in texts])
        self._lengths = self._mask.sum(1).cpu()
        self._at = torch.tensor(target_places(texts), device=model.device)
        self._hidden: Tensor | None = None
        if model.has_equal_layers:
            with fast_training(model.device, bf16=bf16):
                self._hidden = self._below()

    def nll(self, rows: Tensor) -> Tensor:
        """Mean negative log-likelihood of each row's target, (m,) nats, fp32.

        Args:
            rows: (m,) int64, distinct indices of texts.
        """
        model = self._model
        part = self._replay(rows)
        hidden = part.run(part.hidden, part.first, model.num_layers)
        row, column, target = self._places(rows).unbind(1)
        logits = model.head(model.norm(hidden[row, column])).float()
        each = nn.functional.cross_entropy(logits, target, reduction="none")
        total = torch.zeros(len(rows), device=each.device).index_add(0, row, each)
        return total / row.bincount(minlength=len(rows))

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
        for rows in self._lengths.argsort(stable=True).split(_AT_ONCE):
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

    def _places(self, rows: Tensor) -> Tensor:
        """The target positions (row, column, id) of `rows`; rows are renumbered."""
        at = self._at
        number = torch.full((len(self._lengths),), -1, device=at.device)
        number[rows] = torch.arange(len(rows), device=at.device)
        mine = at[number[at[:, 0]] >= 0]
        return torch.stack([number[mine[:, 0]], mine[:, 1], mine[:, 2]], dim=1)
