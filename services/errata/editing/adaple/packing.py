"""The artifact of an AdaPLE commit: low-rank factors of each layer's Δ, and the masks' seed."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.fusion import fuse
from errata.editing.adaple.solve import LowRankDelta
from errata.editing.artifact import Artifact, TensorSpec
from errata.editing.lane.commits import Commit
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.weights import Contribution
from errata.errors import ArtifactCorruptError, BaseModelMismatchError

_METHOD = "adaple"
T = TypeVar("T")


def pack(
    model: CausalLM,
    config: AdapleConfig,
    seed: int,
    deltas: Mapping[int, LowRankDelta],
    keys: Mapping[int, Tensor],
    facts: Sequence[str],
    replaced: Sequence[Sequence[str]],
) -> Artifact:
    """Makes the artifact of a fit: `layer.{l}.left` (d, u), `layer.{l}.right` (d_ff, u), `gains`.

    `gains` (layers, u) fp32 are u_jᵀk_j, each edit's response to its own key; attribution measures
    responses to other inputs relative to it. The artifact has the drop masks' seed, not the masks.
    `facts` holds each edit's fact, `replaced` the earlier edits that it replaces.
    """
    gains = [(deltas[layer].right.double() * keys[layer]).sum(0) for layer in deltas]
    tensors = _tensors(deltas, torch.stack(gains).float())
    return Artifact(tensors, _metadata(model, config, seed, facts, replaced))


def _tensors(deltas: Mapping[int, LowRankDelta], gains: Tensor) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {"gains": gains.cpu()}
    for layer, delta in deltas.items():
        tensors[f"layer.{layer}.left"] = delta.left.cpu()
        tensors[f"layer.{layer}.right"] = delta.right.cpu()
    return tensors


def _metadata(
    model: CausalLM,
    config: AdapleConfig,
    seed: int,
    facts: Sequence[str],
    replaced: Sequence[Sequence[str]],
) -> dict[str, str]:
    return {
        "base_model": model.digest,
        "drop": repr(config.drop),
        "facts": json.dumps(list(facts)),
        "fusion": config.fusion,
        "method": _METHOD,
        "replaced": json.dumps([list(names) for names in replaced]),
        "seed": str(seed),
        "variant": config.variant,
    }


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit as a replica holds it.

    Attributes:
        edits: u names.
        facts: the fact of each edit; empty in commits of older versions.
        replaced: for each edit, the earlier edits of its fact; it was fitted on weights without
            them.
        present: (u,) bool, true for edits that are not reverted.
        acting: (u,) bool, true for present edits that no other present edit replaces.
        factors: by layer.
        gains: (layers, u).
        seed: of the drop masks.
    """

    edits: tuple[str, ...]
    facts: tuple[str, ...]
    replaced: tuple[tuple[str, ...], ...]
    present: Tensor
    acting: Tensor
    factors: Mapping[int, LowRankDelta]
    gains: Tensor
    seed: int

    def with_replaced(self, names: Collection[str]) -> Committed:
        """Sets `acting` for these names of all replaced edits."""
        is_replaced = [name in names for name in self.edits]
        acting = self.present & ~torch.tensor(is_replaced, device=self.present.device)
        return self if torch.equal(acting, self.acting) else replace(self, acting=acting)

    def contribution(self, config: AdapleConfig) -> Contribution:
        """What the acting edits add to the weights: their part of Δ, after fusion."""

        def delta(layer: int) -> Tensor:
            factors = self.factors[layer]
            whole = factors.dense()
            # If all edits act, this is the same product as in the fit, so the bits are the same.
            part = whole
            if not bool(self.acting.all()):
                part = factors.left[:, self.acting] @ factors.right[:, self.acting].T
            return fuse(
                part,
                whole,
                fusion=config.fusion,
                seed=self.seed,
                layer=layer,
                p=config.drop,
            )

        return Contribution(layers=tuple(self.factors), delta=delta)


def repack(model: CausalLM, config: AdapleConfig, commit: Committed) -> Artifact:
    """The artifact that `read` read."""
    metadata = _metadata(model, config, commit.seed, commit.facts, commit.replaced)
    return Artifact(_tensors(commit.factors, commit.gains), metadata)


def read(commit: Commit, model: CausalLM, config: AdapleConfig, layers: Sequence[int]) -> Committed:
    """Reads an artifact that `pack` made.

    Raises:
        BaseModelMismatchError: the artifact was made for another base model.
        ArtifactCorruptError: the artifact does not fit the lane or the model.
    """
    artifact, size = commit.artifact, len(commit.edits)
    metadata = artifact.metadata
    expected = {"method": _METHOD, "fusion": config.fusion, "drop": repr(config.drop)}
    for name, value in expected.items():
        if metadata.get(name) != value:
            raise ArtifactCorruptError(
                f"the artifact has {name}={metadata.get(name)!r}, the lane has {value!r}; the "
                "artifact was made for another lane configuration.",
                seq=commit.seq,
            )
    if metadata.get("base_model") != model.digest:
        raise BaseModelMismatchError(
            f"commit {commit.seq} was made for base model {metadata.get('base_model')}, but this "
            f"replica runs {model.digest}; load the model that the log was made with.",
            seq=commit.seq,
        )
    artifact.check(_specs(model, layers, size))
    device = model.device
    tensors = {name: tensor.to(device) for name, tensor in artifact.tensors.items()}
    all_edits = torch.ones(size, dtype=torch.bool, device=device)
    return Committed(
        edits=commit.edits,
        facts=_facts(metadata, size),
        replaced=_replaced_edits(metadata, size),
        present=all_edits,
        acting=all_edits,
        factors={
            layer: LowRankDelta(tensors[f"layer.{layer}.left"], tensors[f"layer.{layer}.right"])
            for layer in layers
        },
        gains=tensors["gains"],
        seed=_seed(metadata),
    )


_Texts = TypeAdapter(tuple[str, ...])
_Lists = TypeAdapter(tuple[tuple[str, ...], ...])


def _facts(metadata: Mapping[str, str], size: int) -> tuple[str, ...]:
    return _one_each("facts", _read_json(_Texts, metadata, "facts"), size)


def _replaced_edits(metadata: Mapping[str, str], size: int) -> tuple[tuple[str, ...], ...]:
    return _one_each("replaced", _read_json(_Lists, metadata, "replaced"), size)


def _read_json(kind: TypeAdapter[T], metadata: Mapping[str, str], name: str) -> T:
    try:
        return kind.validate_json(metadata.get(name, "[]"), strict=True)
    except ValidationError as error:
        raise ArtifactCorruptError(f"the artifact's {name} are not a list of names.") from error


def _one_each(name: str, found: tuple[T, ...], size: int) -> tuple[T, ...]:
    """Checks that there is one value for each edit; artifacts of older versions have none."""
    if len(found) not in (0, size):
        raise ArtifactCorruptError(f"the artifact's {name} do not have one value for each edit.")
    return found


def _seed(metadata: Mapping[str, str]) -> int:
    try:
        return int(metadata["seed"])
    except (KeyError, ValueError) as error:
        raise ArtifactCorruptError("the artifact has no valid seed for its drop masks.") from error


def _specs(model: CausalLM, layers: Sequence[int], size: int) -> dict[str, TensorSpec]:
    specs = {"gains": TensorSpec((len(layers), size), torch.float32)}
    for layer in layers:
        specs[f"layer.{layer}.left"] = TensorSpec((model.d, size), torch.float32)
        specs[f"layer.{layer}.right"] = TensorSpec((model.d_ff, size), torch.float32)
    return specs
