"""What a lane model needs: encoder, MLPs and sentinel of a lane whose claims are learned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import BertModel

from errata.editing.lane.needs import FP32, EditLoad, Need, Work
from errata.editing.model.shape import ModelShape
from errata.editing.retriever import gate_file
from errata.editing.retriever.encoder import Encoder, small_config
from errata.editing.retriever.gate_model import GateModel
from errata.editing.retriever.heads import GateShape, LaneModelShape
from errata.editing.retriever.lane_model import LaneModel, file_in
from errata.editing.retriever.lane_model_metadata import GATE_KIND, build
from errata.editing.retriever.start import shape_of
from errata.editing.retriever.training_config import TrainingConfig
from errata.errors import ArtifactCorruptError, BaseModelMismatchError, ModelNotFoundError

_ENCODED_AT_ONCE = 128  # texts


@dataclass(frozen=True, slots=True)
class GateNeeds:
    """The sizes of a gate or a lane model.

    Attributes:
        sizes: of the gate.
        shape: of the lane model; None for a gate, which makes no continuous prompts.
        num_parameters: of all parts.
        num_encoder_parameters: P_enc, of the encoder.
        num_multiplied: P_lin, those of the encoder's linear modules, which multiply a token.
        encoder_width: w_e.
    """

    sizes: GateShape
    shape: LaneModelShape | None
    num_parameters: int
    num_encoder_parameters: int
    num_multiplied: int
    encoder_width: int

    @classmethod
    def of(cls, model: ModelShape, folder: Path | None) -> GateNeeds:
        """The gate or lane model at a path, or the one that `errata train recipe` makes by default.

        A default one has a small encoder with the LLM's vocabulary.

        Raises:
            ModelNotFoundError: there is no lane model in the folder.
            ArtifactCorruptError: its metadata describe no lane model.
            BaseModelMismatchError: it was made for an LLM of another width.
        """
        with torch.device("meta"):
            made = _default(model) if folder is None else _stored(folder)
        shape = made.shape if isinstance(made, LaneModel) else None
        if shape is not None and shape.d != model.d:
            raise BaseModelMismatchError(
                f"the lane model in {folder} is for an LLM of width {shape.d}, but the plan's "
                f"has {model.d}; leave it out, or plan for its LLM."
            )
        return cls(
            made.sizes,
            shape,
            sum(tensor.numel() for tensor in made.state_dict().values()),
            sum(parameter.numel() for parameter in made.encoder.parameters()),
            sum(m.weight.numel() for m in made.encoder.modules() if isinstance(m, nn.Linear)),
            made.encoder.width,
        )

    def lane_model(self) -> LaneModelShape:
        """The shape of the lane model.

        Raises:
            ArtifactCorruptError: there is only a gate.
        """
        if self.shape is None:
            raise ArtifactCorruptError(
                "a RECIPE lane needs a lane model, not a gate; train one with `errata train recipe "
                "--gate`, or leave the path out."
            )
        return self.shape

    @property
    def num_bytes(self) -> int:
        """fp32 bytes of all parts."""
        return FP32 * self.num_parameters

    def replica(self) -> list[Need]:
        """In every process that decides claims or fits.

        An encoder's pass over at most 128 texts holds about 12 vectors of its width per token:
        hidden states, queries, keys, values, and the four times wider intermediate.
        """
        tokens = _ENCODED_AT_ONCE * self.sizes.max_tokens
        return [
            Need("lane model", self.num_bytes, "4·P_lane"),
            Need(
                "pass of the encoder",
                tokens * 12 * self.encoder_width * FP32,
                "128·T_e·12·w_e·4",
                during="request",
                is_estimate=True,
            ),
        ]

    def writer(self, load: EditLoad) -> list[Need]:
        """In the writer, in addition: a copy of the encoder in bf16 where that is faster."""
        if not load.has_fast_bf16:
            return []
        return [Need("encoder in bf16", 2 * self.num_encoder_parameters, "2·P_enc")]

    def store(self) -> Need:
        """The artifact, without its tokenizer's text; a gate's has one byte per parameter."""
        if self.shape is None:
            return Need("gate's artifact", self.num_parameters, "P_gate", "disk", is_estimate=True)
        return Need("lane model's artifact", self.num_bytes, "4·P_lane", "disk", is_estimate=True)

    def request(self, load: EditLoad) -> list[Work]:
        """The decision on one prompt of T tokens: one pass of the encoder, and the search."""
        return [
            Work(
                "encoding a prompt",
                2 * self.num_multiplied * load.text_tokens,
                "2·P_lin·T",
            ),
            Work("searching keys", 2 * load.num_edits * self.sizes.d_r, "2·N·d_r"),
        ]


def _default(model: ModelShape) -> LaneModel:
    config = TrainingConfig()
    encoder = small_config(
        model.num_embeddings, 0, config.max_tokens, width=config.width, depth=config.depth
    )
    made = Encoder(BertModel(encoder), Tokenizer(WordLevel()), config.max_tokens)
    return LaneModel(made, shape_of(config, model, max_tokens=config.max_tokens, after=0), "")


def _stored(folder: Path) -> GateModel:
    path = file_in(folder)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("kind") == GATE_KIND:
            return gate_file.build(metadata)
        return LaneModel(*build(metadata))
    except OSError as error:
        raise ModelNotFoundError(
            f"there is no lane model at {path}; train one with `errata train recipe`."
        ) from error
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ArtifactCorruptError(f"{path} is not a lane model ({error}).") from error
