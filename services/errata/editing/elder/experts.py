"""The parameters of a bank, fixed in number: N LoRAs and a router at each adapted layer.

Forward pass (ELDER eqs. 2–3), with one query q per sequence and T^l the k highest of s^l:

    s^l = softmax(W_r^l q + b^l),    y_t = W₀ v_t + b₀ + (α/r) Σ_{i∈T^l} s_i^l B_i A_i v_t

The weights are the softmax values themselves; they are not rescaled to sum to one over T^l.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from errata.editing.effects.mixture import LoraBank, Mixture, Place
from errata.editing.elder.config import ElderConfig
from errata.editing.model.causal_lm import BaseLLM, CausalLM, Widths


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes that determine a lane's parameters.

    Attributes:
        layers: adapted layers, ascending.
        projection: the adapted projection of the FFN.
        query: where q is read.
        num_experts: N.
        top_k: k.
        rank: r.
        d_in, d_out: of the projection.
        d_q: width of the query.
        scale: α/r.
    """

    layers: tuple[int, ...]
    projection: Literal["down", "up"]
    query: Literal["hidden", "input"]
    num_experts: int
    top_k: int
    rank: int
    d_in: int
    d_out: int
    d_q: int
    scale: float

    @classmethod
    def of(cls, model: Widths, config: ElderConfig) -> Shape:
        """The shape that a configuration gives for a model.

        Raises:
            InvalidRequestError: a layer does not exist, the rank exceeds the projection's smaller
                width, or ε exceeds the largest possible distance of codes.
        """
        d_in, d_out = model.d, model.d_ff
        if config.projection == "down":
            d_in, d_out = d_out, d_in
        config.check_rank(min(d_in, d_out))
        config.check_epsilon(model.num_layers)
        return cls(
            layers=config.resolve_layers(model.num_layers),
            projection=config.projection,
            query=config.query,
            num_experts=config.num_experts,
            top_k=config.top_k,
            rank=config.rank,
            d_in=d_in,
            d_out=d_out,
            d_q=model.d if config.query == "hidden" else d_in,
            scale=config.scale,
        )

    @property
    def places(self) -> tuple[Place, ...]:
        """The adapted projections."""
        return tuple((layer, self.projection) for layer in self.layers)

    @property
    def num_parameters(self) -> int:
        """L[N·r·(d_in + d_out) + N(d_q + 1)]."""
        per_expert = self.rank * (self.d_in + self.d_out) + self.d_q + 1
        return len(self.layers) * self.num_experts * per_expert

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """The sizes of the tensors that `Experts.tensors` returns."""
        layers, n, r = len(self.layers), self.num_experts, self.rank
        return {
            "lora_a": (layers, n, r, self.d_in),
            "lora_b": (layers, n, self.d_out, r),
            "router_weight": (layers, n, self.d_q),
            "router_bias": (layers, n),
        }


class Experts(nn.Module):
    """LoRAs and routers of all adapted layers, fp32.

    Attributes:
        shape: widths and counts.
        lora_a: (L, N, r, d_in).
        lora_b: (L, N, d_out, r).
        router_weight: (L, N, d_q).
        router_bias: (L, N).
    """

    def __init__(self, shape: Shape, tensors: Mapping[str, Tensor]) -> None:
        """Copies the parameters that `Shape.sizes` lists."""
        super().__init__()
        self.shape = shape
        self.lora_a = nn.Parameter(tensors["lora_a"].clone())
        self.lora_b = nn.Parameter(tensors["lora_b"].clone())
        self.router_weight = nn.Parameter(tensors["router_weight"].clone())
        self.router_bias = nn.Parameter(tensors["router_bias"].clone())

    @classmethod
    def new(
        cls, shape: Shape, init: str, seed: int, loras: Mapping[str, Tensor] | None = None
    ) -> Experts:
        """Untrained experts: B = 0, so that no output changes yet; or experts that adapters define.

        Args:
            shape: of the lane.
            init: `code`, `peft` or `gaussian`.
            seed: of A and of the routers.
            loras: initial `lora_a` and `lora_b` (`peft.read`).
        """
        rng = torch.Generator().manual_seed(seed)
        sizes = shape.sizes()

        def uniform(name: str, bound: float) -> Tensor:
            drawn = torch.rand(sizes[name], generator=rng)
            return (2 * drawn - 1) * bound

        if init == "gaussian":
            lora_a = torch.randn(sizes["lora_a"], generator=rng) / shape.rank
        else:
            width = shape.rank if init == "code" else shape.d_in
            lora_a = uniform("lora_a", width**-0.5)
        return cls(
            shape,
            {
                "lora_a": lora_a,
                "lora_b": torch.zeros(sizes["lora_b"]),
                "router_weight": uniform("router_weight", shape.d_q**-0.5),
                "router_bias": uniform("router_bias", shape.d_q**-0.5),
                **(loras or {}),
            },
        )

    def tensors(self) -> dict[str, Tensor]:
        """All parameters by name."""
        return {name: tensor.detach() for name, tensor in self.named_parameters()}

    def with_loras_in_host_memory(self) -> Experts:
        """The same experts without gradients; the routers stay on their device."""
        if self.lora_a.device.type == "cpu":
            return self.requires_grad_(False)
        moved = {n: t.cpu() if n.startswith("lora") else t for n, t in self.tensors().items()}
        return Experts(self.shape, moved).requires_grad_(False)

    def scores(self, queries: Tensor) -> Tensor:
        """log s, (n, L, N), of queries (n, d_q)."""
        logits = torch.einsum("nd,lkd->nlk", queries.float(), self.router_weight)
        return (logits + self.router_bias).log_softmax(-1)

    def gates(self, queries: Tensor) -> Tensor:
        """s where an expert is among the k highest, else 0; (n, L, N)."""
        scores = self.scores(queries)
        return scores.exp() * self._chosen(scores)

    def codes(self, queries: Tensor) -> Tensor:
        """Allocation codes (n, L, N) bool with k ones in each layer."""
        return self._chosen(self.scores(queries))

    def _chosen(self, scores: Tensor) -> Tensor:
        # A stable sort takes the first of equal scores on every machine.
        order = scores.detach().argsort(dim=-1, descending=True, stable=True)
        chosen = torch.zeros_like(scores, dtype=torch.bool)
        return chosen.scatter(-1, order[..., : self.shape.top_k], True)

    def mixture_for(self, llm: BaseLLM) -> Mixture:
        """The mixture in the dtype of a process's LLM; fp32 in a process without one."""
        return self.mixture(dtype=llm.dtype if isinstance(llm, CausalLM) else torch.float32)

    def mixture(self, *, dtype: torch.dtype = torch.float32) -> Mixture:
        """The mixture that the hooks add: N LoRAs side by side at each place."""
        banks = {
            place: LoraBank(
                self.lora_a[index].flatten(0, 1).to(dtype),
                (self.shape.scale * self.lora_b[index].transpose(0, 1).flatten(1)).to(dtype),
            )
            for index, place in enumerate(self.shape.places)
        }
        return Mixture(self.shape.num_experts, banks)
