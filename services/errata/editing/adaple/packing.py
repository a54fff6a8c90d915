"""What an AdaPLE commit carries: low-rank factors of each layer's Δ, and the seed of its mask."""

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
    """The artifact of a fit: `layer.{l}.left` (d, u), `layer.{l}.right` (d_ff, u), `gains`.

    `gains` (layers, u) fp32 are u_jᵀk_j, each edit's response to its own key: the unit in which
    attribution measures other inputs. The drop mask travels as its seed. `facts` says what each
    edit is about, `replaced` in whose place it was fitted.
    """
    tensors: dict[str, Tensor] = {}
    for layer, delta in deltas.items():
        tensors[f"layer.{layer}.left"] = delta.left.cpu()
        tensors[f"layer.{layer}.right"] = delta.right.cpu()
    gains = [(deltas[layer].right.double() * keys[layer]).sum(0) for layer in deltas]
    tensors["gains"] = torch.stack(gains).float().cpu()
    metadata = {
        "base_model": model.digest,
        "drop": repr(config.drop),
        "facts": json.dumps(list(facts)),
        "fusion": config.fusion,
        "method": _METHOD,
        "replaced": json.dumps([list(names) for names in replaced]),
        "seed": str(seed),
        "variant": config.variant,
    }
    return Artifact(tensors, metadata)


@dataclass(frozen=True, slots=True)
class Committed:
    """One commit on this replica.

    Attributes:
        edits: u names.
        facts: what each is about; empty in commits of older versions.
        replaced: for each, the earlier edits of its fact, on weights without which it was fitted.
        present: (u,) bool, which are not reverted.
        acting: (u,) bool, which of these no present edit stands in for.
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

    def without(self, names: Collection[str]) -> Committed:
        """With these edits as the ones that another stands in for."""
        passive = torch.tensor([name in names for name in self.edits], device=self.present.device)
        acting = self.present & ~passive
        return self if torch.equal(acting, self.acting) else replace(self, acting=acting)

    def contribution(self, config: AdapleConfig) -> Contribution:
        """What the acting edits add to the weights: drop and rescale of their part of Δ."""

        def delta(layer: int) -> Tensor:
            factors = self.factors[layer]
            whole = factors.dense()
            # With all edits acting, the same product as in the fit, hence the same bits.
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


def read(commit: Commit, model: CausalLM, config: AdapleConfig, layers: Sequence[int]) -> Committed:
    """Reads what `pack` made.

    Raises:
        BaseModelMismatchError: made for another base model.
        ArtifactCorruptError: does not fit lane or model.
    """
    artifact, size = commit.artifact, len(commit.edits)
    metadata = artifact.metadata
    expected = {"method": _METHOD, "fusion": config.fusion, "drop": repr(config.drop)}
    for name, value in expected.items():
        if metadata.get(name) != value:
            raise ArtifactCorruptError(
                f"the artifact says {name}={metadata.get(name)!r}, the lane {value!r}; it was "
                "made for another lane configuration.",
                seq=commit.seq,
            )
    if metadata.get("base_model") != model.digest:
        raise BaseModelMismatchError(
            f"commit {commit.seq} was made for base model {metadata.get('base_model')}, this "
            f"replica runs {model.digest}; load the model that the log was made with.",
            seq=commit.seq,
        )
    artifact.check(_specs(model, layers, size))
    tensors = {name: tensor.to(model.device) for name, tensor in artifact.tensors.items()}
    everything = torch.ones(size, dtype=torch.bool, device=model.device)
    return Committed(
        edits=commit.edits,
        facts=_facts(metadata, size),
        replaced=_replaced_edits(metadata, size),
        present=everything,
        acting=everything,
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
        raise ArtifactCorruptError(f"the artifact's {name} are no list of names.") from error


def _one_each(name: str, found: tuple[T, ...], size: int) -> tuple[T, ...]:
    """One value for each edit; none at all in artifacts of versions that had no such list."""
    if len(found) not in (0, size):
        raise ArtifactCorruptError(f"the artifact's {name} are not one for each of its edits.")
    return found


def _seed(metadata: Mapping[str, str]) -> int:
    try:
        return int(metadata["seed"])
    except (KeyError, ValueError) as error:
        raise ArtifactCorruptError("the artifact carries no seed for its drop masks.") from error


def _specs(model: CausalLM, layers: Sequence[int], size: int) -> dict[str, TensorSpec]:
    specs = {"gains": TensorSpec((len(layers), size), torch.float32)}
    for layer in layers:
        specs[f"layer.{layer}.left"] = TensorSpec((model.d, size), torch.float32)
        specs[f"layer.{layer}.right"] = TensorSpec((model.d_ff, size), torch.float32)
    return specs
