"""Applies log entries to the lanes of one model; used by every process that follows the log.

Applying never fits: artifacts are bytes, and the same entries in the same order give the same
state on every replica (P7). Each change is prepared apart from the running model, then swapped in.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping

import structlog
from torch import Tensor

from errata.artifacts.source import ArtifactSource
from errata.editing.artifact import Artifact
from errata.editing.canaries import Canaries
from errata.editing.lane.commits import (
    Commit,
    Compaction,
    LaneEntry,
    LaneModelCommit,
    Promotion,
    Restoration,
    Reversal,
)
from errata.editing.lane.contract import Attribution, Lane
from errata.editing.lane.search import Indices
from errata.editing.lane.swap import Change
from errata.editing.model.causal_lm import BaseLLM, CausalLM
from errata.editing.model.weights import EditedWeights, Undo
from errata.errors import (
    DataLossError,
    InvalidRequestError,
    PreconditionError,
)
from errata.log.canary_entries import CanaryEnded, CanarySet, Outcome
from errata.log.entries import (
    ArtifactRef,
    EditsCommitted,
    EditsRequested,
    EditsReverted,
    Entry,
    LaneCompacted,
    LaneConfigured,
    LaneModelCommitted,
)
from errata.replica.active_edits import ActiveEdits
from errata.replica.attribution import CombinedAttribution
from errata.replica.commit_gate import CommitGate
from errata.replica.open_lane import (
    OpenLane,
    changes_weights,
    check_model,
    lane_change,
    open_lane,
)
from errata.replica.records import recorded, recording
from errata.replica.routing_table import RoutingTable
from errata.replica.snapshot import CapturedState, Manifest, Snapshot
from errata.replica.state_digest import state_digest

_log = structlog.get_logger(__name__)


class Applier:
    """The lanes of one model after all log entries up to a position."""

    def __init__(
        self,
        model: BaseLLM,
        artifacts: ArtifactSource,
        indices: Indices,
        *,
        keep_memory: bool = False,
        gate: CommitGate | None = None,
    ) -> None:
        """Starts without lanes.

        Args:
            model: a CausalLM with its base weights; any other BaseLLM has no weights, and only
                lanes that route are applied.
            artifacts: source of the commits' tensors.
            indices: makes the indices that routing searches.
            keep_memory: also load the memory that later fits need, as the writer does.
            gate: refuses commits that are not signed as they must be; by default it trusts the
                log's first trust entry.
        """
        self.gate = gate or CommitGate()
        self.model = model
        self.lanes: dict[str, OpenLane] = {}
        self._artifacts = artifacts
        self._indices = indices
        self._keep_memory = keep_memory
        self._weights = EditedWeights(model) if isinstance(model, CausalLM) else None
        self._opened_early: dict[str, OpenLane] = {}
        self._left_out: set[str] = set()  # lanes that need weights, in a process without
        self._edits = ActiveEdits()

    @property
    def num_edits(self) -> int:
        """Number of active edits."""
        return len(self._edits.lane_of)

    @property
    def canaries(self) -> Canaries:
        """The open canaries."""
        return self._edits.canaries

    def num_edits_by_lane(self) -> dict[str, int]:
        """Number of active edits of each lane that is applied here."""
        counts = Counter(self._edits.lane_of.values())
        return {name: counts[name] for name in sorted(self.lanes)}

    def device_usage(self) -> dict[str, dict[str, int]]:
        """Sizes, by lane, of what is on the device only while in use."""
        sizes = {name: dict(lane.lane.device_usage()) for name, lane in sorted(self.lanes.items())}
        return {name: usage for name, usage in sizes.items() if usage}

    def digest(self) -> str:
        """SHA-256, hex, of the base model and the current state of every lane."""
        return self._digest_of(self.lanes)

    def _digest_of(self, lanes: Mapping[str, OpenLane]) -> str:
        return state_digest(self.model.digest, lanes, self.canaries)

    def attribution(self) -> Attribution | None:
        """Names the active edits that shape a forward pass; None if no lane attributes."""
        by_lane = (lane.lane.attribution() for lane in self._active_lanes())
        parts = [attribution for attribution in by_lane if attribution is not None]
        return CombinedAttribution(parts, self._edits.commit_seq) if parts else None

    def routing(self) -> RoutingTable | None:
        """Decides which prompts the active edits claim; None if no active lane routes."""
        by_lane = {lane.configured.lane: lane.lane.view() for lane in self._active_lanes()}
        views = {name: view for name, view in by_lane.items() if view is not None}
        return RoutingTable(views, self._edits.commit_seq, self.canaries) if views else None

    def open_early(self, payload: LaneConfigured) -> Lane:
        """Opens a lane before its entry is applied; applying the entry then installs this lane.

        So the writer gathers statistics of the base model before any edit changes it.

        Raises:
            InvalidRequestError: the configuration does not fit the model.
            BaseModelMismatchError, PreconditionError: as for `prepare` of the entry.
        """
        opened = self._find_lane(payload) or self._opened_early.get(payload.lane)
        if opened is None or opened.configured != payload:
            opened = self._opened_early[payload.lane] = self._open(payload)
        return opened.lane

    def holds(self, configured: LaneConfigured) -> bool:
        """Whether this process holds the contents of such a lane."""
        return self._weights is not None or not changes_weights(configured)

    def capture(self) -> Callable[[], CapturedState]:
        """Captures the current state; the returned call copies it, on any thread, during applies.

        It hashes the weights that lanes changed: call it on a thread, while nothing is applied.
        """
        dumps = {name: lane.lane.dump() for name, lane in self.lanes.items()}
        commit_seq, digest = dict(self._edits.commit_seq), self.digest()
        routed = self._digest_of(
            {n: lane for n, lane in self.lanes.items() if not lane.capabilities.changes_weights}
        )

        def copy() -> CapturedState:
            lanes = {name: dump() for name, dump in dumps.items()}
            return CapturedState(lanes, commit_seq, digest, routed)

        return copy

    def base_weights(self) -> dict[int, Tensor]:
        """Base weights of the layers that lanes may change; call it while nothing is applied."""
        return {} if self._weights is None else self._weights.base()

    def restore(self, snapshot: Snapshot) -> None:
        """Restores a snapshot in an applier that has applied nothing yet; blocks.

        Raises:
            ErrataError: the snapshot does not fit, is not trusted, or the restored state has
                another digest. The applier has applied nothing, as before.
        """
        undos: list[Undo] = []
        try:
            state = self.gate.state_of(snapshot.fold.trust, snapshot.named)
            fold = snapshot.fold
            open_ = fold.canaries.open
            self._edits = ActiveEdits.of(fold.standings(), snapshot.commit_seq, open_)
            for configured in snapshot.fold.lanes.values():
                undos += self._restore_lane(snapshot, configured)
            self._check_restored(snapshot.manifest)
        except BaseException:
            for undo in reversed(undos):
                undo()
            self._opened_early.update(self.lanes)
            self.lanes.clear()
            self._left_out.clear()
            self._edits = ActiveEdits()
            raise
        self.gate.state = state

    def _restore_lane(self, snapshot: Snapshot, configured: LaneConfigured) -> list[Undo]:
        name, held = configured.lane, snapshot.lanes.get(configured.lane)
        change = self._prepare_lane(configured)
        if change is not None:
            change.apply()
        if held is None:
            return []
        lane = self._lane(snapshot.position.seq, name)
        table = held.dump.contents
        outside = self._edits.outside(() if table is None else table.edits)
        restoration = Restoration(snapshot.position.seq, held.dump, held.model, outside)
        return [lane_change(name, lane, restoration).apply()]

    def _check_restored(self, manifest: Manifest) -> None:
        expected = manifest.routed_digest if self._left_out else manifest.state_digest
        if self.digest() != expected:
            raise DataLossError(
                f"the state restored from the snapshot at entry {manifest.position.seq} differs "
                "from the one that it was taken of.",
                seq=manifest.position.seq,
            )

    async def prepare(self, entry: Entry) -> Change | None:
        """Prepares an entry's effect, separately from the running model.

        Returns:
            The change, or None if the entry has no effect. Apply it before the next entry is
            prepared.

        Raises:
            CommitNotTrustedError: no trusted key signed the commit; nothing was fetched.
            BaseModelMismatchError: the log was made for another base model.
            PreconditionError, DataLossError, LimitExceededError: the entry contradicts earlier
                entries, or its artifact cannot be used. Nothing changed in any case.
        """
        trusted = self.gate.check(entry)
        change = await self._prepare_effect(entry)
        if trusted is None:
            return change
        return recorded(trusted) if change is None else change.followed_by(recording(trusted))

    async def _prepare_effect(self, entry: Entry) -> Change | None:
        match entry.payload:
            case LaneConfigured():
                return self._prepare_lane(entry.payload)
            case EditsRequested(edits=edits) as payload if payload.has_namespaces:
                return recorded(lambda: self._edits.request(edits))
            case EditsCommitted():
                return await self._prepare_commit(entry.seq, entry.payload)
            case EditsReverted():
                return await self._prepare_reversal(entry.seq, entry.payload)
            case LaneModelCommitted():
                return await self._prepare_lane_model(entry.seq, entry.payload)
            case LaneCompacted():
                return await self._prepare_compaction(entry.seq, entry.payload)
            case CanarySet() as opened:
                return recorded(lambda: self._edits.set_canary(opened, entry.seq))
            case CanaryEnded():
                return await self._prepare_canary_end(entry.seq, entry.payload)
            case _:
                return None

    def _prepare_lane(self, payload: LaneConfigured) -> Change | None:
        if self._find_lane(payload) is not None:
            return None
        early = self._opened_early.pop(payload.lane, None)
        try:
            if not self.holds(payload):
                return recorded(lambda: self._left_out.add(payload.lane))
            lane = early if early and early.configured == payload else self._open(payload)
        except InvalidRequestError as error:
            # A lane without edits changes no answer: only an entry that needs it stops the replica.
            _log.error("a lane cannot be opened", lane=payload.lane, reason=error.message)
            return None
        return recorded(lambda: self.lanes.update({payload.lane: lane}))

    def _find_lane(self, payload: LaneConfigured) -> OpenLane | None:
        """The lane that this payload configured already."""
        check_model(self.model, payload.base_model_digest, f"lane {payload.lane}")
        opened = self.lanes.get(payload.lane)
        if opened is not None and opened.configured != payload:
            raise PreconditionError(
                f"{payload.lane} already has another configuration; give the new lane another "
                "name.",
                lane=payload.lane,
            )
        return opened

    def _open(self, payload: LaneConfigured) -> OpenLane:
        return open_lane(payload, self.model, self._weights, self._indices)

    async def _prepare_commit(self, seq: int, payload: EditsCommitted) -> Change:
        check_model(self.model, payload.base_model_digest, f"commit {seq}")

        def record() -> None:
            self._edits.commit(payload.edits, payload.lane, seq)

        if payload.lane in self._left_out:
            return recorded(record)
        self._lane(seq, payload.lane)
        artifact = await self._load(payload.artifact)
        memory = await self._load(payload.memory) if self._keep_memory and payload.memory else None
        outside = self._edits.outside(payload.edits)
        commit = Commit(seq, payload.edits, artifact, memory, outside)
        change = await self._prepare_in(payload.lane, commit)
        return change.followed_by(recording(record))

    async def _prepare_lane_model(self, seq: int, payload: LaneModelCommitted) -> Change | None:
        check_model(self.model, payload.base_model_digest, f"lane model {seq}")
        if payload.lane in self._left_out:
            return None
        lane = self._lane(seq, payload.lane)
        if not lane.capabilities.has_lane_models:
            raise DataLossError(
                f"entry {seq} gives {payload.lane} a lane model, but {lane.configured.method} has "
                "none.",
                seq=seq,
            )
        commit = LaneModelCommit(
            seq=seq,
            model=await self._load(payload.model),
            digest=payload.model.digest,
            edits=payload.edits,
            repository=await self._load(payload.repository) if payload.repository else None,
            namespaces=self._edits.outside(payload.edits),
        )
        return await self._prepare_in(payload.lane, commit)

    async def _prepare_compaction(self, seq: int, payload: LaneCompacted) -> Change | None:
        check_model(self.model, payload.base_model_digest, f"compaction {seq}")
        if payload.lane in self._left_out:
            return None
        lane = self._lane(seq, payload.lane)
        if lane.lane.compact is None:
            raise DataLossError(
                f"entry {seq} compacts {payload.lane}, but {lane.configured.method} has no "
                "compaction.",
                seq=seq,
            )
        artifact, outside = await self._load(payload.artifact), self._edits.outside(payload.edits)
        compaction = Compaction(seq, payload.edits, artifact, outside)
        return await self._prepare_in(payload.lane, compaction)

    async def _prepare_reversal(self, seq: int, payload: EditsReverted) -> Change | None:
        """Prepares a reversal; every replica skips edits that are already reverted."""
        edits, name = self._edits.to_revert(seq, payload.edits)
        if not edits:
            return None

        def record() -> None:
            self._edits.revert(edits)

        if name in self._left_out:
            return recorded(record)
        change = await self._prepare_in(name, Reversal(edits))
        return change.followed_by(recording(record))

    async def _prepare_canary_end(self, seq: int, payload: CanaryEnded) -> Change:
        canary, edits = self._edits.to_end(seq, payload)
        promoted = payload.outcome is Outcome.PROMOTED

        def record() -> None:
            if not promoted:
                self._edits.revert(edits)
            self._edits.end_canary(payload.canary, promoted=promoted)

        if not edits:
            return recorded(record)
        self._lane(seq, canary.lane)
        entry = Promotion(edits, canary.namespace) if promoted else Reversal(edits)
        change = await self._prepare_in(canary.lane, entry)
        return change.followed_by(recording(record))

    async def _prepare_in(self, name: str, entry: LaneEntry) -> Change:
        return await asyncio.to_thread(lane_change, name, self.lanes[name], entry)

    def _active_lanes(self) -> list[OpenLane]:
        names = set(self._edits.lane_of.values()) - self._left_out
        return [self.lanes[name] for name in sorted(names)]

    async def _load(self, reference: ArtifactRef) -> Artifact:
        data = await self._artifacts.get(reference.digest, reference.size_bytes)
        return await asyncio.to_thread(Artifact.from_bytes, data)

    def _lane(self, seq: int, name: str) -> OpenLane:
        if name not in self.lanes:
            raise DataLossError(
                f"entry {seq} needs {name}, which is not configured, or which this process could "
                "not open: its log says why. Upgrade this process to the writer's version.",
                seq=seq,
            )
        return self.lanes[name]
