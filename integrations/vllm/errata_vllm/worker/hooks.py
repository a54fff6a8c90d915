"""Effects over vLLM's flat tokens: the mathematics of `errata.editing.effects`, per token.

A hook is registered when the first row needs it, and stays. Tokens without an effect are not
touched at all, so their bits are those of the unhooked pass of the same shape (P8).

Under tensor parallelism each rank holds its slice of the FFN's neurons. What it adds behind a
row-parallel projection is a part of a sum, which is reduced over all ranks before it is added.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from vllm.distributed import tensor_model_parallel_all_reduce

from errata.editing.effects.mixture import LoraBank, Place
from errata_vllm.worker.listening import Listener
from errata_vllm.worker.rows import ExpertTokens, MixtureTokens, StepPlan
from errata_vllm.worker.structure import Structure


class FlatHooks:
    """The hooks of one rank's model.

    Attributes:
        enabled: if False, plans have no effect; comparisons use this as their baseline.
        listener: reads prompts, and changes nothing.
    """

    def __init__(self, structure: Structure) -> None:
        """No hook is registered."""
        self.enabled = True
        self.listener = Listener(structure)
        self._structure = structure
        self._plan: StepPlan | None = None
        self._embeds = False
        self._deepened: set[int] = set()
        self._places: set[Place] = set()
        self._ffns: set[int] = set()
        self._gates: dict[int, Tensor] = {}  # layer → output of the gate, of the current pass

    def follow(self, plan: StepPlan | None) -> None:
        """Applies a plan to the passes that follow; None changes nothing."""
        if plan is not None:
            self._register(plan)
        self._plan = plan if self.enabled else None
        self.listener.follow(() if plan is None else plan.listening)

    def _register(self, plan: StepPlan) -> None:
        blocks = self._structure.blocks
        if plan.prefix is not None:
            if not self._embeds:
                self._structure.embeddings.register_forward_hook(self._put_prefixes)
                self._embeds = True
            for layer in plan.prefix.deep.keys() - self._deepened:
                hook = partial(self._deepen, layer)
                blocks[layer].register_forward_pre_hook(hook, with_kwargs=True)
                self._deepened.add(layer)
        for place in plan.mixtures.keys() - self._places:
            layer, part = place
            mlp = blocks[layer].mlp
            module = mlp.down_proj if part == "down" else mlp.gate_up_proj
            module.register_forward_hook(partial(self._mix, place))
            self._places.add(place)
        for layer in plan.experts.keys() - self._ffns:
            mlp = blocks[layer].mlp
            mlp.gate_up_proj.register_forward_hook(partial(self._keep_gate, layer))
            mlp.register_forward_hook(partial(self._add_experts, layer))
            self._ffns.add(layer)

    def _put_prefixes(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        prefix = None if self._plan is None else self._plan.prefix
        if prefix is None:
            return output
        return output.index_copy(0, prefix.tokens, prefix.embeddings)

    def _deepen(
        self, layer: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        prefix = None if self._plan is None else self._plan.prefix
        if prefix is None or layer not in prefix.deep:
            return None
        tokens, added = prefix.deep[layer]
        # What enters a block is the sum of hidden states and residual.
        if "hidden_states" in kwargs:
            deeper = kwargs["hidden_states"].index_add(0, tokens, added)
            return args, {**kwargs, "hidden_states": deeper}
        positions, hidden, *rest = args
        return (positions, hidden.index_add(0, tokens, added), *rest), kwargs

    def _mix(self, place: Place, _: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        plan = self._plan
        if plan is None:
            return output
        changed = output[0]  # a linear layer of vLLM also returns its bias
        for number, claimed in plan.mixtures.get(place, ()):
            bank = claimed.mixture.banks[place]
            self._add_mixture(place, changed, args[0], claimed, bank, number)
        return output

    def _add_mixture(
        self,
        place: Place,
        output: Tensor,
        inputs: Tensor,
        claimed: MixtureTokens,
        bank: LoraBank,
        number: int,
    ) -> None:
        """ELDER eq. 3, y_t += (α/r) Σ_i s_i B_i A_i v_t, for the claimed tokens.

        The bank is this rank's: at a down projection it has the columns of A for the rank's inputs,
        at an up projection the rows of B for the rank's outputs.
        """
        low = inputs.index_select(0, claimed.tokens) @ bank.a.T  # (n, N·r)
        experts = low.reshape(len(low), claimed.mixture.num_experts, -1)
        gated = (experts * claimed.gates[:, number, :, None]).reshape(low.shape)
        added = gated @ bank.b.T
        if place[1] == "down":
            output.index_add_(0, claimed.tokens, self._reduced(added).to(output.dtype))
        else:  # the gate's outputs come first
            output[:, output.shape[1] // 2 :].index_add_(0, claimed.tokens, added)

    def _keep_gate(self, layer: int, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._plan is not None and layer in self._plan.experts:
            gate_up = output[0]
            self._gates[layer] = gate_up[:, : gate_up.shape[1] // 2]

    def _add_experts(
        self, layer: int, _: nn.Module, args: tuple[Any, ...], output: Tensor
    ) -> Tensor:
        claimed = None if self._plan is None else self._plan.experts.get(layer)
        if claimed is not None:
            self._add_answers(layer, args[0], output, claimed)
        return output

    def _add_answers(
        self, layer: int, inputs: Tensor, output: Tensor, claimed: ExpertTokens
    ) -> None:
        """LEMoE eq. 4, h(x) += Σ_i g_i f_i(x): one pass over each distinct expert's tokens.

        An expert is this rank's: the rows of its up and the columns of its down projection for the
        rank's neurons.
        """
        chosen = inputs.index_select(0, claimed.tokens)
        gate = self._gates.pop(layer).index_select(0, claimed.tokens)
        opened = torch.nn.functional.silu(gate)
        answers = []
        start = 0
        for expert, size in zip(claimed.experts, claimed.sizes, strict=True):
            rows = slice(start, start + size)
            answers.append((opened[rows] * (chosen[rows] @ expert.up.T)) @ expert.down.T)
            start += size
        weighted = self._reduced(torch.cat(answers)) * claimed.weights
        output.index_add_(0, claimed.tokens, weighted.to(output.dtype))

    def _reduced(self, part: Tensor) -> Tensor:
        if self._structure.num_ranks == 1:
            return part
        return tensor_model_parallel_all_reduce(part)
