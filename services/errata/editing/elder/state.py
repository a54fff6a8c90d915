"""What a replica holds of an ELDER lane: shared experts, and a key and a query for each edit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from errata.editing.artifact import Artifact, TensorSpec
from errata.editing.effects.mixture import Mixture
from errata.editing.elder.allocation import capacity, pack_codes
from errata.editing.elder.config import ElderConfig
from errata.editing.elder.experts import Experts, Shape
from errata.editing.elder.packing import METHOD_NAME, Packed, pack
from errata.editing.lane.contract import (
    NEARLY_FULL,
    Commit,
    LaneModelCommit,
    LaneModelDump,
    LaneReport,
)
from errata.editing.lane.inventory import (
    FACT_BYTES,
    Inventory,
    check_origin,
    unpack_facts,
)
from errata.editing.lane.repository import Repository, Rows
from errata.editing.lane.swap import Swap, Undo
from errata.editing.model.causal_lm import BaseLLM, CausalLM, tensor_bytes
from errata.editing.model.weights import EditedWeights
from errata.editing.retriever.gate import Gate
from errata.errors import (
    ArtifactCorruptError,
    PreconditionError,
)

_MOST_TOLD = 2**63 - 1  # an int64, as messages have it


@dataclass(frozen=True, eq=False, slots=True)
class Learned:
    """What all edits of a lane share, as the last commit left it.

    Attributes:
        experts: LoRAs and routers.
        mixture: the LoRAs as hooks mix them in.
        limit: ε of codes, τ of cosines.
        idf: for scope `idf`, (V) fp32; else empty.
        digest: SHA-256, hex, of all that.
    """

    experts: Experts
    mixture: Mixture
    limit: float
    idf: Tensor
    digest: str

    @classmethod
    def of(cls, experts: Experts, limit: float, idf: Tensor, llm: BaseLLM) -> Learned:
        """Puts all of it where the LLM is."""
        experts = experts.to(llm.device).requires_grad_(False)
        state = hashlib.sha256(repr(limit).encode())
        for tensor in (*experts.tensors().values(), idf):
            state.update(tensor_bytes(tensor))
        dtype = llm.dtype if isinstance(llm, CausalLM) else torch.float32
        mixture = experts.mixture(dtype=dtype)
        return cls(experts, mixture, limit, idf.to(llm.device), state.hexdigest())


@dataclass(frozen=True, eq=False, slots=True)
class Holdings:
    """All that a lane holds at one moment; never changed, only replaced.

    Attributes:
        gate: None but for scope `retriever`.
        learned: None before the first commit.
        inventory: keys by which scope tests find edits, (n, width), and queries, (n, d_q).
        codes: packed allocation codes of the repository's rows, (n, ⌈L·N/8⌉) uint8 on the host.
    """

    gate: Gate | None
    learned: Learned | None
    inventory: Inventory
    codes: Tensor

    @classmethod
    def of(cls, gate: Gate | None, learned: Learned | None, inventory: Inventory) -> Holdings:
        """Codes are those of all stored queries under the routers as they are now."""
        codes = _codes(learned, inventory.repository.values)
        return cls(gate, learned, inventory, codes)

    @property
    def repository(self) -> Repository:
        """The newest edit of each fact."""
        return self.inventory.repository


def _codes(learned: Learned | None, queries: Tensor) -> Tensor:
    if learned is None:
        return torch.zeros(0, 0, dtype=torch.uint8)
    with torch.inference_mode():
        return pack_codes(learned.experts.codes(queries)).cpu()


def _limit(artifact: Artifact, seq: int) -> float:
    try:
        return float(artifact.metadata["limit"])
    except (KeyError, ValueError) as error:
        raise ArtifactCorruptError(
            f"commit {seq} does not say what its edits claim: {error}.", seq=seq
        ) from error


class ElderState:
    """The ELDER lane of one replica."""

    def __init__(
        self, model: BaseLLM, config: ElderConfig, weights: EditedWeights | None, lane: str
    ) -> None:
        """An empty lane: it claims nothing.

        Args:
            model: of the replica.
            config: of the lane.
            weights: not needed; ELDER's own are mixed in row by row.
            lane: name of the lane.

        Raises:
            InvalidRequestError: layers, rank or experts do not fit the model.
        """
        self.llm, self.config = model, config
        self._lane = lane
        self._shape = Shape.of(model, config) if isinstance(model, CausalLM) else None
        none = Rows.none(0, 0)
        self.holdings = Holdings.of(None, None, Inventory.of(none))

    def prepare_model(self, commit: LaneModelCommit) -> Swap:
        """Reads a lane model, and the keys of all edits as it encodes them.

        Raises:
            BaseModelMismatchError, ArtifactCorruptError: it does not fit; nothing changed.
        """
        now = self.holdings
        now.inventory.check_same(commit.edits, commit.seq)
        gate = self._gate(commit)
        inventory = now.inventory
        if commit.repository is not None:
            shape = self._shape_of(now.learned)
            inventory = Inventory.of(
                self._read_rows(commit.repository, commit.edits, commit.seq, gate, shape)
            )
        return self._replace(Holdings.of(gate, now.learned, inventory))

    def dump(self) -> Callable[[], LaneModelDump] | None:
        """What copies out what is held now, on any thread."""
        held = self.holdings

        def copy() -> LaneModelDump:
            gate = "" if held.gate is None else held.gate.digest
            rows, learned = held.inventory.rows(), held.learned
            made = None
            if learned is not None:
                packed = Packed.whole(learned.experts)
                made = pack(self.llm, gate, rows, packed, learned.limit, learned.idf)
            return LaneModelDump(gate, rows.names, made)

        return copy

    def restore(self, commit: LaneModelCommit) -> Swap:
        """Reads what was dumped, whatever was held before.

        Raises:
            BaseModelMismatchError, ArtifactCorruptError: it does not fit; nothing changed.
        """
        gate = self._gate(commit)
        if commit.repository is None:
            return self._replace(Holdings.of(gate, None, Inventory.of(Rows.none(0, 0))))
        learned, rows = self._read(commit.repository, commit, gate, None)
        return self._replace(Holdings.of(gate, learned, Inventory.of(rows)))

    def prepare_commit(self, commit: Commit) -> Swap:
        """Checks a commit and makes room for it.

        Raises:
            PreconditionError: the lane still needs a lane model.
            BaseModelMismatchError, ArtifactCorruptError: it does not fit; nothing changed.
        """
        now = self.holdings
        if now.gate is None and self.config.scope == "retriever":
            raise PreconditionError(
                f"{self._lane} has no lane model yet; name one in the lanes file.", lane=self._lane
            )
        learned, rows = self._read(commit.artifact, commit, now.gate, now.learned)
        if not now.inventory.names:  # its widths are known only now
            now = replace(now, inventory=Inventory.of(rows.only(())))
        addition = now.inventory.adding(rows, commit.seq)
        codes = _codes(learned, addition.values)

        def swap() -> Undo:
            before = self.holdings
            self.holdings = Holdings(now.gate, learned, addition.put(), codes)

            def undo() -> None:
                addition.undo()
                self.holdings = before

            return undo

        return swap

    def prepare_compaction(self, commit: Commit) -> Swap:
        """Checks a commit of exactly the edits in force, with experts that know no others.

        Raises:
            BaseModelMismatchError, ArtifactCorruptError: it does not fit; nothing changed.
        """
        now = self.holdings
        now.inventory.check_same(commit.edits, commit.seq)
        learned, rows = self._read(commit.artifact, commit, now.gate, None)
        return self._replace(Holdings.of(now.gate, learned, Inventory.of(rows)))

    def prepare_revert(self, edits: Sequence[str]) -> Swap:
        """Prepares the lane without these edits' claims; what experts learned of them stays.

        Raises:
            EditNotRevertibleError: an edit is not in force in this lane; nothing changed.
        """
        now = self.holdings
        return self._replace(Holdings.of(now.gate, now.learned, now.inventory.without(edits)))

    def report(self) -> LaneReport:
        """Edits, and how many facts there are allocations for; a lane that fills up warns."""
        held, shape = self.holdings, self._shape
        if shape is None and held.learned is not None:
            shape = held.learned.experts.shape
        sizes = {"edits": len(held.inventory.names)}
        if shape is None:
            return LaneReport(sizes)
        most = capacity(len(shape.layers), shape.num_experts, shape.top_k)
        sizes |= {
            "capacity": min(most, _MOST_TOLD),
            "parameters": shape.num_parameters,
            "bytes": 4 * shape.num_parameters + held.inventory.num_bytes,
        }
        used = held.repository.num_rows / most
        if used < NEARLY_FULL:
            return LaneReport(sizes)
        return LaneReport(
            sizes,
            (
                f"{used:.0%} of the {most:,} allocations are taken; open a new lane with more "
                "experts or layers before they are used up.",
            ),
        )

    def digest(self) -> str:
        """SHA-256, hex, of lane model, experts, and every edit in force, in order."""
        held = self.holdings
        state = hashlib.sha256()
        if held.gate is not None:
            state.update(bytes.fromhex(held.gate.digest))
        if held.learned is not None:
            state.update(bytes.fromhex(held.learned.digest))
        state.update(held.inventory.digests())
        return state.hexdigest()

    def _replace(self, after: Holdings) -> Swap:
        def swap() -> Undo:
            before, self.holdings = self.holdings, after

            def undo() -> None:
                self.holdings = before

            return undo

        return swap

    def _gate(self, commit: LaneModelCommit) -> Gate | None:
        if self.config.scope != "retriever":
            return None
        return Gate.of_commit(commit, self.llm)

    def _shape_of(self, learned: Learned | None) -> Shape:
        if learned is None:
            raise ArtifactCorruptError("edits came before the experts that answer them.")
        return learned.experts.shape

    def _read(
        self,
        artifact: Artifact,
        commit: Commit | LaneModelCommit,
        gate: Gate | None,
        before: Learned | None,
    ) -> tuple[Learned, Rows]:
        """Experts and edits of a commit; without `before` all experts have to be in it."""
        packed, seq = Packed.read(artifact, commit.seq), commit.seq
        if self._shape is not None and packed.shape != self._shape:
            raise ArtifactCorruptError(
                f"commit {seq} has experts of another shape than the lane's configuration gives.",
                seq=seq,
            )
        if packed.since and (before is None or before.digest != packed.since):
            raise ArtifactCorruptError(
                f"commit {seq} says how experts differ from ones that the lane does not hold.",
                seq=seq,
            )
        size = len(artifact.tensors["idf"]) if "idf" in artifact.tensors else 0
        more = {**packed.specs(), "idf": TensorSpec((size,), torch.float32)}
        rows = self._read_rows(artifact, commit.edits, seq, gate, packed.shape, more)
        experts = packed.experts(None if before is None else before.experts)
        idf, limit = artifact.tensors["idf"], _limit(artifact, seq)
        return Learned.of(experts, limit, idf, self.llm), rows

    def _read_rows(
        self,
        artifact: Artifact,
        edits: tuple[str, ...],
        seq: int,
        gate: Gate | None,
        shape: Shape,
        more: dict[str, TensorSpec] | None = None,
    ) -> Rows:
        u = len(edits)
        check_origin(artifact, METHOD_NAME, self.llm, "" if gate is None else gate.digest, seq)
        keys = artifact.tensors.get("keys")
        width = 0 if keys is None else keys.shape[-1]
        artifact.check(
            {
                **(more or {}),
                "keys": TensorSpec((u, width), torch.float32),
                "queries": TensorSpec((u, shape.d_q), torch.float32),
                "facts": TensorSpec((u, FACT_BYTES), torch.uint8),
            }
        )
        told = unpack_facts(artifact.tensors["facts"])
        rows = Rows(edits, told, artifact.tensors["keys"], artifact.tensors["queries"])
        return rows.to(self.llm.device)
