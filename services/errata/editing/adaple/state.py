"""What a replica holds of an AdaPLE lane: factors of every commit, their sum in the weights."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from errata.editing.adaple.attribution import Directions
from errata.editing.adaple.config import AdapleConfig
from errata.editing.adaple.fusion import fuse
from errata.editing.adaple.solve import LowRankDelta
from errata.editing.artifact import Artifact, TensorSpec
from errata.editing.lane.contract import Commit
from errata.editing.lane.swap import Swap, Undo
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.weights import Contribution, ContributionId, EditedWeights
from errata.errors import ArtifactCorruptError, BaseModelMismatchError, EditNotRevertibleError

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
class _Committed:
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

    def without(self, names: Collection[str]) -> _Committed:
        """With these edits as the ones that another stands in for."""
        passive = torch.tensor([name in names for name in self.edits], device=self.present.device)
        acting = self.present & ~passive
        return self if torch.equal(acting, self.acting) else replace(self, acting=acting)

    def contribution(self, config: AdapleConfig) -> Contribution:
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


class AdapleState:
    """The AdaPLE lane of one replica.

    An edit is fitted on weights without the earlier edits of its own fact, and acts in their
    place: a repeat does not lean on the first one, and whichever is reverted, the other holds.
    """

    def __init__(
        self, model: CausalLM, config: AdapleConfig, weights: EditedWeights, lane: str
    ) -> None:
        """An empty lane.

        Args:
            model: of the replica.
            config: of the lane.
            weights: the ledger that all lanes of the model share.
            lane: name of the lane.

        Raises:
            InvalidRequestError: a configured layer does not exist in the model.
        """
        self.model, self.config = model, config
        self.layers = config.resolve_layers(model.num_layers)
        self._weights, self._lane = weights, lane
        self._commits: dict[int, _Committed] = {}
        self._directions: Directions | None = None

    def prepare_commit(self, commit: Commit) -> Swap:
        """Checks a commit and computes the weights with it, beside the model.

        Raises:
            BaseModelMismatchError: made for another base model; nothing changed.
            ArtifactCorruptError: does not fit lane or model; nothing changed.
        """
        committed = self._read(commit)
        return self._prepare({commit.seq: committed})

    def prepare_revert(self, edits: Sequence[str]) -> Swap:
        """Computes the weights without the columns of `edits`, rebuilt from the base in order.

        Raises:
            EditNotRevertibleError: an edit is not present in this lane; nothing changed.
        """
        wanted = set(edits)
        changes: dict[int, _Committed] = {}
        for seq, commit in self._commits.items():
            hit = torch.tensor([name in wanted for name in commit.edits])
            hit = hit.to(commit.present.device) & commit.present
            if bool(hit.any()):
                changes[seq] = replace(commit, present=commit.present & ~hit)
                wanted -= {
                    name for name, now in zip(commit.edits, hit.tolist(), strict=True) if now
                }
        if wanted:
            raise EditNotRevertibleError(
                f"{', '.join(sorted(wanted))}: not committed in lane {self._lane}, or already "
                "reverted."
            )
        return self._prepare(changes)

    def edits_of(self, fact: str) -> tuple[str, ...]:
        """Present edits about a fact (`inventory.fact_of`), oldest first."""
        return tuple(
            name
            for _, commit in sorted(self._commits.items())
            for name, own, here in zip(
                commit.edits, commit.facts, commit.present.tolist(), strict=False
            )
            if here and own == fact
        )

    def digest(self) -> str:
        """SHA-256, hex, of the bytes that the lane's layers hold in the model now."""
        return self._weights.digest(self.layers)

    def directions(self) -> Directions:
        """Present edits, newest first, and the input directions of the last edited layer."""
        # Asked at every prefill, changed only by commits and reverts.
        if self._directions is None:
            self._directions = self._compute_directions()
        return self._directions

    def _compute_directions(self) -> Directions:
        names: list[str] = []
        columns = [torch.zeros(self.model.d_ff, 0, device=self.model.device)]
        for _, commit in sorted(self._commits.items(), reverse=True):
            order = commit.acting.nonzero()[:, 0].flip(0)
            names += [commit.edits[int(column)] for column in order.tolist()]
            scaled = commit.factors[self.layers[-1]].right / commit.gains[-1]
            columns.append(scaled[:, order])
        return Directions.of(names, torch.cat(columns, dim=-1))

    def _prepare(self, changes: Mapping[int, _Committed]) -> Swap:
        after = dict(sorted({**self._commits, **changes}.items()))
        passive = _replaced(after.values())
        turned = passive ^ _replaced(self._commits.values())
        for seq, commit in after.items():
            if seq in changes or not turned.isdisjoint(commit.edits):
                after[seq] = commit.without(passive)
        contributions: dict[ContributionId, Contribution | None] = {
            (seq, self._lane): (
                commit.contribution(self.config) if bool(commit.acting.any()) else None
            )
            for seq, commit in after.items()
            if commit is not self._commits.get(seq)
        }
        swap_weights = self._weights.prepare(contributions)

        def swap() -> Undo:
            before = self._commits
            undo_weights = swap_weights()
            self._commits, self._directions = after, None

            def undo() -> None:
                undo_weights()
                self._commits, self._directions = before, None

            return undo

        return swap

    def _read(self, commit: Commit) -> _Committed:
        artifact, size = commit.artifact, len(commit.edits)
        metadata = artifact.metadata
        expected = {
            "method": _METHOD,
            "fusion": self.config.fusion,
            "drop": repr(self.config.drop),
        }
        for name, value in expected.items():
            if metadata.get(name) != value:
                raise ArtifactCorruptError(
                    f"the artifact says {name}={metadata.get(name)!r}, the lane {value!r}; it was "
                    "made for another lane configuration.",
                    seq=commit.seq,
                )
        if metadata.get("base_model") != self.model.digest:
            raise BaseModelMismatchError(
                f"commit {commit.seq} was made for base model {metadata.get('base_model')}, this "
                f"replica runs {self.model.digest}; load the model that the log was made with.",
                seq=commit.seq,
            )
        if commit.seq in self._commits or not _unique_new(commit.edits, self._commits.values()):
            raise ArtifactCorruptError(f"commit {commit.seq} is already applied.", seq=commit.seq)
        artifact.check(_specs(self.model, self.layers, size))
        device = self.model.device
        tensors = {name: tensor.to(device) for name, tensor in artifact.tensors.items()}
        return _Committed(
            edits=commit.edits,
            facts=_facts(metadata, size),
            replaced=_replaced_edits(metadata, size),
            present=torch.ones(size, dtype=torch.bool, device=device),
            acting=torch.ones(size, dtype=torch.bool, device=device),
            factors={
                layer: LowRankDelta(tensors[f"layer.{layer}.left"], tensors[f"layer.{layer}.right"])
                for layer in self.layers
            },
            gains=tensors["gains"],
            seed=_seed(metadata),
        )


def _replaced(commits: Collection[_Committed]) -> frozenset[str]:
    """Edits that a present one stands in for."""
    return frozenset(
        old
        for commit in commits
        if any(commit.replaced)
        for names, here in zip(commit.replaced, commit.present.tolist(), strict=True)
        if here
        for old in names
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


def _unique_new(edits: tuple[str, ...], commits: Collection[_Committed]) -> bool:
    known = {name for commit in commits for name in commit.edits}
    return len(set(edits)) == len(edits) and known.isdisjoint(edits)


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
