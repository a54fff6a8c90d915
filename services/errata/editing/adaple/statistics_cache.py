"""Statistics of a base model's layers, computed once for a text and kept in files."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from errata.editing.artifact import Artifact, TensorSpec
from errata.editing.lane.contract import Resources
from errata.editing.model.causal_lm import CausalLM
from errata.errors import ArtifactCorruptError, PreconditionError

_MATRIX = "second_moment"  # of keys, or of gradients


@dataclass(frozen=True, slots=True)
class Statistic:
    """A matrix of each layer.

    Attributes:
        kind: in the names of the files.
        layers: that have one.
        width: of the matrix.
    """

    kind: str
    layers: Sequence[int]
    width: int


def cached(
    model: CausalLM,
    resources: Resources,
    statistic: Statistic,
    max_tokens: int,
    compute: Callable[[Sequence[str], Sequence[int]], Mapping[int, Tensor]],
) -> dict[int, Tensor]:
    """Reads the matrices from the cache; computes and caches those that are missing or damaged.

    The cache key consists of base model, layer, text and number of tokens.

    Args:
        model: the base model.
        resources: text, and the cache's folder.
        statistic: which one.
        max_tokens: that it is computed from.
        compute: text, layers → their matrices.

    Returns:
        Layer → (width, width) float64 on the model's device.

    Raises:
        PreconditionError: not cached, and the model no longer holds its base weights.
    """
    text = list(resources.text())
    files = {
        layer: _file(statistic.kind, model, resources.cache_dir, layer, text, max_tokens)
        for layer in statistic.layers
    }
    read = {layer: _read(model, path, statistic.width) for layer, path in files.items()}
    found = {layer: matrix for layer, matrix in read.items() if matrix is not None}
    missing = [layer for layer in statistic.layers if layer not in found]
    if missing:
        if model.current_digest() != model.digest:
            raise PreconditionError(
                f"the {statistic.kind} matrices of this lane are not cached and the model already "
                "carries edits; compute them with the base model first.",
                layers=missing,
            )
        for layer, matrix in compute(text, missing).items():
            _write(files[layer], matrix)
            found[layer] = matrix
    return {layer: found[layer] for layer in statistic.layers}


def _file(
    kind: str, model: CausalLM, folder: Path, layer: int, text: Sequence[str], max_tokens: int
) -> Path:
    """The file of a layer's matrix of one kind, named after all that it depends on."""
    key = hashlib.sha256(f"{model.digest}|{layer}|{max_tokens}".encode())
    for paragraph in text:
        key.update(b"|" + hashlib.sha256(paragraph.encode()).digest())
    return folder / f"{kind}-{key.hexdigest()}.safetensors"


def _write(path: Path, matrix: Tensor) -> None:
    """Writes a matrix so that no reader sees a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
    temporary.write_bytes(Artifact({_MATRIX: matrix}).to_bytes())
    temporary.replace(path)


def _read(model: CausalLM, path: Path, width: int) -> Tensor | None:
    """A (width, width) float64 matrix on the model's device; None if missing or damaged."""
    specs: Mapping[str, TensorSpec] = {_MATRIX: TensorSpec((width, width), torch.float64)}
    try:
        stored = Artifact.from_bytes(path.read_bytes())
        stored.check(specs)
    except (OSError, ArtifactCorruptError):
        return None
    return stored.tensors[_MATRIX].to(model.device)
