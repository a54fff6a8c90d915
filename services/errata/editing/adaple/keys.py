"""Keys and current values: activations of the edited layers at the last subject token."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.contexts import prompts_of
from errata.editing.chat import Prompt
from errata.editing.edit import Edit
from errata.editing.model.blocks import first_output
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import pad_right, tokenise, tokenise_if_fits
from errata.editing.model.replay import Replay, capture

_TINY = 1e-12


class Probe:
    """Reads activations at the last subject tokens of texts while lower layers are edited.

    Texts end at the last subject token, because later tokens cannot change its activations. The
    probe keeps the block inputs: after an edit of layer l, only blocks from l on run again.
    """

    def __init__(
        self, model: CausalLM, rows: Sequence[Sequence[int]], layers: Sequence[int]
    ) -> None:
        """Runs the texts up to the first edited layer.

        Args:
            model: with the weights from before the fit.
            rows: token ids up to and including the last subject token.
            layers: edited layers, ascending.
        """
        ids, mask = pad_right(model, rows)
        self._model, self._last = model, layers[-1]
        self._replay: Replay = capture(model, ids, mask, first=layers[0], stop=layers[-1] + 1)
        self._first = layers[0]
        self.rewind()
        self._row = torch.arange(len(rows), device=model.device)
        self._column = mask.sum(-1) - 1

    def rewind(self) -> None:
        """Returns to the first edited layer."""
        self._hidden, self._block = self._replay.hidden, self._first

    @torch.no_grad()
    def advance(self, layer: int) -> None:
        """Computes the input of block `layer` with the current weights."""
        self._hidden = self._replay.run(self._hidden, self._block, layer)
        self._block = layer

    @torch.no_grad()
    def keys(self) -> Tensor:
        """Input of the down projection of the current layer, (rows, d_ff)."""
        recorded: list[Tensor] = []

        def record(_: nn.Module, args: tuple[Any, ...]) -> None:
            recorded.append(self._model.by_row(args[0])[self._row, self._column])

        handle = self._model.down(self._block).register_forward_pre_hook(record)
        with ExitStack() as hooks:
            hooks.callback(handle.remove)
            self._replay.run(self._hidden, self._block, self._block + 1)
        return recorded[0]

    @torch.no_grad()
    def values(self) -> tuple[Tensor, Tensor]:
        """m^L and h^L with the current weights, each (rows, d) fp32."""
        (values,), hidden = self._outputs([self._model.down(self._last)], self._last)
        return values, hidden

    @torch.no_grad()
    def gains(self, layer: int) -> tuple[Tensor, Tensor]:
        """Norms of outputs relative to what they add to the residual stream, (rows,) fp32 each.

        Where outputs are added as they are, both are 1. A multiplier s makes both 1/s. A norm of
        the output follows its direction only: to first order, it passes on a change that is small
        relative to the output as an equally small change relative to the normed output.

        Returns:
            Of the FFN's and of the attention's output at a layer, with the current weights.
        """
        model = self._model
        if model.adds_plainly:
            ones = torch.ones(len(self._row), device=self._row.device)
            return ones, ones
        ffn, attention = model.down(layer), model.attention(layer)
        added = model.ffn_norm(layer) or ffn, model.attention_norm(layer) or attention
        outputs, _ = self._outputs([ffn, added[0], attention, added[1]], layer)
        m, f, a, b = (part.norm(dim=-1) for part in outputs)
        return tuple(
            output / (model.residual_multiplier * entering).clamp(min=_TINY)
            for output, entering in ((m, f), (a, b))
        )

    def _outputs(self, modules: Sequence[nn.Module], layer: int) -> tuple[list[Tensor], Tensor]:
        """Outputs of modules and of block `layer` at the rows' tokens, (rows, d) fp32 each."""
        recorded: dict[nn.Module, Tensor] = {}

        def record(module: nn.Module, _: Any, output: Any) -> None:
            own = self._model.by_row(first_output(output))
            recorded[module] = own[self._row, self._column].float()

        with ExitStack() as hooks:
            for module in set(modules):
                hooks.callback(module.register_forward_hook(record).remove)
            hidden = self._replay.run(self._hidden, self._block, layer + 1)
        return [recorded[module] for module in modules], hidden[self._row, self._column].float()


def prompt_rows(
    model: CausalLM, edits: Sequence[Edit], contexts: Sequence[str]
) -> list[list[tuple[int, ...]]]:
    """Token ids of the edits' prompts up to the last subject token, for each of `prompts_of`.

    If a context leaves no room for the prompt, its row has the prompt without the context.

    Raises:
        InvalidEditError: a subject is not in its prompt, or a prompt is too long.
    """
    asked = [prompts_of(model, edit, contexts) for edit in edits]
    return [
        [
            _row(model, prompt, edit.prompt, edit.subject)
            for prompt, edit in zip(prompts, edits, strict=True)
        ]
        for prompts in zip(*asked, strict=True)
    ]


def subject_rows(model: CausalLM, edits: Sequence[Edit], template: str) -> list[tuple[int, ...]]:
    """Token ids of each edit's subject alone in a context."""
    return [
        _row(model, template.replace("{}", edit.subject), edit.subject, edit.subject)
        for edit in edits
    ]


def _row(model: CausalLM, prompt: Prompt, bare: Prompt, subject: str) -> tuple[int, ...]:
    row = tokenise_if_fits(model, prompt, subject=subject)
    if row is None:
        row = tokenise(model, bare, subject=subject)
    return row.ids[: row.subject_index + 1]


class KeyProbes:
    """Keys of a batch, averaged over contexts, and current values at the bare prompts."""

    def __init__(
        self,
        model: CausalLM,
        edits: Sequence[Edit],
        contexts: Sequence[str],
        config: AdapleConfig,
        layers: Sequence[int],
    ) -> None:
        """Tokenises and runs all texts up to the first edited layer.

        Args:
            model: with the weights from before the fit.
            edits: the batch.
            contexts: templates; the bare prompt first.
            config: of the lane.
            layers: edited layers, ascending.
        """
        self._half = config.prompt_weight == "half"
        bare, *in_contexts = prompt_rows(model, edits, contexts)
        others = [row for rows in in_contexts for row in rows]
        if config.subject_keys:
            others += [row for text in contexts for row in subject_rows(model, edits, text)]
        self._bare = Probe(model, bare, layers)
        self._others = Probe(model, others, layers) if others else None

    def rewind(self) -> None:
        """Returns to the first edited layer."""
        self._bare.rewind()
        if self._others is not None:
            self._others.rewind()

    def advance(self, layer: int) -> None:
        """Computes the input of block `layer` with the current weights."""
        self._bare.advance(layer)
        if self._others is not None:
            self._others.advance(layer)

    def keys(self) -> Tensor:
        """K₁ of the current layer, (d_ff, u) float64: means over contexts.

        With `prompt_weight=half` the bare prompt has the same weight as all other contexts together
        (code of PMET); otherwise the mean is uniform (paper).
        """
        bare = self._bare.keys().double()
        if self._others is None:
            return bare.T
        others = self._others.keys().double().reshape(-1, *bare.shape)  # (contexts, u, d_ff)
        mean = others.mean(0)
        share = 0.5 if self._half else 1.0 / (1 + len(others))
        return (share * bare + (1.0 - share) * mean).T

    def values(self) -> tuple[Tensor, Tensor]:
        """m^L and h^L at the bare prompts with the current weights, each (u, d) fp32."""
        return self._bare.values()

    def gains(self, layer: int) -> tuple[Tensor, Tensor]:
        """As `Probe.gains`, at the bare prompts; (u,) fp32 each."""
        return self._bare.gains(layer)
