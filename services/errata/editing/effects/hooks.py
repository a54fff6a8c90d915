"""How plans change a forward pass: hooks that read the current `BatchPlan` and know no request.

A hook is put on a module when the first plan needs it, and stays. Rows without a claim are not
touched at all, so their bits are those of the unhooked pass of the same shape (P8).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from errata.editing.effects.plan import BatchPlan, ExpertRows, LoraBank, MixtureRows, Place
from errata.editing.model.causal_lm import CausalLM


class PlanHooks:
    """The hooks of one model.

    Attributes:
        enabled: False lets plans have no effect: the other side of every comparison.
    """

    def __init__(self, model: CausalLM) -> None:
        """Use `of`: hooks stay, and those of a second object would be called for nothing."""
        self._model = model
        self._plan: BatchPlan | None = None
        self._hooked: set[Place | int | str | tuple[str, int]] = set()
        self.enabled = True

    @classmethod
    def of(cls, model: CausalLM) -> PlanHooks:
        """The hooks of a model; nothing is hooked before the first plan that needs it."""
        if model.plan_hooks is None:
            model.plan_hooks = cls(model)
        made: PlanHooks = model.plan_hooks
        return made

    @contextmanager
    def applied(self, plan: BatchPlan) -> Iterator[None]:
        """Lets the passes inside follow `plan`; one batch at a time."""
        self._hook(plan)
        self._plan = plan if self.enabled else None
        try:
            yield
        finally:
            self._plan = None

    def follow(self, plan: BatchPlan) -> None:
        """Lets the rest of the pass that runs follow another plan, decided in its middle."""
        self._hook(plan)
        self._plan = plan if self.enabled else None

    def _hook(self, plan: BatchPlan) -> None:
        if plan.is_prefix is not None and "embeddings" not in self._hooked:
            self._model.embeddings.register_forward_hook(self._put_prefixes)
            self._hooked.add("embeddings")
        for layer in plan.deep:
            if ("block", layer) not in self._hooked:
                block = self._model.blocks[layer]
                block.register_forward_pre_hook(self._adding(layer), with_kwargs=True)
                self._hooked.add(("block", layer))
        for place in plan.mixtures.keys() - self._hooked:
            layer, part = place
            module = self._model.down(layer) if part == "down" else self._model.up(layer)
            module.register_forward_hook(self._mixing(place))
            self._hooked.add(place)
        for layer in plan.experts.keys() - self._hooked:
            self._model.ffn(layer).register_forward_hook(self._consulting(layer))
            self._hooked.add(layer)

    def _put_prefixes(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        plan = self._plan
        if plan is None or plan.is_prefix is None or plan.prefix is None:
            return output
        return torch.where(plan.is_prefix[..., None], plan.prefix, output)

    def _adding(self, layer: int) -> Any:
        def add(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            plan = self._plan
            if plan is None or plan.is_prefix is None or layer not in plan.deep:
                return None
            # Families differ in how they call their blocks.
            hidden = args[0] if args else kwargs["hidden_states"]
            deeper = torch.where(plan.is_prefix[..., None], hidden + plan.deep[layer], hidden)
            if args:
                return (deeper, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": deeper}

        return add

    def _mixing(self, place: Place) -> Any:
        def mix(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            if self._plan is not None:
                for index, claimed in self._plan.mixtures.get(place, ()):
                    bank = claimed.mixture.banks[place]
                    output = add_mixture(output, args[0], claimed, bank, index)
            return output

        return mix

    def _consulting(self, layer: int) -> Any:
        def consult(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            claimed = None if self._plan is None else self._plan.experts.get(layer)
            if claimed is None:
                return output
            return add_experts(self._model, layer, output, args[0], claimed)

        return consult


def add_mixture(
    output: Tensor, inputs: Tensor, claimed: MixtureRows, bank: LoraBank, index: int
) -> Tensor:
    """ELDER eq. 3, y_t += (α/r) Σ_i s_i B_i A_i v_t, for the claimed rows: two products in all.

    Args:
        output: (B, T, d_out); changed in place.
        inputs: (B, T, d_in), v.
        claimed: which rows, and their gates.
        bank: the LoRAs of this place.
        index: which of the gates' places this is.
    """
    num_rows, length = len(claimed.rows), inputs.shape[1]
    low = inputs.index_select(0, claimed.rows) @ bank.a.T  # (n, T, N·r)
    experts = low.reshape(num_rows, length, claimed.mixture.num_experts, -1)
    gated = experts * claimed.gates[:, index, None, :, None]
    return output.index_add_(0, claimed.rows, gated.reshape(low.shape) @ bank.b.T)


def add_experts(
    model: CausalLM, layer: int, output: Tensor, inputs: Tensor, claimed: ExpertRows
) -> Tensor:
    """LEMoE eq. 4, h(x) += Σ_i g_i f_i(x): one pass over each distinct expert's rows.

    Args:
        model: lends its gate and activation.
        layer: of the FFN.
        output: (B, T, d), FFN₀(x); changed in place.
        inputs: (B, T, d), x.
        claimed: rows sorted by expert.
    """
    chosen = inputs.index_select(0, claimed.rows)  # (n, T, d)
    gate, activation = model.gate(layer), model.activation(layer)
    opened = None if gate is None else activation(gate(chosen))
    answers = []
    start = 0
    for expert, size in zip(claimed.experts, claimed.sizes, strict=True):
        rows = slice(start, start + size)
        raised = chosen[rows] @ expert.up.T
        inner = activation(raised) if opened is None else opened[rows] * raised
        answers.append(inner @ expert.down.T)
        start += size
    weighted = (torch.cat(answers) * claimed.gates).to(output.dtype)
    return output.index_add_(0, claimed.rows, weighted)
