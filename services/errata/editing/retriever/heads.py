"""The trained heads of a lane model: MLP_K and MLP_Q, which are its gate's, and MLP_P."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class GateShape:
    """The sizes of a gate.

    Attributes:
        d_r: width of keys and queries.
        num_sentinel: c, number of free vectors of the sentinel.
        max_tokens: length of the longest text that the encoder reads.
    """

    d_r: int
    num_sentinel: int
    max_tokens: int

    def __post_init__(self) -> None:
        """Refuses sizes that no gate has.

        Raises:
            ValueError: a size is not positive.
        """
        if min(self.d_r, self.num_sentinel, self.max_tokens) < 1:
            raise ValueError(f"the sizes of a gate must be positive, not {self}")


@dataclass(frozen=True, slots=True)
class LaneModelShape:
    """The sizes of a lane model.

    Attributes:
        d_r: width of keys and queries. Paper: 4096.
        num_prompt: l, number of continuous prompt tokens of an edit. Paper: 3.
        deep: layers with deep prompts: a vector is added to the input of the block at each
            position of the continuous prompt (as in prefix tuning). Paper: none.
        num_target: how many of the target's first tokens MLP_P reads. Paper: 0, it reads the key.
        num_sentinel: c, number of free vectors of the sentinel. Paper: 10.
        after: how many of the prompt's tokens come before the continuous prompt: 0 places it before
            the BOS token, as the authors' code does, 1 after it.
        d: width of the LLM.
        max_tokens: length of the longest text that the encoder reads.
        by_token: MLP_P makes each position from its own tokens (`token_prompts`), not the whole
            prompt from the whole target and the key (`PromptMaker`). Paper: no.
    """

    d_r: int
    num_prompt: int
    deep: tuple[int, ...]
    num_target: int
    num_sentinel: int
    after: int
    d: int
    max_tokens: int
    by_token: bool = False

    def __post_init__(self) -> None:
        """Refuses sizes that no lane model has.

        Raises:
            ValueError: a size is not positive, or a count is negative.
        """
        positive = (self.d_r, self.num_prompt, self.num_sentinel, self.d, self.max_tokens)
        if min(positive) < 1 or min(self.num_target, self.after, *self.deep) < 0:
            raise ValueError(f"the sizes of a lane model must be positive, not {self}")

    @property
    def gate(self) -> GateShape:
        """The sizes of its gate."""
        return GateShape(self.d_r, self.num_sentinel, self.max_tokens)

    @property
    def prompt_size(self) -> tuple[int, int, int]:
        """(S, l, d) of a continuous prompt: embeddings, then the vectors of each deep layer."""
        return 1 + len(self.deep), self.num_prompt, self.d


class Representation(nn.Module):
    """MLP_K or MLP_Q: h = W₁x + b₁; out = h + ReLU(W₂h + b₂)."""

    def __init__(self, width: int, d_r: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, d_r), nn.Linear(d_r, d_r)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width) → (n, d_r)."""
        h: Tensor = self.first(x)
        return h + torch.relu(self.second(h))


class PromptMaker(nn.Module):
    """MLP_P: g = r + ReLU(W₃r + b₃); s·(W₄g + b₄) as (l, d), and the same for each deep layer.

    Three parts are ours (docs/decisions/008-recipe.md):

    - The factors s are the standard deviations of the LLM's token embeddings and of its residual
      stream at each deep layer. Prompts thus start at the scale of the model's own input.
    - With `num_target`, the target's tokens t_i, in units of s, are inputs: αr + W₅t replaces r,
      and A·t_i is added to the i-th embedding. The gate α starts at 0, and A as the identity.
      Training makes a key similar to its queries, which do not contain the target; without t_i,
      MLP_P would memorise the targets of the training data.
    - Deep layers: embeddings alone do not outweigh the LLM's knowledge of a subject.
    """

    scale: Tensor

    def __init__(self, shape: LaneModelShape) -> None:
        super().__init__()
        self.first = nn.Linear(shape.d_r, shape.d_r)
        self._size = shape.prompt_size
        self.second = nn.Linear(shape.d_r, math.prod(self._size))
        self.register_buffer("scale", torch.ones(self._size[0], 1, 1))
        self._num_copied = min(shape.num_prompt, shape.num_target)
        if shape.num_target:
            self.gate = nn.Parameter(torch.zeros(()))
            self.target = nn.Linear(shape.num_target * shape.d, shape.d_r)
            self.copy = nn.Linear(shape.d, shape.d, bias=False)
            nn.init.eye_(self.copy.weight)

    def forward(self, keys: Tensor, targets: Tensor) -> Tensor:
        """(n, d_r) and token embeddings (n, num_target, d) → (n, S, l, d)."""
        r, n = keys, self._num_copied
        if n:
            targets = targets / self.scale[0]
            r = self.gate * r + self.target(targets.flatten(1))
        g = r + torch.relu(self.first(r))
        made: Tensor = self.second(g).reshape(len(keys), *self._size)
        if n:
            num_layers, length, _ = self._size
            rest = (0, 0, 0, length - n, 0, num_layers - 1)
            made = made + nn.functional.pad(self.copy(targets[:, None, :n]), rest)
        return self.scale * made
