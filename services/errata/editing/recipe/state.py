"""What a replica holds of a RECIPE lane: the lane model, and a key and a prompt for each edit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from errata.editing.artifact import Artifact, TensorSpec
from errata.editing.lane.contract import Commit, LaneModelCommit, LaneModelDump
from errata.editing.lane.inventory import (
    FACT_BYTES,
    Inventory,
    check_origin,
    pack_facts,
    unpack_facts,
)
from errata.editing.lane.repository import Repository, Rows
from errata.editing.lane.swap import Swap, Undo
from errata.editing.model.causal_lm import BaseLLM
from errata.editing.model.weights import EditedWeights
from errata.editing.recipe.config import RecipeConfig
from errata.editing.retriever.lane_model import LaneModel
from errata.editing.retriever.sentinel import Retriever
from errata.errors import (
    ArtifactCorruptError,
    EditNotRevertibleError,
    PreconditionError,
)

_METHOD = "recipe"


def pack(lane_model: str, base_model: str, rows: Rows) -> Artifact:
    """The artifact of a fit: `keys` (u, d_r), `prompts` (u, S, l, d), fp32; `facts` as bytes."""
    tensors = {
        "keys": rows.keys.cpu(),
        "prompts": rows.values.cpu(),
        "facts": pack_facts(rows.facts),
    }
    metadata = {"method": _METHOD, "base_model": base_model, "lane_model": lane_model}
    return Artifact(tensors, metadata)


@dataclass(frozen=True, eq=False, slots=True)
class Holdings:
    """All that a lane holds at one moment; never changed, only replaced.

    Attributes:
        model_digest: SHA-256, hex, of the lane model's artifact.
        model: the lane model.
        sentinel: r_Θ, (d_r) fp32.
        inventory: keys r_k, (n, d_r), and prompts p_k, (n, S, l, d), of the edits.
    """

    model_digest: str
    model: LaneModel
    sentinel: Tensor
    inventory: Inventory

    @classmethod
    def of(cls, model: LaneModel, digest: str, rows: Rows) -> Holdings:
        """Holdings with exactly these edits, in this order."""
        with torch.inference_mode():
            sentinel = model.sentinel_key()
        return cls(digest, model, sentinel, Inventory.of(rows))

    @property
    def repository(self) -> Repository:
        """The newest edit of each fact."""
        return self.inventory.repository

    @property
    def retriever(self) -> Retriever:
        """What decides claims."""
        return Retriever(self.model, self.sentinel, self.repository)


class RecipeState:
    """The RECIPE lane of one replica."""

    def __init__(
        self, model: BaseLLM, config: RecipeConfig, weights: EditedWeights | None, lane: str
    ) -> None:
        """An empty lane without a lane model: it claims nothing.

        Args:
            model: of the replica.
            config: of the lane.
            weights: not needed; RECIPE changes none.
            lane: name of the lane.
        """
        self.llm, self.config = model, config
        self._lane = lane
        self._holdings: Holdings | None = None

    @property
    def holdings(self) -> Holdings:
        """What the lane holds now.

        Raises:
            PreconditionError: no lane model was committed yet.
        """
        if self._holdings is None:
            raise PreconditionError(
                f"{self._lane} has no lane model yet; name one in the lanes file.", lane=self._lane
            )
        return self._holdings

    @property
    def has_model(self) -> bool:
        """Whether a lane model was committed."""
        return self._holdings is not None

    def prepare_model(self, commit: LaneModelCommit) -> Swap:
        """Reads a lane model, and the whole repository as it encodes it.

        Raises:
            BaseModelMismatchError, ArtifactCorruptError: it does not fit; nothing changed.
        """
        known = (
            Inventory.of(Rows.none(0, 0)) if self._holdings is None else self._holdings.inventory
        )
        known.check_same(commit.edits, commit.seq)
        return self.restore(commit)

    def dump(self) -> Callable[[], LaneModelDump] | None:
        """What copies out what is held now, on any thread; None without a lane model."""
        held = self._holdings
        if held is None:
            return None

        def copy() -> LaneModelDump:
            rows = held.inventory.rows()
            repository = pack(held.model_digest, self.llm.digest, rows) if rows.names else None
            return LaneModelDump(held.model_digest, rows.names, repository)

        return copy

    def restore(self, commit: LaneModelCommit) -> Swap:
        """Reads a lane model and all edits, whatever was held before.

        Raises:
            BaseModelMismatchError, ArtifactCorruptError: it does not fit; nothing changed.
        """
        if commit.model is None:
            raise ArtifactCorruptError(f"entry {commit.seq} brings no lane model.", seq=commit.seq)
        model = LaneModel.from_artifact(commit.model, self.llm)
        if commit.repository is None:
            shape = model.shape
            rows = Rows.none(shape.d_r, *shape.prompt_size)
        else:
            rows = self._read(commit.repository, commit.edits, commit.seq, model, commit.digest)
        return self._replace(Holdings.of(model, commit.digest, rows.to(self.llm.device)))

    def prepare_commit(self, commit: Commit) -> Swap:
        """Checks a commit and makes room for it.

        Raises:
            PreconditionError: no lane model was committed before.
            BaseModelMismatchError, ArtifactCorruptError: it does not fit; nothing changed.
        """
        now = self.holdings
        rows = self._read(commit.artifact, commit.edits, commit.seq, now.model, now.model_digest)
        addition = now.inventory.adding(rows.to(self.llm.device), commit.seq)

        def swap() -> Undo:
            self._holdings = replace(now, inventory=addition.put())

            def undo() -> None:
                addition.undo()
                self._holdings = now

            return undo

        return swap

    def prepare_revert(self, edits: Sequence[str]) -> Swap:
        """Prepares the lane as if `edits` had never been, bit for bit (P11).

        Raises:
            EditNotRevertibleError: an edit is not in force in this lane; nothing changed.
        """
        now = self._holdings
        if now is None:
            raise EditNotRevertibleError(f"lane {self._lane} has no edit yet.")
        return self._replace(replace(now, inventory=now.inventory.without(edits)))

    def digest(self) -> str:
        """SHA-256, hex, of lane model and of every edit in force, in order."""
        state = hashlib.sha256()
        if self._holdings is not None:
            state.update(bytes.fromhex(self._holdings.model_digest))
            state.update(self._holdings.inventory.digests())
        return state.hexdigest()

    def _replace(self, after: Holdings) -> Swap:
        def swap() -> Undo:
            before, self._holdings = self._holdings, after

            def undo() -> None:
                self._holdings = before

            return undo

        return swap

    def _read(
        self,
        artifact: Artifact,
        edits: tuple[str, ...],
        seq: int,
        model: LaneModel,
        model_digest: str,
    ) -> Rows:
        shape, u = model.shape, len(edits)
        check_origin(artifact, _METHOD, self.llm, model_digest, seq)
        artifact.check(
            {
                "keys": TensorSpec((u, shape.d_r), torch.float32),
                "prompts": TensorSpec((u, *shape.prompt_size), torch.float32),
                "facts": TensorSpec((u, FACT_BYTES), torch.uint8),
            }
        )
        told = unpack_facts(artifact.tensors["facts"])
        return Rows(edits, told, artifact.tensors["keys"], artifact.tensors["prompts"])
