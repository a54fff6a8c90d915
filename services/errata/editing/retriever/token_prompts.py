"""MLP_P by token: each position of a continuous prompt is made from a few target tokens. Ours.

One map serves all positions, so that it learns from every token of every target. A map from the
whole target to the whole prompt (`heads.PromptMaker`) has to see a token at every place of a target
before it can use it there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from errata.editing.retriever.heads import LaneModelShape

_WIDTH = 1024  # of u and g
_NEIGHBOURS = 1  # tokens on either side that a position also reads


class TokenPromptMaker(nn.Module):
    """u_i = W₅[t_a … t_b] + e_i; g_i = u_i + ReLU(W₃u_i + b₃); s·(W₄g_i + b₄ + A·t_i) for i < l.

    With m tokens and l positions, the i-th position stands for ⌈m/l⌉ tokens, of which t_i is the
    first, and reads one more on either side. To produce the token behind t, the LLM has to find the
    position that stands for it by t, its predecessor. The factors s are those of
    `heads.PromptMaker`; A·t_i is added to the embeddings alone. Keys are not read: what they added
    was memorised.
    """

    scale: Tensor

    def __init__(self, shape: LaneModelShape) -> None:
        super().__init__()
        self._size = layers, length, d = shape.prompt_size
        self._stride = -(-shape.num_target // length)
        self._window = self._stride + 2 * _NEIGHBOURS
        self.target = nn.Linear(self._window * d, _WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(length, _WIDTH))
        self.first = nn.Linear(_WIDTH, _WIDTH)
        self.second = nn.Linear(_WIDTH, layers * d)
        self.copy = nn.Linear(d, d, bias=False)
        nn.init.eye_(self.copy.weight)
        self.register_buffer("scale", torch.ones(layers, 1, 1))

    def forward(self, keys: Tensor, targets: Tensor) -> Tensor:
        """Keys (n, d_r), and token embeddings (n, m, d), 0 behind the target → (n, S, l, d)."""
        layers, length, _ = self._size
        tokens = targets / self.scale[0]
        missing = self._stride * length - tokens.shape[1]
        padded = nn.functional.pad(tokens, (0, 0, _NEIGHBOURS, missing + _NEIGHBOURS))
        read = padded.unfold(1, self._window, self._stride)  # (n, l, d, window)
        u = self.target(read.transpose(2, 3).flatten(2)) + self.place
        g = u + torch.relu(self.first(u))
        made: Tensor = self.second(g).unflatten(-1, (layers, -1)).transpose(1, 2)
        copied = self.copy(padded[:, _NEIGHBOURS :: self._stride][:, :length])
        made = made + nn.functional.pad(copied[:, None], (0, 0, 0, 0, 0, layers - 1))
        return self.scale * made
