"""What a replica holds of a LEMoE lane: experts with anchors, and who learned which edit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from errata.editing.artifact import Artifact
from errata.editing.lane.contract import (
    NEARLY_FULL,
    Commit,
    LaneModelCommit,
    LaneModelDump,
    LaneReport,
)
from errata.editing.lane.inventory import Inventory
from errata.editing.lane.repository import Repository, Rows
from errata.editing.lane.swap import Swap, Undo
from errata.editing.lemoe.config import LemoeConfig
from errata.editing.lemoe.experts import Shape
from errata.editing.lemoe.lane_experts import Member, Routing
from errata.editing.lemoe.packing import Contents, pack, read, read_rows
from errata.editing.model.causal_lm import BaseLLM, CausalLM
from errata.editing.model.weights import EditedWeights
from errata.editing.retriever.gate import Gate
from errata.errors import PreconditionError


@dataclass(frozen=True, eq=False, slots=True)
class Holdings:
    """All that a lane holds at one moment; never changed, only replaced.

    Attributes:
        gate: None but for scope `retriever`.
        routing: None before the first commit.
        members: experts, oldest first.
        member_of: edit → number of its expert.
        inventory: keys by which scope tests find edits, (n, width), and mean embeddings e, (n, d).
    """

    gate: Gate | None
    routing: Routing | None
    members: tuple[Member, ...]
    member_of: Mapping[str, int]
    inventory: Inventory

    @property
    def repository(self) -> Repository:
        """The newest edit of each fact."""
        return self.inventory.repository

    @property
    def anchors(self) -> Tensor:
        """(t, d) fp32 in host memory, t at least 1."""
        return torch.stack([member.anchor for member in self.members])

    def without(self, edits: Collection[str]) -> Holdings:
        """Without these edits' claims, and without experts that have no edit left.

        A lane without any edit has no projection either: it is as it was before the first one.

        Raises:
            EditNotRevertibleError: an edit is not in force.
        """
        inventory = self.inventory.without(edits)
        if not inventory.names:
            return _nothing(self.gate)
        left = {name: self.member_of[name] for name in inventory.names}
        used = sorted(set(left.values()))
        number = {old: new for new, old in enumerate(used)}
        return replace(
            self,
            members=tuple(self.members[old] for old in used),
            member_of={name: number[old] for name, old in left.items()},
            inventory=inventory,
        )


class LemoeState:
    """The LEMoE lane of one replica."""

    def __init__(
        self, model: BaseLLM, config: LemoeConfig, weights: EditedWeights | None, lane: str
    ) -> None:
        """An empty lane: it claims nothing.

        Args:
            model: of the replica.
            config: of the lane.
            weights: not needed; experts are consulted row by row.
            lane: name of the lane.

        Raises:
            InvalidRequestError: layer or rank do not fit the model.
        """
        self.llm, self.config = model, config
        self._lane = lane
        self._shape = Shape.of(model, config) if isinstance(model, CausalLM) else None
        self.holdings = _nothing(None)

    def prepare_model(self, commit: LaneModelCommit) -> Swap:
        """Reads a lane model, and the keys of all edits as it encodes them; experts stay.

        Raises:
            BaseModelMismatchError, ArtifactCorruptError: it does not fit; nothing changed.
        """
        now = self.holdings
        now.inventory.check_same(commit.edits, commit.seq)
        gate = self._gate(commit)
        after = replace(now, gate=gate)
        if commit.repository is not None:
            rows = read_rows(commit.repository, self.llm, commit.edits, commit.seq, gate=gate)
            after = replace(after, inventory=Inventory.of(rows))
        return self._replace(after)

    def dump(self) -> Callable[[], LaneModelDump] | None:
        """What copies out what is held now, on any thread."""
        held = self.holdings

        def copy() -> LaneModelDump:
            rows, made = held.inventory.rows(), None
            if held.routing is not None:
                owners = [held.member_of[name] for name in rows.names]
                made = pack(
                    self.llm,
                    held.gate,
                    rows,
                    held.routing,
                    held.members,
                    owners,
                    with_projection=True,
                )
            digest = "" if held.gate is None else held.gate.digest
            return LaneModelDump(digest, rows.names, made)

        return copy

    def restore(self, commit: LaneModelCommit) -> Swap:
        """Reads what was dumped, whatever was held before.

        Raises:
            BaseModelMismatchError, ArtifactCorruptError: it does not fit; nothing changed.
        """
        gate = self._gate(commit)
        if commit.repository is None:
            return self._replace(_nothing(gate))
        found = self._read(commit.repository, commit, gate, None)
        return self._replace(_all_of(gate, commit.edits, found))

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
        found = self._read(commit.artifact, commit, now.gate, now.routing)
        inventory = now.inventory
        if not inventory.names:  # its widths are known only now
            inventory = Inventory.of(found.rows.only(()))
        addition = inventory.adding(found.rows, commit.seq)
        first = len(now.members)
        owners = zip(commit.edits, found.member_of, strict=True)
        member_of = {**now.member_of, **{name: first + number for name, number in owners}}
        members = (*now.members, *found.members)

        def swap() -> Undo:
            before = self.holdings
            self.holdings = Holdings(now.gate, found.routing, members, member_of, addition.put())

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
        found = self._read(commit.artifact, commit, now.gate, None)
        return self._replace(_all_of(now.gate, commit.edits, found))

    def prepare_revert(self, edits: Sequence[str]) -> Swap:
        """Prepares the lane without these edits' claims, and without experts that are left empty.

        Raises:
            EditNotRevertibleError: an edit is not in force in this lane; nothing changed.
        """
        return self._replace(self.holdings.without(edits))

    def report(self) -> LaneReport:
        """Edits, experts and their bytes; a lane that fills up warns."""
        held, most = self.holdings, self.config.max_experts
        num = len(held.members)
        sizes = {
            "edits": len(held.inventory.names),
            "experts": num,
            "max_experts": most,
            "bytes": sum(member.num_bytes for member in held.members) + held.inventory.num_bytes,
        }
        if num < NEARLY_FULL * most:
            return LaneReport(sizes)
        way_out = self.config.way_out
        warning = f"{num} of {most} experts are taken; before they are used up, {way_out}."
        return LaneReport(sizes, (warning,))

    def digest(self) -> str:
        """SHA-256, hex, of lane model, experts, and every edit in force, in order."""
        held = self.holdings
        state = hashlib.sha256()
        if held.gate is not None:
            state.update(bytes.fromhex(held.gate.digest))
        if held.routing is not None:
            state.update(held.routing.digest)
        for member in held.members:
            state.update(member.digest)
        state.update(held.inventory.digests())
        state.update(repr([held.member_of[name] for name in held.inventory.names]).encode())
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

    def _read(
        self,
        artifact: Artifact,
        commit: Commit | LaneModelCommit,
        gate: Gate | None,
        known: Routing | None,
    ) -> Contents:
        return read(
            artifact,
            self.llm,
            commit.edits,
            commit.seq,
            gate=gate,
            wanted=self._shape,
            known=known,
        )


def _all_of(gate: Gate | None, edits: Sequence[str], found: Contents) -> Holdings:
    """What an artifact that holds a whole lane says."""
    member_of = dict(zip(edits, found.member_of, strict=True))
    return Holdings(gate, found.routing, found.members, member_of, Inventory.of(found.rows))


def _nothing(gate: Gate | None) -> Holdings:
    return Holdings(gate, None, (), {}, Inventory.of(Rows.none(0, 0)))
