"""GRACE: a codebook of keys and values at one layer (Hartvigsen et al. 2023).

A query is the input of one FFN's down projection at the prompt's last token. Within the radius εᵢ
of its nearest key, the layer's output there is replaced by that key's value. An edit whose query
lies in a ball with the same answer changes nothing; near such a ball, it widens the ball; near a
ball with another answer, both get half their distance as radius; else it adds a key with radius ε.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from errata.editing.lane.contract import LaneConfig
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import TokenRow, target_places, tokenise
from errata.editing.model.replay import Replay, capture_suffix
from errata.evaluation.baselines.activations import chosen_layer
from errata.evaluation.data.record import Record
from errata.evaluation.systems import EditOutcome
from errata.evaluation.systems.local import LocalModel

_ROWS = 64  # values that are trained together


class GraceConfig(LaneConfig):
    """Settings of GRACE.

    Attributes:
        layer: of the codebook; None takes 27/32 of the depth, as for LLaMA2-7B.
        epsilon: radius of a new key, in units of the query space. Theirs: 1.
        steps: of a value's training. Theirs: 100.
        learning_rate: of Adam. Theirs: 1.
        stop_loss: training of a value stops below this NLL.
    """

    layer: int | None = Field(default=None, ge=0)
    epsilon: float = Field(default=1.0, gt=0.0)
    steps: int = Field(default=100, ge=1)
    learning_rate: float = Field(default=1.0, gt=0.0)
    stop_loss: float = Field(default=1e-2, ge=0.0)


class Codebook:
    """Keys with a radius, a value and the answer that the value was trained for.

    Attributes:
        keys: (n, d_ff) fp32.
        radii: (n,) fp32.
        values: (n, d) fp32.
        answers: n texts.
    """

    def __init__(self, width: int, out: int, device: torch.device) -> None:
        """Makes an empty codebook."""
        self.keys = torch.zeros(0, width, device=device)
        self.radii = torch.zeros(0, device=device)
        self.values = torch.zeros(0, out, device=device)
        self.answers: list[str] = []

    def add(self, key: Tensor, answer: str, epsilon: float) -> bool:
        """Adds a key for an edit, or widens a key with the same answer.

        Args:
            key: (d_ff,).
            answer: of the edit.
            epsilon: radius of a new key.

        Returns:
            Whether a key was added; its value is not trained yet.
        """
        radius = epsilon
        if self.answers:
            distance, index = (self.keys - key).norm(dim=-1).min(dim=0)
            nearest = int(index)
            if float(distance) <= float(self.radii[nearest]) + epsilon:
                if self.answers[nearest] == answer:
                    self.radii[nearest] = torch.maximum(self.radii[nearest], distance)
                    return False
                radius = float(distance) / 2
                self.radii[nearest] = radius
        self.keys = torch.cat([self.keys, key[None]])
        self.radii = torch.cat([self.radii, self.radii.new_tensor([radius])])
        self.values = torch.cat([self.values, self.values.new_zeros(1, self.values.shape[1])])
        self.answers.append(answer)
        return True

    def look_up(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """The values for queries within the radius of their nearest key.

        Args:
            queries: (B, d_ff).

        Returns:
            (B,) bool, whether within the radius; (B, d) fp32 values, meaningless for other rows.
        """
        # Distances by matrix products would not be zero between equal rows, because of rounding.
        exact = "donot_use_mm_for_euclid_dist"
        distances = torch.cdist(queries.float(), self.keys, compute_mode=exact)
        distance, index = distances.min(dim=-1)
        return distance <= self.radii[index], self.values[index]


class Grace(LocalModel):
    """A model with a codebook; its weights do not change."""

    def __init__(self, model: CausalLM, config: GraceConfig) -> None:
        """Starts with an empty codebook.

        Raises:
            InvalidRequestError: no such layer.
        """
        super().__init__(model)
        self._config, self._layer = config, chosen_layer(model, config.layer, 27 / 32)
        self.reset()

    @property
    def state_bytes(self) -> int:
        """Bytes of keys, radii and values."""
        book = self.codebook
        return sum(x.numel() * x.element_size() for x in (book.keys, book.radii, book.values))

    def edit(self, records: Sequence[Record]) -> EditOutcome:
        """Adds keys in order; trains their values together, since they are independent."""
        start = perf_counter()
        for first in range(0, len(records), _ROWS):
            self._add(records[first : first + _ROWS])
        return EditOutcome(rejected=(), seconds=perf_counter() - start)

    def _add(self, records: Sequence[Record]) -> None:
        rows = [tokenise(self.model, record.prompt, record.target_new) for record in records]
        lasts = [len(row.ids) - row.num_target - 1 for row in rows]
        ids = [row.ids[:-1] for row in rows]  # the last token is predicted, never read
        replay = capture_suffix(self.model, ids, lasts, first=self._layer)
        keys, initial = self._observe(replay)
        new = [
            i
            for i, record in enumerate(records)
            if self.codebook.add(keys[i], record.target_new, self._config.epsilon)
        ]
        if new:
            values = self._train(replay, rows, initial)
            self.codebook.values[-len(new) :] = values[new]

    def reset(self) -> None:
        """Empties the codebook."""
        self.codebook = Codebook(self.model.d_ff, self.model.d, self.model.device)

    @contextmanager
    def _reading(self, prompts: Sequence[Sequence[int]]) -> Iterator[None]:
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self.model.device)
        rows = torch.arange(len(prompts), device=self.model.device)
        has_read = False

        def replace(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            nonlocal has_read
            if has_read or not self.codebook.answers:
                return output  # later passes read what follows the prompt
            has_read = True
            inputs, old = self.model.by_row(args[0]), self.model.by_row(output)
            reached, values = self.codebook.look_up(inputs[rows, last])
            changed = torch.where(reached[:, None], values.to(old.dtype), old[rows, last])
            return old.index_put((rows, last), changed).view_as(output)

        handle = self.model.down(self._layer).register_forward_hook(replace)
        try:
            yield
        finally:
            handle.remove()

    def _observe(self, replay: Replay) -> tuple[Tensor, Tensor]:
        """The layer's input and output at the prompts' last tokens, (u, d_ff) and (u, d)."""
        seen: list[Tensor] = []

        def note(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            parts = self.model.by_row(args[0]), self.model.by_row(output)
            seen.extend(part[:, 0].float() for part in parts)

        handle = self.model.down(self._layer).register_forward_hook(note)
        try:
            with torch.no_grad():
                replay.run(replay.hidden, self._layer, self._layer + 1)
        finally:
            handle.remove()
        return seen[0], seen[1]

    def _train(self, replay: Replay, rows: Sequence[TokenRow], initial: Tensor) -> Tensor:
        """Values (u, d) that make the model give the answers."""
        row_of, column_of, label = torch.tensor(target_places(rows), device=self.model.device).T
        lasts = torch.tensor([len(row.ids) - row.num_target - 1 for row in rows])
        column_of = column_of - lasts.to(self.model.device)[row_of]  # the replay starts there
        sizes = torch.tensor([row.num_target for row in rows], device=self.model.device)
        values = initial.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([values], lr=self._config.learning_rate)

        def put(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            first = values[:, None].to(output.dtype)
            rest = self.model.by_row(output)[:, 1:]
            return torch.cat([first, rest], dim=1).view_as(output)

        best, least = initial.clone(), torch.full((len(rows),), torch.inf, device=initial.device)
        handle = self.model.down(self._layer).register_forward_hook(put)
        try:
            for _ in range(self._config.steps):
                optimiser.zero_grad()
                with torch.enable_grad():
                    hidden = replay.run(replay.hidden, self._layer, self.model.num_layers)
                    logits = self.model.head(self.model.norm(hidden[row_of, column_of])).float()
                    nll = torch.nn.functional.cross_entropy(logits, label, reduction="none")
                    losses = torch.zeros(len(rows), device=nll.device)
                    losses = losses.index_add(0, row_of, nll / sizes[row_of])
                    losses.sum().backward()
                better = losses.detach() < least
                best[better], least[better] = values.detach()[better], losses.detach()[better]
                if bool((least < self._config.stop_loss).all()):
                    break
                optimiser.step()
        finally:
            handle.remove()
        return best
