"""What a model says to texts whose targets it is to learn, above the first block that changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from errata.editing.causal_lm import CausalLM
from errata.editing.prompts import TokenRow, pad_right, target_places
from errata.editing.replay import capture


class TeacherForcing:
    """Texts with targets; what lies below the first changed block is computed once.

    Whoever trains hooks the blocks above, and asks for losses with gradients.
    """

    def __init__(self, model: CausalLM, texts: Sequence[TokenRow], first: int) -> None:
        """Runs the model up to block `first` on all texts.

        Args:
            model: frozen, and as it shall be below `first`.
            texts: n of them, each with its target.
            first: the first block that training changes.
        """
        self._model = model
        ids, mask = pad_right(model, [text.ids for text in texts])
        self._lengths = mask.sum(1).cpu()
        self._replay = capture(model, ids, mask, first=first)
        self._at = torch.tensor(target_places(texts), device=model.device)

    def nll(self, rows: Tensor) -> Tensor:
        """Mean negative log-likelihood of each row's target, (m,) nats, fp32.

        Args:
            rows: (m,) int64, numbers of texts, each once.
        """
        model, replay = self._model, self._replay
        width = int(self._lengths[rows.cpu()].max())
        part = replay.rows(rows, width)
        hidden = part.run(part.hidden, part.first, model.num_layers)
        row, column, target = self._places(rows).unbind(1)
        logits = model.head(model.norm(hidden[row, column])).float()
        each = nn.functional.cross_entropy(logits, target, reduction="none")
        total = torch.zeros(len(rows), device=each.device).index_add(0, row, each)
        return total / row.bincount(minlength=len(rows))

    def _places(self, rows: Tensor) -> Tensor:
        """Those target places (row, column, id) that belong to `rows`, renumbered."""
        at = self._at
        number = torch.full((len(self._lengths),), -1, device=at.device)
        number[rows] = torch.arange(len(rows), device=at.device)
        mine = at[number[at[:, 0]] >= 0]
        return torch.stack([number[mine[:, 0]], mine[:, 1], mine[:, 2]], dim=1)
