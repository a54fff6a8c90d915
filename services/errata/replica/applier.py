"""Applies log entries to the lanes of one model; whoever follows the log shares this code.

Applying never refits: artifacts are bytes, and the same entries in the same order give the same
state on every replica (P7). Each change is prepared beside the running model and swapped in.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from torch import Tensor

from errata.artifacts.source import ArtifactSource
from errata.editing.artifact import Artifact
from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.lane.contract import (
    Attribution,
    Commit,
    LaneConfig,
    LaneMemory,
    LaneModelCommit,
    LaneState,
    Method,
    Router,
    get_method,
)
from errata.editing.lane.search import Indices
from errata.editing.model.causal_lm import BaseLLM, CausalLM
from errata.editing.model.weights import EditedWeights
from errata.errors import BaseModelMismatchError, DataLossError, PreconditionError
from errata.log.entries import (
    ArtifactRef,
    EditsCommitted,
    EditsReverted,
    Entry,
    LaneCompacted,
    LaneConfigured,
    LaneModelCommitted,
)
from errata.replica.routing_table import RoutingTable
from errata.replica.snapshot import Fold


@dataclass(frozen=True, slots=True)
class Lane:
    """A configured lane on this replica.

    Attributes:
        configured: the entry that made it.
        method: what it is configured from.
        config: of the method.
        state: what the replica holds.
        memory: what the writer keeps between fits; None on replicas that never fit.
        router: decides which prompts its edits claim; None if the method does not route.
    """

    configured: LaneConfigured
    method: Method
    config: LaneConfig
    state: LaneState
    memory: LaneMemory | None
    router: Router | None

    def route(self, prompts: Sequence[str]) -> list[RowPlan]:
        """What the lane's edits give each prompt."""
        if self.router is None:
            return [BASE] * len(prompts)
        view = self.router.view()
        return view.plans(view.claims(prompts))


class Applier:
    """The lanes of one model, as the log's entries up to some position left them."""

    def __init__(
        self,
        model: BaseLLM,
        artifacts: ArtifactSource,
        indices: Indices,
        *,
        keep_memory: bool = False,
    ) -> None:
        """No lane yet.

        Args:
            model: a CausalLM with its base weights; any other BaseLLM has no weights, and only
                lanes that route are applied.
            artifacts: where commits' tensors come from.
            indices: what routers search in.
            keep_memory: also load what later fits need; the writer does.
        """
        self.model = model
        self.lanes: dict[str, Lane] = {}
        self._artifacts = artifacts
        self._indices = indices
        self._keep_memory = keep_memory
        self._weights = EditedWeights(model) if isinstance(model, CausalLM) else None
        self._left_out: set[str] = set()  # lanes that need weights, where there are none
        self._lane_of: dict[str, str] = {}  # edits in force → their lane
        self._commit_seq: dict[str, int] = {}  # edits → their commit; only ever grows
        self._reverted: set[str] = set()

    @property
    def num_edits(self) -> int:
        """Edits in force."""
        return len(self._lane_of)

    def num_edits_by_lane(self) -> dict[str, int]:
        """Edits in force of each lane that is applied here."""
        counts = Counter(self._lane_of.values())
        return {name: counts[name] for name in sorted(self.lanes)}

    def resident(self) -> dict[str, dict[str, int]]:
        """Sizes, by lane, of what is on the device only while it is used."""
        routers = {name: lane.router for name, lane in sorted(self.lanes.items()) if lane.router}
        sizes = {name: dict(router.resident()) for name, router in routers.items()}
        return {name: held for name, held in sizes.items() if held}

    def digest(self) -> str:
        """SHA-256, hex, of base model and of what every lane holds now."""
        state = hashlib.sha256(self.model.digest.encode())
        for name, lane in sorted(self.lanes.items()):
            state.update(f"|{name}|{lane.configured.config_digest}|{lane.state.digest()}".encode())
        return state.hexdigest()

    def attribution(self) -> Attribution | None:
        """What names the edits that a forward pass answers to now; None while none is in force."""
        parts = [
            lane.method.attribute(lane.state)
            for lane in self._lanes_in_force()
            if lane.method.attribute is not None
        ]
        return _AllLanes(parts, self._commit_seq) if parts else None

    def routing(self) -> RoutingTable | None:
        """What decides which prompts the edits in force now claim; None if none could any."""
        views = {
            lane.configured.lane: lane.router.view()
            for lane in self._lanes_in_force()
            if lane.router is not None
        }
        return RoutingTable(views, self._commit_seq) if views else None

    def fold(self) -> Callable[[], Fold]:
        """What is held now; the call copies it out, on any thread, while more is applied.

        Raises:
            PreconditionError: a lane changes weights; only what routes can be folded.
        """
        held = []
        for name, lane in self.lanes.items():
            if lane.method.lane_model is None:
                raise PreconditionError(
                    f"{name} changes weights; only lanes that route are part of a snapshot.",
                    lane=name,
                )
            held.append((lane.configured, lane.method.lane_model.dump(lane.state)))
        lane_of, digest = dict(self._lane_of), self.digest()
        commit_seq = {edit: self._commit_seq[edit] for edit in lane_of}
        left_out, reverted = tuple(sorted(self._left_out)), tuple(sorted(self._reverted))

        def copy() -> Fold:
            lanes = tuple((configured, dump and dump()) for configured, dump in held)
            return Fold(lanes, left_out, lane_of, commit_seq, reverted, digest)

        return copy

    async def restore(self, fold: Fold, seq: int) -> None:
        """Puts a fold into an applier that has applied nothing yet.

        Raises:
            ErrataError: the fold does not fit, or gives another state than it was made of; use a
                new applier then.
        """
        for configured, held in fold.lanes:
            apply = self._prepare_lane(configured)
            if apply is not None:
                apply()
            lane = self.lanes[configured.lane]
            if held is None or lane.method.lane_model is None:
                continue
            model = None
            if held.model_digest:
                data = await self._artifacts.get(held.model_digest)
                model = await asyncio.to_thread(Artifact.from_bytes, data)
            commit = LaneModelCommit(seq, model, held.model_digest, held.edits, held.repository)
            swap = await asyncio.to_thread(lane.method.lane_model.restore, lane.state, commit)
            swap()
        self._left_out.update(fold.left_out)
        self._lane_of.update(fold.lane_of)
        self._commit_seq.update(fold.commit_seq)
        self._reverted.update(fold.reverted)
        if self.digest() != fold.state_digest:
            raise DataLossError("the snapshot gives another state than it was made of.", seq=seq)

    def _lanes_in_force(self) -> list[Lane]:
        names = set(self._lane_of.values()) - self._left_out
        return [self.lanes[name] for name in sorted(names)]

    def alters_weights(self, entry: Entry) -> bool:
        """Whether an entry that has an effect changes weights that every row reads."""
        match entry.kind:
            case EditsCommitted(lane=name):
                return self.lanes[name].method.capabilities.changes_weights
            case EditsReverted(edits=edits):
                names = {self._lane_of[edit] for edit in edits if edit in self._lane_of}
                return any(self.lanes[n].method.capabilities.changes_weights for n in names)
            case _:
                return False

    async def prepare(self, entry: Entry) -> Callable[[], None] | None:
        """Prepares an entry's effect beside the model.

        Returns:
            A callable that puts the effect in place, or None if the entry has none. Prepare the
            next entry only after this one is in place.

        Raises:
            BaseModelMismatchError: the log was made for another base model.
            PreconditionError, DataLossError: the entry contradicts those before it, or its
                artifact cannot be used. Nothing changed in either case.
        """
        match entry.kind:
            case LaneConfigured():
                return self._prepare_lane(entry.kind)
            case EditsCommitted():
                return await self._prepare_commit(entry.seq, entry.kind)
            case EditsReverted():
                return await self._prepare_revert(entry.seq, entry.kind)
            case LaneModelCommitted():
                return await self._prepare_lane_model(entry.seq, entry.kind)
            case LaneCompacted():
                return await self._prepare_compaction(entry.seq, entry.kind)
            case _:
                return None

    def check_lane(self, kind: LaneConfigured) -> None:
        """Returns if such a lane could be opened; nothing changes.

        Raises:
            InvalidRequestError: the model cannot have it.
            BaseModelMismatchError, PreconditionError: as `prepare` of the same entry.
        """
        self._prepare_lane(kind)

    def _prepare_lane(self, kind: LaneConfigured) -> Callable[[], None] | None:
        self._check_model(kind.base_model_digest, f"lane {kind.lane}")
        known = self.lanes.get(kind.lane)
        if known is not None:
            if known.configured == kind:
                return None
            raise PreconditionError(
                f"{kind.lane} is configured twice, differently; give the new one another name.",
                lane=kind.lane,
            )
        method = get_method(kind.method)
        if self._weights is None and method.new_router is None:
            return lambda: self._left_out.add(kind.lane)
        config = method.config.model_validate_json(kind.config_json)
        state = method.new_state(self.model, config, self._weights, kind.lane)
        new_memory = method.new_memory if self._keep_memory else None
        lane = Lane(
            configured=kind,
            method=method,
            config=config,
            state=state,
            memory=new_memory(config) if new_memory else None,
            router=method.new_router(state, self._indices) if method.new_router else None,
        )
        return lambda: self.lanes.update({kind.lane: lane})

    async def _prepare_commit(self, seq: int, kind: EditsCommitted) -> Callable[[], None]:
        self._check_model(kind.base_model_digest, f"commit {seq}")
        if kind.lane in self._left_out:
            return lambda: self._note(kind.edits, kind.lane, seq)
        lane = self._lane(seq, kind.lane)
        artifact = await self._load(kind.artifact)
        memory = await self._load(kind.memory) if lane.memory and kind.memory else None
        commit = Commit(seq=seq, edits=kind.edits, artifact=artifact)
        swap = await asyncio.to_thread(lane.state.prepare_commit, commit)

        def apply() -> None:
            swap()
            if lane.memory is not None and memory is not None:
                lane.memory.add(kind.edits, memory)
            self._note(kind.edits, kind.lane, seq)

        return apply

    def _note(self, edits: Sequence[str], lane: str, seq: int) -> None:
        self._lane_of.update(dict.fromkeys(edits, lane))
        self._commit_seq.update(dict.fromkeys(edits, seq))

    async def _prepare_lane_model(self, seq: int, kind: LaneModelCommitted) -> Callable[[], None]:
        self._check_model(kind.base_model_digest, f"lane model {seq}")
        lane = self._lane(seq, kind.lane)
        if lane.method.lane_model is None:
            raise DataLossError(
                f"entry {seq} gives {kind.lane} a lane model, but {lane.method.name} has none.",
                seq=seq,
            )
        commit = LaneModelCommit(
            seq=seq,
            model=await self._load(kind.model),
            digest=kind.model.digest,
            edits=kind.edits,
            repository=await self._load(kind.repository) if kind.repository else None,
        )
        swap = await asyncio.to_thread(lane.method.lane_model.prepare, lane.state, commit)

        def apply() -> None:
            swap()

        return apply

    async def _prepare_compaction(self, seq: int, kind: LaneCompacted) -> Callable[[], None]:
        self._check_model(kind.base_model_digest, f"compaction {seq}")
        lane = self._lane(seq, kind.lane)
        if lane.method.compaction is None:
            raise DataLossError(
                f"entry {seq} compacts {kind.lane}, but {lane.method.name} cannot.", seq=seq
            )
        commit = Commit(seq=seq, edits=kind.edits, artifact=await self._load(kind.artifact))
        swap = await asyncio.to_thread(lane.method.compaction.prepare, lane.state, commit)

        def apply() -> None:
            swap()

        return apply

    async def _prepare_revert(self, seq: int, kind: EditsReverted) -> Callable[[], None] | None:
        """A second reversal of an edit has no effect; every replica skips it alike."""
        wanted = [edit for edit in kind.edits if edit not in self._reverted]
        if not wanted:
            return None
        unknown = [edit for edit in wanted if edit not in self._lane_of]
        if unknown:
            raise DataLossError(
                f"entry {seq} reverts {', '.join(unknown)}, which no earlier entry put in force.",
                seq=seq,
            )
        by_lane: dict[str, list[str]] = {}
        for edit in wanted:
            by_lane.setdefault(self._lane_of[edit], []).append(edit)
        if len(by_lane) > 1:
            raise DataLossError(f"entry {seq} reverts edits of several lanes at once.", seq=seq)
        ((name, edits),) = by_lane.items()
        if name in self._left_out:
            return lambda: self._forget(edits)
        lane = self.lanes[name]
        swap = await asyncio.to_thread(lane.state.prepare_revert, edits)

        def apply() -> None:
            swap()
            if lane.memory is not None:
                lane.memory.remove(edits)
            self._forget(edits)

        return apply

    def _forget(self, edits: Sequence[str]) -> None:
        for edit in edits:
            del self._lane_of[edit]
        self._reverted.update(edits)

    def _lane(self, seq: int, name: str) -> Lane:
        if name not in self.lanes:
            raise DataLossError(f"entry {seq} names {name}, which is not configured.", seq=seq)
        return self.lanes[name]

    def _check_model(self, digest: str, what: str) -> None:
        if digest != self.model.digest:
            raise BaseModelMismatchError(
                f"{what} was made for base model {digest[:16]}…, this process runs "
                f"{self.model.digest[:16]}…; load the model and dtype that the log was made with.",
                expected=digest,
                found=self.model.digest,
            )

    async def _load(self, ref: ArtifactRef) -> Artifact:
        data = await self._artifacts.get(ref.digest)
        return await asyncio.to_thread(Artifact.from_bytes, data)


class _AllLanes:
    """The attributions of several lanes as one, newest edits first."""

    def __init__(self, parts: list[Attribution], commit_seq: Mapping[str, int]) -> None:
        self._parts = parts
        self._commit_seq = commit_seq
        self._stack = ExitStack()

    def __enter__(self) -> Attribution:
        for part in self._parts:
            self._stack.enter_context(part)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def edits(self, attention_mask: Tensor) -> list[list[str]]:
        found = [part.edits(attention_mask) for part in self._parts]
        rows = [[name for names in row for name in names] for row in zip(*found, strict=True)]
        return [sorted(row, key=lambda name: -self._commit_seq[name]) for row in rows]
