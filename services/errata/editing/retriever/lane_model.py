"""What a RECIPE lane learns once and keeps: encoder, MLP_K, MLP_Q, MLP_P, Knowledge Sentinel.

One lane model serves all edits of its lane. It travels as one artifact, tokenizer and encoder
configuration included, so that whoever has its bytes needs nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from errata.editing.artifact import Artifact, TensorSpec
from errata.editing.model.causal_lm import BaseLLM, CausalLM
from errata.editing.model.devices import has_fast_bf16
from errata.editing.model.prompts import join, tokenise_all
from errata.editing.retriever.encoder import Encoder, Tokens
from errata.editing.retriever.frames import Frames
from errata.editing.retriever.heads import LaneModelShape, PromptMaker, Representation
from errata.editing.retriever.lane_model_metadata import build, check_fits, check_origin, describe
from errata.errors import ArtifactCorruptError, ModelNotFoundError

FILE_NAME = "lane_model.safetensors"


class LaneModel(nn.Module):
    """All trained parts of a lane; the LLM stays as it is.

    Attributes:
        encoder: f.
        shape: widths and counts.
        base_model: digest of the LLM that it was trained for.
        sentinel: Θ, (c, width of the encoder).
        calibration: factor on the sentinel's key; 1 is the paper, below 1 more is claimed.
        frames: how the relations of training are asked, for edits that bring no rephrasings.
    """

    calibration: Tensor

    def __init__(
        self, encoder: Encoder, shape: LaneModelShape, base_model: str, frames: Frames | None = None
    ) -> None:
        """With random heads; Θ starts at U(−0.05, 0.05)."""
        super().__init__()
        self.encoder, self.shape, self.base_model = encoder, shape, base_model
        self.frames = frames or Frames({})
        self.key_mlp = Representation(encoder.pooled_width, shape.d_r)
        self.query_mlp = Representation(encoder.pooled_width, shape.d_r)
        self.prompt_mlp = PromptMaker(shape)
        self.register_buffer("calibration", torch.ones(()))
        start = torch.empty(shape.num_sentinel, encoder.width).uniform_(-0.05, 0.05)
        self.sentinel = nn.Parameter(start)

    def keys(self, texts: Sequence[str] | Tokens) -> Tensor:
        """r_k = MLP_K(f(k)) of knowledge statements, (n, d_r)."""
        made: Tensor = self.key_mlp(self.encoder.in_parts(texts))
        return made

    def edit_keys(self, texts: Sequence[str] | Tokens) -> Tensor:
        """r_k of edits' knowledge statements, (n, d_r), by an encoder in bf16 where that is faster.

        A key is made once and travels in the log. Queries are made again on every replica and in
        every batch, and need fp32 to agree.
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

    def prompts(self, keys: Tensor, targets: Tensor) -> Tensor:
        """p_k = MLP_P(r_k), (n, S, l, d), from keys and what `target_embeddings` gives."""
        made: Tensor = self.prompt_mlp(keys, targets)
        return made

    def target_embeddings(
        self,
        llm: CausalLM,
        facts: Sequence[tuple[str, str]],
        stated: Sequence[str | None] = (),
    ) -> Tensor:
        """The LLM's embeddings of the targets' first tokens, (n, num_target, d); 0 behind the end.

        Args:
            llm: that the lane model is for.
            facts: prompts and targets.
            stated: what stands between, as for `tokenise_all`.
        """
        width = self.shape.num_target
        texts = tokenise_all(llm, facts, stated)
        firsts = [text.ids[len(text.ids) - text.num_target :][:width] for text in texts]
        padded = [[*first, *[llm.pad_id] * (width - len(first))] for first in firsts]
        ids = torch.tensor(padded, dtype=torch.int64, device=llm.device)
        ids = ids.reshape(len(facts), width)
        sizes = torch.tensor([len(first) for first in firsts], device=llm.device)
        is_real = torch.arange(width, device=llm.device) < sizes[:, None]  # (n, num_target)
        made: Tensor = llm.embeddings(ids).float() * is_real[..., None]
        return made

    def to_artifact(self) -> Artifact:
        """The whole lane model as one artifact."""
        metadata = describe(self.encoder, self.shape, self.base_model, self.frames)
        return Artifact({name: t.detach() for name, t in self.state_dict().items()}, metadata)

    def save(self, folder: Path) -> None:
        """Writes `lane_model.safetensors` into a folder, which exists afterwards."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE_NAME).write_bytes(self.to_artifact().to_bytes())

    @classmethod
    def from_artifact(cls, artifact: Artifact, llm: BaseLLM) -> LaneModel:
        """Reads what `to_artifact` made.

        Raises:
            BaseModelMismatchError: it was trained for another LLM.
            ArtifactCorruptError: it is no lane model, or a tensor is missing, too many, or of
                another shape.
        """
        check_origin(artifact.metadata, llm)
        try:
            made = cls(*build(artifact.metadata))
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactCorruptError(
                f"the lane model does not say how it is built: {error}."
            ) from error
        check_fits(made.shape, llm)
        expected = made.state_dict()
        artifact.check({n: TensorSpec(tuple(t.shape), t.dtype) for n, t in expected.items()})
        made.load_state_dict(artifact.tensors)
        return made.to(llm.device).eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path, llm: CausalLM) -> LaneModel:
        """Reads what `save` wrote.

        Raises:
            ModelNotFoundError: there is none.
            BaseModelMismatchError, ArtifactCorruptError: as `from_artifact`.
        """
        return cls.from_artifact(Artifact.from_bytes(read_bytes(folder)), llm)


def read_bytes(folder: Path) -> bytes:
    """The bytes of the lane model in a folder.

    Raises:
        ModelNotFoundError: there is none.
    """
    path = folder / FILE_NAME
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelNotFoundError(
            f"there is no lane model at {path} ({error.strerror}); make one with `errata train "
            "recipe`."
        ) from error


def knowledge(prompt: str, target: str, stated: str | None = None) -> str:
    """k, the knowledge statement of an edit; `stated` as for `join`."""
    return join(prompt, target, stated)
