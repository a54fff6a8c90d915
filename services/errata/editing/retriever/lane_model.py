"""The lane model: encoder, MLP_K, MLP_Q, MLP_P and Knowledge Sentinel, trained once per LLM.

One lane model serves all edits of its lane. It is one self-contained artifact, which includes the
tokenizer and the encoder's configuration.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor

from errata.editing.artifact import Artifact, TensorSpec
from errata.editing.model.causal_lm import BaseLLM, CausalLM
from errata.editing.model.prompts import join, tokenise_all
from errata.editing.retriever.encoder import Encoder
from errata.editing.retriever.frames import Frames
from errata.editing.retriever.gate_model import GateModel
from errata.editing.retriever.heads import LaneModelShape, PromptMaker
from errata.editing.retriever.lane_model_metadata import (
    build,
    check_fits,
    check_origin,
    describe,
    describe_texts,
)
from errata.editing.retriever.token_prompts import TokenPromptMaker
from errata.errors import ArtifactCorruptError, ModelNotFoundError

FILE_NAME = "lane_model.safetensors"
GATE_FILE_NAME = "gate.safetensors"


class LaneModel(GateModel):
    """All trained parts of a lane; the LLM is frozen.

    Attributes:
        shape: widths and counts.
        base_model: digest of the LLM that the lane model was trained for.
    """

    def __init__(
        self,
        encoder: Encoder,
        shape: LaneModelShape,
        base_model: str,
        frames: Frames | None = None,
        learned: Collection[str] = (),
    ) -> None:
        """Initialises the heads randomly, and Θ from U(−0.05, 0.05)."""
        super().__init__(encoder, shape.gate, frames, learned)
        self.shape, self.base_model = shape, base_model
        self.prompt_mlp = (TokenPromptMaker if shape.by_token else PromptMaker)(shape)

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
        described = describe(self.encoder, self.shape, self.base_model)
        metadata = {**described, **describe_texts(self.frames, self.learned)}
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


def file_in(path: Path) -> Path:
    """The file of the lane model or gate that a path names: a folder that has one, or the file."""
    if path.is_dir() and not (path / FILE_NAME).exists() and (path / GATE_FILE_NAME).exists():
        return path / GATE_FILE_NAME
    return path if path.is_file() else path / FILE_NAME


def read_bytes(path: Path) -> bytes:
    """The bytes of the lane model or gate at a path, as in `file_in`.

    Raises:
        ModelNotFoundError: there is none.
    """
    file = file_in(path)
    try:
        return file.read_bytes()
    except OSError as error:
        raise ModelNotFoundError(
            f"there is no lane model or gate at {file} ({error.strerror}); train one with `errata "
            "train recipe` or `errata train gate`."
        ) from error


def knowledge(prompt: str, target: str, stated: str | None = None) -> str:
    """k, the knowledge statement of an edit; `stated` as for `join`."""
    return join(prompt, target, stated)
