"""Start-up: appends the lanes of the lanes file to the log, and gathers statistics for fits."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

import structlog

from errata.editing.lane.contract import Lane, LaneModelSupport, Resources
from errata.editing.retriever.installed_gate import installed_gate
from errata.errors import ErrataError, InvalidRequestError, StartupError
from errata.log.entries import LaneConfigured, LaneModelCommitted, LanePolicySet
from errata.platform.countdown import Countdown
from errata.writer.edited_model import EditedModel
from errata.writer.lanes import LaneSetup
from errata.writer.publish import Publisher
from errata.writer.resources import LaneResources

_log = structlog.get_logger(__name__)


class Startup:
    """Configures lanes, commits their models and gathers statistics, before the first fit."""

    def __init__(
        self,
        edited: EditedModel,
        publisher: Publisher,
        resources: Resources,
        lanes: Sequence[LaneSetup],
    ) -> None:
        """Does nothing yet.

        Args:
            edited: the writer's model and ledger; the ledger contains the log up to its head.
            publisher: appends to the log.
            resources: text and cache for statistics.
            lanes: of this deployment.
        """
        self._edited = edited
        self._ledger = edited.ledger
        self._publisher = publisher
        self._resources = resources
        self._lanes = lanes
        self._adapters = {setup.configured.lane: setup.adapters for setup in lanes}

    async def configure(self) -> None:
        """Appends the lanes, their policies and lane models, that the log does not contain yet.

        Raises:
            StartupError: a lane is in the log with another configuration, the model cannot carry
                it, or its lane model is missing.
            BaseModelMismatchError: the lanes were configured for another base model.
        """
        for setup in self._lanes:
            lane = setup.configured
            seq_known = self._ledger.lanes.get(lane.lane)
            if seq_known is not None and not setup.is_same_lane(seq_known[1]):
                raise _conflict(lane, *seq_known)
            if seq_known is None:
                await self._try(setup)
                await self._publisher.append_own(f"lane|{lane.lane}|{lane.config_digest}", lane)
            await self._set_policy(setup)
            await self._commit_lane_model(setup, lane if seq_known is None else seq_known[1])

    async def gather(self) -> None:
        """Collects what the fits of each lane in the log need besides edits; may take long."""
        for name, (_, configured) in self._ledger.lanes.items():
            try:
                opened = self._edited.open_early(configured)
            except InvalidRequestError as error:
                _log.error("a lane cannot be opened", lane=name, reason=error.message)
                continue
            await asyncio.to_thread(self._gather, name, opened)

    async def _try(self, setup: LaneSetup) -> None:
        """Checks that the model can carry the lane: an appended lane cannot be withdrawn."""
        lane = setup.configured
        try:
            opened = self._edited.open_early(lane)
            if setup.adapters:
                await asyncio.to_thread(self._gather, lane.lane, opened)
        except InvalidRequestError as error:
            raise StartupError(
                f"{lane.lane} cannot be opened on this model: {error.message} Nothing was appended."
            ) from error

    def _gather(self, name: str, lane: Lane) -> None:
        def report(done: int, total: int, seconds_left: float) -> None:
            _log.info(
                "statistics of the base model",
                lane=name,
                tokens=done,
                total=total,
                seconds_left=round(seconds_left),
            )

        resources = LaneResources(self._resources, self._adapters.get(name, ()))
        lane.gather(resources, on_progress=Countdown(report))

    async def _set_policy(self, setup: LaneSetup) -> None:
        """Appends whether the lane requires approval, if that is said and new."""
        lane, required = setup.configured.lane, setup.requires_approval
        if required is not None and required != (lane in self._ledger.reviewed_lanes):
            _log.warning("the lane's policy changes", lane=lane, requires_approval=required)
            act = f"policy|{lane}|{required}|{self._ledger.seq}"
            await self._publisher.append_own(act, LanePolicySet(lane, required))

    async def _commit_lane_model(self, setup: LaneSetup, configured: LaneConfigured) -> None:
        """Commits the lane's model together with all its edits, unless it is already active."""
        lane = configured.lane
        support = self._edited.open_early(configured).lane_model
        if support is None:
            return
        path = setup.model
        if path is None and lane not in self._ledger.lane_models:
            path = _gate_for(lane, support)
        if path is None:
            return
        data = await asyncio.to_thread(support.read, path)
        digest = hashlib.sha256(data).hexdigest()
        if self._ledger.lane_models.get(lane) == digest:
            return
        edits = self._ledger.active_edits(lane)
        repository = await asyncio.to_thread(support.encode, data, edits)
        version = LaneModelCommitted(
            lane=lane,
            model=await self._publisher.store(data),
            edits=tuple(edit.name for edit in edits),
            repository=await self._publisher.store(repository.to_bytes()) if repository else None,
            base_model_digest=self._publisher.base_model_digest,
        )
        await self._publisher.append_own(f"model|{lane}|{digest}|{self._ledger.seq}", version)


def _gate_for(lane: str, support: LaneModelSupport) -> Path:
    """The installed gate, for a lane that names no lane model and whose log has none."""
    if not support.takes_gate:
        raise StartupError(
            f"{lane} needs a lane model; name its folder as `model` in the lanes file."
        )
    try:
        return installed_gate()
    except ErrataError as error:
        raise StartupError(f"{lane} needs a gate: {error.message}") from error


def _conflict(lane: LaneConfigured, seq: int, known: LaneConfigured) -> StartupError:
    """Why a lane cannot start, if the log has it with another configuration at `seq`."""
    if lane.base_model_digest != known.base_model_digest:
        return StartupError(
            f"the log was made with another base model: {lane.lane} (entry {seq}) has "
            f"{known.base_model_digest[:12]}, this model is {lane.base_model_digest[:12]}. Start "
            "with the earlier model (model.path, --model), or start a new log in another data_dir "
            "(--data-dir).",
            lane=lane.lane,
        )
    return StartupError(
        f"{lane.lane} is in the log with another configuration (entry {seq}); give the new one "
        "another name in the lanes file, or start a new log in another data_dir (--data-dir).",
        lane=lane.lane,
    )
