"""The lane model: encoder, MLP_K, MLP_Q, MLP_P and Knowledge Sentinel, trained once per LLM.

One lane model serves all edits of its lane. It is one self-contained artifact, which includes the
tokenizer and the encoder's configuration.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from errata.editing.artifact import Artifact, TensorSpec
from errata.editing.model.causal_lm import BaseLLM, CausalLM, KnownLLM
from errata.editing.model.devices import has_fast_bf16
from errata.editing.model.prompts import join, tokenise_all
from errata.editing.retriever.encoder import Encoder, Tokens
from errata.editing.retriever.frames import Frames
from errata.editing.retriever.heads import LaneModelShape, PromptMaker, Representation
from errata.editing.retriever.lane_model_metadata import build, check_fits, check_origin, describe
from errata.editing.retriever.token_prompts import TokenPromptMaker
from errata.errors import ArtifactCorruptError, ModelNotFoundError

FILE_NAME = "lane_model.safetensors"


class LaneModel(nn.Module):
    """All trained parts of a lane; the LLM is frozen.

    Attributes:
        encoder: f.
        shape: widths and counts.
        base_model: digest of the LLM that the lane model was trained for.
        sentinel: Θ, (c, width of the encoder).
        calibration: factor on the sentinel's key; below 1, more prompts are claimed. Paper: 1.
        frames: wordings of the relations of the training data, for edits without rephrasings.
    """

    calibration: Tensor

    def __init__(
        self, encoder: Encoder, shape: LaneModelShape, base_model: str, frames: Frames | None = None
    ) -> None:
        """Initialises the heads randomly, and Θ from U(−0.05, 0.05)."""
        super().__init__()
        self.encoder, self.shape, self.base_model = encoder, shape, base_model
        self.frames = frames or Frames({})
        self.key_mlp = Representation(encoder.pooled_width, shape.d_r)
        self.query_mlp = Representation(encoder.pooled_width, shape.d_r)
        self.prompt_mlp = (TokenPromptMaker if shape.by_token else PromptMaker)(shape)
        self.register_buffer("calibration", torch.ones(()))
        start = torch.empty(shape.num_sentinel, encoder.width).uniform_(-0.05, 0.05)
        self.sentinel = nn.Parameter(start)

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

    def prompts(self, keys: Tensor, targets: Tensor) -> Tensor:
        """p_k = MLP_P(r_k), (n, S, l, d), from keys and the result of `target_embeddings`."""
        made: Tensor = self.prompt_mlp(keys, targets)
        return made

    def keys_for_prompts(self, facts: Sequence[tuple[str, str]]) -> Tensor:
        """The keys of prompts and targets, as far as MLP_P reads any; otherwise zeros, (n, d_r)."""
        if self.shape.by_token:
            return torch.zeros(len(facts), self.shape.d_r, device=self.sentinel.device)
        return self.keys([knowledge(*fact) for fact in facts])

    def target_embeddings(
        self,
        llm: CausalLM,
        facts: Sequence[tuple[str, str]],
        stated: Sequence[str | None] = (),
    ) -> Tensor:
        """The LLM's embeddings of the targets' first tokens, (n, num_target, d), padded with 0.

        Args:
            llm: the LLM that the lane model was trained for.
            facts: prompts and targets.
            stated: separators, as for `tokenise_all`.
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
        """The lane model as an artifact."""
        metadata = describe(self.encoder, self.shape, self.base_model, self.frames)
        return Artifact({name: t.detach() for name, t in self.state_dict().items()}, metadata)

    def save(self, folder: Path) -> None:
        """Writes `lane_model.safetensors` into a folder, which is created if necessary."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE_NAME).write_bytes(self.to_artifact().to_bytes())

    @classmethod
    def from_artifact(cls, artifact: Artifact, llm: BaseLLM) -> LaneModel:
        """Reads the result of `to_artifact`.

        Raises:
            BaseModelMismatchError: the lane model was trained for another LLM.
            ArtifactCorruptError: the artifact is not a lane model, or its tensors do not have the
                expected names and shapes.
        """
        check_origin(artifact.metadata, llm)
        try:
            made = cls(*build(artifact.metadata))
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactCorruptError(
                f"the metadata of the lane model are incomplete or invalid: {error}."
            ) from error
        check_fits(made.shape, llm)
        expected = made.state_dict()
        artifact.check({n: TensorSpec(tuple(t.shape), t.dtype) for n, t in expected.items()})
        made.load_state_dict(artifact.tensors)
        return made.to(llm.device).eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path, llm: CausalLM) -> LaneModel:
        """Reads the lane model in a folder.

        Raises:
            ModelNotFoundError: the folder contains none.
            BaseModelMismatchError, ArtifactCorruptError: as `from_artifact`.
        """
        return cls.from_artifact(Artifact.from_bytes(read_bytes(folder)), llm)

    @classmethod
    def load_retriever(cls, folder: Path, device: torch.device) -> LaneModel:
        """Reads a lane model of any LLM, for its retriever: encoder, MLP_K, MLP_Q and sentinel.

        Raises:
            ModelNotFoundError, ArtifactCorruptError: as `load`.
        """
        artifact = Artifact.from_bytes(read_bytes(folder))
        trained_for = KnownLLM(artifact.metadata.get("base_model", ""), device)
        return cls.from_artifact(artifact, trained_for)


def read_bytes(folder: Path) -> bytes:
    """The bytes of the lane model in a folder.

    Raises:
        ModelNotFoundError: the folder contains none.
    """
    path = folder / FILE_NAME
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelNotFoundError(
            f"there is no lane model at {path} ({error.strerror}); train one with `errata train "
            "recipe`."
        ) from error


def knowledge(prompt: str, target: str, stated: str | None = None) -> str:
    """k, the knowledge statement of an edit; `stated` as for `join`."""
    return join(prompt, target, stated)
