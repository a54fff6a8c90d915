"""Effects over vLLM's flat tokens: the mathematics of `errata.editing.effects`, per token.

Tokens without an effect are not touched at all, so their bits are those of the unedited pass of the
same shape (P8).

Under tensor parallelism each rank holds its slice of the FFN's neurons. What it adds behind a
row-parallel projection is a part of a sum, which is reduced over all ranks before it is added.
"""

from __future__ import annotations

import torch
from torch import Tensor
from vllm.distributed import tensor_model_parallel_all_reduce

from errata.editing.effects.mixture import Place
from errata_vllm.worker.listening import Listener
from errata_vllm.worker.rows import ExpertTokens, MixtureTokens, StepPlan


class FlatEffects:
    """What the plan of a step does to one rank's activations, in place.

    Attributes:
        enabled: if False, plans have no effect; comparisons use this as their baseline.
        acting: whether this step's FFNs have anything to do with edits.
        reached: whether a pass has come by since the plan was last changed.
        listener: reads prompts, and changes nothing.
    """

    def __init__(self, num_ranks: int) -> None:
        """No plan is followed.

        Args:
            num_ranks: of tensor parallelism.
        """
        self.enabled = True
        self.acting = False
        self.reached = False
        self.listener = Listener(num_ranks)
        self._num_ranks = num_ranks
        self._plan: StepPlan | None = None

    def follow(self, plan: StepPlan | None) -> None:
        """Applies a plan to the passes that follow; None changes nothing."""
        self._plan = plan if self.enabled else None
        self.reached = False
        self.listener.follow(() if plan is None else plan.listening)
        self.acting = plan is not None

    def on_embeddings(self, hidden: Tensor) -> None:
        """Puts continuous prompts into their places.

        Args:
            hidden: (n, d), the embedded tokens.
        """
        self.reached = True
        if self._plan is not None and self._plan.prefix is not None:
            hidden.index_copy_(0, self._plan.prefix.tokens, self._plan.prefix.embeddings)
            self._deepen(0, hidden)

    def on_inner(self, layer: int, inputs: Tensor, gate_up: Tensor, inner: Tensor) -> Tensor:
        """Adds mixtures to the FFN's up projection.

        Args:
            layer: of the FFN.
            inputs: (n, d), of the FFN.
            gate_up: (n, 2·d_ff), the gate's outputs first; d_ff counts the rank's neurons.
            inner: (n, d_ff), silu(gate) ⊙ up; stays as it is.

        Returns:
            (n, d_ff), silu(gate) ⊙ (up + what the mixtures add).
        """
        if self._plan is None:
            return inner
        for number, claimed in self._plan.mixtures.get((layer, "up"), ()):
            added = _mixed((layer, "up"), inputs, claimed, number)
            gate = gate_up[:, : inner.shape[1]].index_select(0, claimed.tokens)
            inner = inner.index_add(0, claimed.tokens, torch.nn.functional.silu(gate) * added)
        return inner

    def on_output(
        self, layer: int, inputs: Tensor, gate_up: Tensor, inner: Tensor, output: Tensor
    ) -> None:
        """Adds mixtures and experts to the FFN's output, and listens to what enters it.

        Args:
            layer: of the FFN.
            inputs: (n, d), of the FFN.
            gate_up: (n, 2·d_ff).
            inner: (n, d_ff), the input of the down projection.
            output: (n, d), summed over the ranks.
        """
        self.listener.hear(layer, inner)
        if self._plan is None:
            return
        for number, claimed in self._plan.mixtures.get((layer, "down"), ()):
            added = self._reduced(_mixed((layer, "down"), inner, claimed, number))
            output.index_add_(0, claimed.tokens, added.to(output.dtype))
        if (experts := self._plan.experts.get(layer)) is not None:
            self._add_answers(inputs, gate_up, output, experts)
        self._deepen(layer + 1, output)

    def _deepen(self, layer: int, hidden: Tensor) -> None:
        """Adds to what enters a block: the sum of the FFN's output before it and the residual."""
        prefix = None if self._plan is None else self._plan.prefix
        if prefix is not None and layer in prefix.deep:
            tokens, added = prefix.deep[layer]
            hidden.index_add_(0, tokens, added)

    def _add_answers(
        self, inputs: Tensor, gate_up: Tensor, output: Tensor, claimed: ExpertTokens
    ) -> None:
        """LEMoE eq. 4, h(x) += Σ_i g_i f_i(x): one pass over each distinct expert's tokens.

        An expert is this rank's: the rows of its up and the columns of its down projection for the
        rank's neurons.
        """
        chosen = inputs.index_select(0, claimed.tokens)
        gate = gate_up[:, : gate_up.shape[1] // 2].index_select(0, claimed.tokens)
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
        if self._num_ranks == 1:
            return part
        return tensor_model_parallel_all_reduce(part)


def _mixed(place: Place, inputs: Tensor, claimed: MixtureTokens, number: int) -> Tensor:
    """ELDER eq. 3, (α/r) Σ_i s_i B_i A_i v_t for each claimed token t: (n, outputs).

    The bank is this rank's: at a down projection it has the columns of A for the rank's inputs, at
    an up projection the rows of B for the rank's outputs.
    """
    bank = claimed.mixture.banks[place]
    low = inputs.index_select(0, claimed.tokens) @ bank.a.T  # (n, N·r)
    experts = low.reshape(len(low), claimed.mixture.num_experts, -1)
    gated = (experts * claimed.gates[:, number, :, None]).reshape(low.shape)
    return gated @ bank.b.T
