"""Target vectors: the values that layer L should compute at the edits' last subject tokens.

All edits of a batch are optimised in one loop. A vector added at a token does not change earlier
tokens, so the prefixes run once, and each step runs only the suffixes, from layer L on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.contexts import prompts_of
from errata.editing.edit import Edit
from errata.editing.model.blocks import first_output
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import TokenRow, target_places, tokenise, tokenise_if_fits
from errata.editing.model.replay import Replay, capture_suffix

REGATHER_SHARE = 0.6
"""The suffixes are gathered again when at most this share of the edits is still optimised."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Result of the optimisation, fp32.

    Attributes:
        values: z, (u, d): value of m^L (or h^L) plus δ^m at the bare prompt.
        loss: (u,), mean NLL of the target over contexts when the edit stopped.
        steps: number of optimisation steps.
    """

    values: Tensor
    loss: Tensor
    steps: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the model says about each edit of a problem, (u,) fp32 each.

    Attributes:
        loss: mean NLL of the target over tokens, then over contexts.
        divergence: KL(edited ‖ base) on `kl_prompt`.
        num_wrong: target tokens that are not the likeliest, in all contexts together.
    """

    loss: Tensor
    divergence: Tensor
    num_wrong: Tensor


class TargetProblem:
    """Loss of δ^a and δ^m for the edits of a batch (AdaPLE step 1; PMET).

    Rows are edit-major. Each edit has one row for each context that leaves room for it, always
    including the bare prompt, and then its KL row.
    """

    def __init__(
        self,
        model: CausalLM,
        edits: Sequence[Edit],
        contexts: Sequence[str],
        config: AdapleConfig,
        layer: int,
    ) -> None:
        """Tokenises the texts and runs the prefixes.

        Raises:
            InvalidEditError: a subject is not in its prompt, or a text is too long.
        """
        self._model, self._layer, self._config = model, layer, config
        self.num_edits = len(edits)
        rows: list[TokenRow] = []
        owner: list[int] = []
        for number, edit in enumerate(edits):
            rows += _target_rows(model, edit, contexts)
            if config.kl_weight:
                text = config.kl_prompt.replace("{}", edit.subject)
                row = tokenise_if_fits(model, text, subject=edit.subject)
                # If the KL prompt leaves no room for the subject, the subject stands alone.
                rows.append(row or tokenise(model, edit.subject, subject=edit.subject))
            owner += [number] * (len(rows) - len(owner))
        self.owner = torch.tensor(owner, device=model.device)  # (rows,)
        self._index(rows)
        # The last target token is predicted, but is not an input.
        ids = [row.ids[:-1] if row.num_target else row.ids for row in rows]
        splits = [row.subject_index for row in rows]
        self.replay: Replay = capture_suffix(model, ids, splits, first=layer)
        self.base_log_probs = self._compute_base_log_probs() if config.kl_weight else None

    def _index(self, rows: Sequence[TokenRow]) -> None:
        """Sets which (row, column) predicts which token, and where KL is measured."""
        # Columns of the replay, which starts at the subject's last token.
        places = [
            (number, column - rows[number].subject_index, target)
            for number, column, target in target_places(rows)
        ]
        kl = [
            (number, len(row.ids) - 1 - row.subject_index)
            for number, row in enumerate(rows)
            if not row.num_target
        ]
        device = self._model.device
        self._row, self._column, self._label = torch.tensor(places, device=device).T
        self._kl = torch.tensor(kl, dtype=torch.long, device=device).reshape(-1, 2).T
        owner = self.owner[self._row]
        per_row = torch.bincount(self._row, minlength=len(rows))
        num_contexts = torch.bincount(self.owner[self._row.unique()], minlength=self.num_edits)
        # Mean over tokens, then over contexts.
        self._weight = 1.0 / (per_row[self._row] * num_contexts[owner])

    @torch.no_grad()
    def _compute_base_log_probs(self) -> Tensor:
        hidden = self.replay.run(self.replay.hidden, self._layer, self._model.num_layers)
        return self._log_probs(hidden[self._kl[0], self._kl[1]])

    def _log_probs(self, hidden: Tensor) -> Tensor:
        log_probs: Tensor = self._model.head(self._model.norm(hidden)).float().log_softmax(-1)
        return log_probs

    def loss(self, attention: Tensor | None, ffn: Tensor) -> tuple[Tensor, Tensor]:
        """NLL and KL of each edit, with δ^a and δ^m added at the last subject token.

        Args:
            attention: δ^a, (u, d) fp32, or None for none.
            ffn: δ^m, (u, d) fp32.

        Returns:
            Mean NLL of the target over contexts, and KL(edited ‖ base); both (u,) fp32.
        """
        added = {self._model.down(self._layer): ffn}
        if attention is not None:
            added = {self._model.attention(self._layer): attention, **added}
        found = self.outcome(added)
        return found.loss, found.divergence

    def outcome(self, added: Mapping[nn.Module, Tensor]) -> Outcome:
        """What the model says with vectors added to outputs at the last subject token.

        Args:
            added: module of block `layer` or a later one → (u, d) fp32, added to its output.
        """
        model = self._model
        with ExitStack() as hooks:
            for module, delta in added.items():
                hook = _add_first(model, delta[self.owner])
                hooks.callback(module.register_forward_hook(hook).remove)
            hidden = self.replay.run(self.replay.hidden, self._layer, model.num_layers)
        rows = torch.cat([self._row, self._kl[0]])
        columns = torch.cat([self._column, self._kl[1]])
        scores = self._log_probs(hidden[rows, columns])
        target_scores, kl_scores = scores.tensor_split([len(self._row)])
        nll = -target_scores.gather(-1, self._label[:, None])[:, 0] * self._weight
        is_wrong = target_scores.detach().argmax(-1) != self._label
        owner, zeros = self.owner[self._row], torch.zeros(self.num_edits, device=nll.device)
        total = zeros.index_add(0, owner, nll)
        num_wrong = zeros.index_add(0, owner, is_wrong.float())
        if self.base_log_probs is None:
            return Outcome(total, zeros, num_wrong)
        divergence = (kl_scores.exp() * (kl_scores - self.base_log_probs)).sum(-1)
        return Outcome(total, zeros.index_add(0, self.owner[self._kl[0]], divergence), num_wrong)


def _add_first(model: CausalLM, delta: Tensor) -> Any:
    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        own = first_output(output)
        old = model.by_row(own)
        first = (old[:, :1] + delta[:, None].to(old.dtype)).to(old.dtype)
        new = torch.cat([first, old[:, 1:]], dim=1).view_as(own)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return hook


def optimise_targets(
    model: CausalLM,
    edits: Sequence[Edit],
    contexts: Sequence[str],
    config: AdapleConfig,
    layer: int,
    initial: Tensor,
    reference: Tensor,
) -> Targets:
    """Optimises δ^a and δ^m jointly with Adam and keeps z = m^L + δ^m.

    The step and the radius are shares of ‖h^L‖, because absolute values would fit one model only.
    m^L is the output of the down projection: the value that a change of its weight can reach, also
    where a norm or a multiplier follows.
    An edit stops when its NLL is below `stop_loss`. Deterministic; no random numbers.

    Args:
        model: unchanged afterwards.
        edits: the batch.
        contexts: templates; the bare prompt first.
        config: of the lane.
        layer: L.
        initial: m^L (or h^L) at the last subject token of the bare prompts, (u, d) fp32.
        reference: ‖h^L‖ there, (u,) fp32; or in units of FFN and of attention, (2, u) fp32.

    Raises:
        InvalidEditError: a subject is not in its prompt, or a text is too long.
    """
    size, width = initial.shape
    num_deltas = 2 if config.attention_delta else 1
    state = _Adam((num_deltas, size, width), config.step_size, initial.device)
    reference = reference.reshape(-1, size)[:num_deltas].expand(num_deltas, size)
    scale = (reference / width**0.5)[..., None]  # (deltas, u, 1)
    radius = config.clamp * width**0.5  # of x, where δ = scale · x
    last = torch.full((size,), torch.inf, device=initial.device)
    active = torch.arange(size, device=initial.device)
    problem = TargetProblem(model, edits, contexts, config, layer)
    gathered, num_steps = active, 0  # gathered: the edits of `problem`
    for _ in range(config.steps):
        x = state.value[:, gathered].requires_grad_(True)
        deltas = x * scale[:, gathered]
        with torch.enable_grad():
            nll, divergence = problem.loss(deltas[1] if num_deltas == 2 else None, deltas[0])
            decay = config.weight_decay * x.square().sum((0, 2)) / width
            (gradient,) = torch.autograd.grad(
                (nll + config.kl_weight * divergence + decay).sum(), x
            )
        last[gathered] = torch.where(torch.isin(gathered, active), nll.detach(), last[gathered])
        is_moving = torch.isin(gathered, active) & (nll.detach() >= config.stop_loss)
        if not bool(is_moving.any()):
            break
        active = gathered[is_moving]
        state.step(active, gradient[:, is_moving], radius)
        num_steps += 1
        if len(active) <= REGATHER_SHARE * len(gathered):
            gathered = active
            chosen = [edits[int(i)] for i in gathered]
            problem = TargetProblem(model, chosen, contexts, config, layer)
    return Targets(values=initial + state.value[0] * scale[0], loss=last, steps=num_steps)


def _target_rows(model: CausalLM, edit: Edit, contexts: Sequence[str]) -> list[TokenRow]:
    """The edit's prompt and target in each context that leaves room for them."""
    found = [
        tokenise_if_fits(
            model,
            prompt,
            edit.target,
            subject=edit.subject,
            stated=edit.separator_of(prompt),
        )
        for prompt in prompts_of(model, edit, contexts)
    ]
    return [row for row in found if row is not None]


class _Adam:
    """Adam on (deltas, u, d) for edits that still move; the others keep values and moments."""

    def __init__(self, shape: tuple[int, int, int], step: float, device: torch.device) -> None:
        self.value = torch.zeros(shape, device=device)
        self._first = torch.zeros(shape, device=device)
        self._second = torch.zeros(shape, device=device)
        self._step = step
        self._count = 0

    def step(self, rows: Tensor, gradient: Tensor, radius: float) -> None:
        """Moves `rows` by one step, then projects onto the ball of `radius`.

        Args:
            rows: numbers of the n edits that move.
            gradient: (deltas, n, d).
            radius: of the values.
        """
        # An edit that stopped never moves again, so one step count is valid for all that move.
        self._count += 1
        first = self._first[:, rows].lerp(gradient, 0.1)
        second = self._second[:, rows].lerp(gradient.square(), 0.001)
        self._first[:, rows], self._second[:, rows] = first, second
        first = first / (1 - 0.9**self._count)
        second = second / (1 - 0.999**self._count)
        value = self.value[:, rows] - self._step * first / (second.sqrt() + 1e-8)
        norm = value.norm(dim=-1, keepdim=True)
        self.value[:, rows] = value * (radius / norm.clamp(min=radius))
