"""The gate: encoder, MLP_K, MLP_Q and Knowledge Sentinel, which decide which edit claims a prompt.

A gate depends on no LLM. A lane model is a gate that also makes continuous prompts for one LLM.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from errata.editing.model.devices import has_fast_bf16
from errata.editing.retriever.encoder import Encoder, Tokens
from errata.editing.retriever.frames import Frames
from errata.editing.retriever.heads import GateShape, Representation


class GateModel(nn.Module):
    """The trained parts that decide claims.

    Attributes:
        encoder: f.
        sizes: of the gate.
        sentinel: Θ, (c, width of the encoder).
        calibration: factor on the sentinel's key; below 1, more prompts are claimed. Paper: 1.
        frames: wordings of the relations of the training data, for edits without rephrasings.
        learned: further wordings that a training read, with the gap of `Frames` for the subject.
    """

    calibration: Tensor

    def __init__(
        self,
        encoder: Encoder,
        sizes: GateShape,
        frames: Frames | None = None,
        learned: Collection[str] = (),
    ) -> None:
        """Initialises MLP_K and MLP_Q randomly, and Θ from U(−0.05, 0.05)."""
        super().__init__()
        self.encoder, self.sizes = encoder, sizes
        self.frames = frames or Frames({})
        self.learned = frozenset(learned)
        self.key_mlp = Representation(encoder.pooled_width, sizes.d_r)
        self.query_mlp = Representation(encoder.pooled_width, sizes.d_r)
        self.register_buffer("calibration", torch.ones(()))
        start = torch.empty(sizes.num_sentinel, encoder.width).uniform_(-0.05, 0.05)
        self.sentinel = nn.Parameter(start)

    def note_training(self, frames: Frames, wordings: Collection[str]) -> None:
        """Replaces the frames; wordings of this training and of the earlier ones stay known.

        Args:
            frames: for edits without rephrasings.
            wordings: that the training reads.
        """
        read = self.learned | self.frames.wordings() | frozenset(wordings)
        self.frames, self.learned = frames, read - frames.wordings()

    def keys(self, texts: Sequence[str] | Tokens) -> Tensor:
        """r_k = MLP_K(f(k)) of knowledge statements, (n, d_r)."""
        made: Tensor = self.key_mlp(self.encoder.in_parts(texts))
        return made

    def edit_keys(self, texts: Sequence[str] | Tokens) -> Tensor:
        """r_k of edits' knowledge statements, (n, d_r); the encoder uses bf16 where that is faster.

        A key is computed once, by the writer. Queries are computed on every replica and in batches
        of every size, and need fp32 to agree.
        """
        made: Tensor = self.key_mlp(self._quick_encoder.in_parts(texts))
        return made

    @cached_property
    def _quick_encoder(self) -> Encoder:
        if not has_fast_bf16(self.encoder.device):
            return self.encoder
        quick = copy.deepcopy(self.encoder)
        quick.model.to(torch.bfloat16)
        return quick

    def queries(self, texts: Sequence[str] | Tokens) -> Tensor:
        """r̃_q = MLP_Q(f(q)) of prompts, (n, d_r)."""
        made: Tensor = self.query_mlp(self.encoder.in_parts(texts))
        return made

    def sentinel_key(self) -> Tensor:
        """r_Θ = MLP_K(f(Θ)), (d_r), times the calibration."""
        made: Tensor = self.key_mlp(self.encoder.pool_vectors(self.sentinel)[None])
        return self.calibration * made[0]
