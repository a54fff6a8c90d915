"""The file of a gate: 8-bit weights, without an LLM's digest and without continuous prompts.

Every matrix W is stored as steps and one step size for each row:

    s_i = max_j |W_ij| / 127,    n_ij = round(W_ij / s_i),    W'_ij = s_i · n_ij

Each W'_ij is one product of two fp32 numbers, which IEEE 754 rounds in one way: all machines read
the same bits. Vectors and scalars are stored in fp32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from errata.editing.artifact import Artifact, TensorSpec
from errata.editing.model.causal_lm import BaseLLM, KnownLLM
from errata.editing.retriever.encoder import Encoder
from errata.editing.retriever.gate_model import GateModel
from errata.editing.retriever.heads import GateShape
from errata.editing.retriever.lane_model import GATE_FILE_NAME, LaneModel, read_bytes
from errata.editing.retriever.lane_model_metadata import (
    GATE_KIND,
    describe_texts,
    encoder_config,
    texts_in,
)
from errata.errors import ArtifactCorruptError

_MAX_STEPS = 127  # int8
_FEWEST_ROWS = 2  # of a matrix that is worth a step size for each row


def to_artifact(gate: GateModel) -> Artifact:
    """A gate as an artifact; of a lane model, its gate."""
    tensors = {name: t for name, t in gate.state_dict().items() if not _is_of_prompts(name)}
    metadata = {
        "kind": GATE_KIND,
        "encoder": encoder_config(gate.encoder),
        "tokenizer": gate.encoder.tokenizer.to_str(),
        **describe_texts(gate.frames, gate.learned),
        "sizes": json.dumps(asdict(gate.sizes), sort_keys=True),
    }
    return Artifact(_packed(tensors), metadata)


def from_artifact(artifact: Artifact, device: torch.device) -> GateModel:
    """Reads the result of `to_artifact`.

    Raises:
        ArtifactCorruptError: the artifact is not a gate, or its tensors do not have the expected
            names and shapes.
    """
    try:
        made = build(artifact.metadata)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorruptError(
            f"the metadata of the gate are incomplete or invalid: {error}."
        ) from error
    expected = made.state_dict()
    artifact.check(_specs(expected))
    made.load_state_dict(_unpacked(artifact.tensors))
    return made.to(device).eval().requires_grad_(False)


def read(artifact: Artifact, llm: BaseLLM) -> GateModel:
    """The gate in a gate file or in a lane model; the latter must belong to the LLM.

    Raises:
        BaseModelMismatchError, ArtifactCorruptError: it cannot be used here.
    """
    if artifact.metadata.get("kind") == GATE_KIND:
        return from_artifact(artifact, llm.device)
    return LaneModel.from_artifact(artifact, llm)


def load(path: Path, device: torch.device) -> GateModel:
    """The gate at a path, or that of a lane model of any LLM.

    Raises:
        ModelNotFoundError: there is neither.
        ArtifactCorruptError: as `from_artifact`.
    """
    artifact = Artifact.from_bytes(read_bytes(path))
    return read(artifact, KnownLLM(artifact.metadata.get("base_model", ""), device))


def build(metadata: Mapping[str, str]) -> GateModel:
    """A gate without its weights.

    Raises:
        KeyError, TypeError, ValueError: the metadata do not describe a gate.
    """
    if metadata.get("kind") != GATE_KIND:
        raise ValueError("the artifact is not a gate")
    sizes = GateShape(**json.loads(metadata["sizes"]))
    config = json.loads(metadata["encoder"])
    encoder = Encoder.from_config(config, metadata["tokenizer"], sizes.max_tokens)
    return GateModel(encoder, sizes, *texts_in(metadata))


def save(gate: GateModel, folder: Path) -> None:
    """Writes `gate.safetensors` into a folder, which is created if necessary."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / GATE_FILE_NAME).write_bytes(to_artifact(gate).to_bytes())


def _is_of_prompts(name: str) -> bool:
    return name.startswith("prompt_mlp.")


def _is_matrix(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.ndim == 2 and len(tensor) >= _FEWEST_ROWS


def _packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        values = tensor.detach().cpu()
        if not _is_matrix(values):
            packed[name] = values
            continue
        size = values.float().abs().amax(1, keepdim=True) / _MAX_STEPS
        steps = torch.where(size > 0, values.float() / size, 0.0).round()
        packed |= {f"{name}.steps": steps.to(torch.int8), f"{name}.size": size}
    return packed


def _unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    values = {}
    for name, tensor in tensors.items():
        base, _, part = name.rpartition(".")
        if part == "steps":
            values[base] = tensors[f"{base}.size"] * tensor.float()
        elif part != "size":
            values[name] = tensor
    return values


def _specs(expected: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    specs: dict[str, TensorSpec] = {}
    for name, tensor in expected.items():
        if _is_matrix(tensor):
            specs[f"{name}.steps"] = TensorSpec(tuple(tensor.shape), torch.int8)
            specs[f"{name}.size"] = TensorSpec((len(tensor), 1), torch.float32)
        else:
            specs[name] = TensorSpec(tuple(tensor.shape), tensor.dtype)
    return specs
