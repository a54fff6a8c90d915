"""What a replica holds of a RECIPE lane: the lane model, and a key and a prompt for each edit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from errata.editing.artifact import Artifact, TensorSpec
from errata.editing.causal_lm import BaseLLM
from errata.editing.method import Commit, LaneModelCommit, LaneModelDump
from errata.editing.recipe.config import RecipeConfig
from errata.editing.recipe.lane_model import LaneModel
from errata.editing.recipe.repository import Repository, Rows
from errata.editing.swap import Swap, Undo
from errata.editing.weights import EditedWeights
from errata.errors import (
    ArtifactCorruptError,
    BaseModelMismatchError,
    EditNotRevertibleError,
    PreconditionError,
)

_METHOD = "recipe"
_FACT_BYTES = 32


def fact_of(prompt: str) -> str:
    """What an edit with this prompt is about: edits of one fact supersede one another."""
    return hashlib.sha256(prompt.strip().encode()).hexdigest()


def pack(lane_model: str, base_model: str, rows: Rows) -> Artifact:
    """The artifact of a fit: `keys` (u, d_r), `prompts` (u, l, d), fp32; `facts` (u, 32) bytes."""
    facts = torch.tensor([list(bytes.fromhex(fact)) for fact in rows.facts], dtype=torch.uint8)
    tensors = {"keys": rows.keys.cpu(), "prompts": rows.prompts.cpu(), "facts": facts}
    metadata = {"method": _METHOD, "base_model": base_model, "lane_model": lane_model}
    return Artifact(tensors, metadata)


@dataclass(frozen=True, slots=True)
class _Edit:
    """One edit in force."""

    fact: str
    digest: bytes


@dataclass(frozen=True, eq=False, slots=True)
class Retriever:
    """What decides claims at one moment; cheap to keep, for its parts are shared.

    Attributes:
        model: the lane model.
        sentinel: r_Θ, (d_r) fp32.
        repository: the newest edit of each fact.
    """

    model: LaneModel
    sentinel: Tensor
    repository: Repository


@dataclass(frozen=True, eq=False, slots=True)
class Holdings:
    """All that a lane holds at one moment; never changed, only replaced.

    Attributes:
        model_digest: SHA-256, hex, of the lane model's artifact.
        retriever: lane model, sentinel and active edits.
        superseded: rows of edits in force whose fact has a newer edit, by name.
        edits: all edits in force, oldest first.
    """

    model_digest: str
    retriever: Retriever
    superseded: Mapping[str, Rows]
    edits: Mapping[str, _Edit]

    @property
    def model(self) -> LaneModel:
        """The lane model."""
        return self.retriever.model

    @property
    def repository(self) -> Repository:
        """The newest edit of each fact."""
        return self.retriever.repository

    @classmethod
    def of(cls, model: LaneModel, digest: str, rows: Rows) -> Holdings:
        """Holdings with exactly these edits, in this order."""
        repository = Repository.of(rows)
        active = set(repository.names)
        old = [name for name in rows.names if name not in active]
        superseded = {name: rows.only({name}) for name in old}
        with torch.inference_mode():
            sentinel = model.sentinel_key()
        return cls(digest, Retriever(model, sentinel, repository), superseded, _edits(rows))

    def rows(self) -> Rows:
        """All edits in force, oldest first, superseded ones in their places."""
        repository = self.repository
        facts = tuple(self.edits[name].fact for name in repository.names)
        active = Rows(repository.names, facts, repository.keys, repository.prompts)
        if not self.superseded:
            return active
        order = {name: number for number, name in enumerate(self.edits)}
        return Rows.joined([active, *self.superseded.values()]).sorted(order.__getitem__)


def _edits(rows: Rows) -> dict[str, _Edit]:
    facts = zip(rows.names, rows.facts, rows.digests(), strict=True)
    return {name: _Edit(fact, digest) for name, fact, digest in facts}


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
        known = self._holdings.edits if self._holdings is not None else {}
        if set(commit.edits) != known.keys():
            raise ArtifactCorruptError(
                f"the lane model of commit {commit.seq} does not bring the {len(known)} edits in "
                "force.",
                seq=commit.seq,
            )
        return self.restore(commit)

    def dump(self) -> Callable[[], LaneModelDump] | None:
        """What copies out what is held now, on any thread; None without a lane model."""
        held = self._holdings
        if held is None:
            return None

        def copy() -> LaneModelDump:
            repository = pack(held.model_digest, self.llm.digest, held.rows())
            return LaneModelDump(
                held.model_digest, tuple(held.edits), repository if held.edits else None
            )

        return copy

    def restore(self, commit: LaneModelCommit) -> Swap:
        """Reads a lane model and all edits, whatever was held before.

        Raises:
            BaseModelMismatchError, ArtifactCorruptError: it does not fit; nothing changed.
        """
        model = LaneModel.from_artifact(commit.model, self.llm)
        if commit.repository is None:
            rows = Rows.none(model.shape)
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
        rows = rows.to(self.llm.device)
        if not now.edits.keys().isdisjoint(rows.names):
            raise ArtifactCorruptError(f"commit {commit.seq} is already applied.", seq=commit.seq)
        facts = {now.edits[name].fact for name in now.repository.names}
        if not facts.isdisjoint(rows.facts) or len(set(rows.facts)) < len(rows.facts):
            joined = Rows.joined([now.rows(), rows])
            return self._replace(Holdings.of(now.model, now.model_digest, joined))
        room = now.repository.with_room(len(rows.names))
        more = _edits(rows)

        def swap() -> Undo:
            retriever = replace(now.retriever, repository=room.with_rows(rows))
            self._holdings = replace(now, retriever=retriever, edits={**now.edits, **more})

            def undo() -> None:
                room.reclaim()
                self._holdings = now

            return undo

        return swap

    def prepare_revert(self, edits: Sequence[str]) -> Swap:
        """Prepares the lane as if `edits` had never been, bit for bit (P11).

        Raises:
            EditNotRevertibleError: an edit is not in force in this lane; nothing changed.
        """
        now = self._holdings
        unknown = set(edits) - (now.edits.keys() if now is not None else set())
        if now is None or unknown:
            raise EditNotRevertibleError(
                f"{', '.join(sorted(unknown))}: not committed in lane {self._lane}, or already "
                "reverted."
            )
        rows = now.rows().without(set(edits))
        return self._replace(Holdings.of(now.model, now.model_digest, rows))

    def digest(self) -> str:
        """SHA-256, hex, of lane model and of every edit in force, in order."""
        state = hashlib.sha256()
        if self._holdings is not None:
            state.update(bytes.fromhex(self._holdings.model_digest))
            state.update(b"".join(edit.digest for edit in self._holdings.edits.values()))
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
        facts, shape, u = artifact.metadata, model.shape, len(edits)
        if facts.get("base_model") != self.llm.digest:
            raise BaseModelMismatchError(
                f"commit {seq} was made for base model {facts.get('base_model')}, this replica "
                f"runs {self.llm.digest}; load the model that the log was made with.",
                seq=seq,
            )
        if facts.get("method") != _METHOD or facts.get("lane_model") != model_digest:
            raise ArtifactCorruptError(
                f"commit {seq} was made with lane model {facts.get('lane_model')}, the lane has "
                f"{model_digest}.",
                seq=seq,
            )
        artifact.check(
            {
                "keys": TensorSpec((u, shape.d_r), torch.float32),
                "prompts": TensorSpec((u, shape.num_prompt, shape.d), torch.float32),
                "facts": TensorSpec((u, _FACT_BYTES), torch.uint8),
            }
        )
        names = tuple(bytes(row).hex() for row in artifact.tensors["facts"].tolist())
        return Rows(edits, names, artifact.tensors["keys"], artifact.tensors["prompts"])
