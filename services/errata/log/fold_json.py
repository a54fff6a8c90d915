"""A fold as JSON values, for snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from errata.editing.canaries import OpenCanary
from errata.log.canaries import CanaryTable
from errata.log.entries import ArtifactRef, LaneConfigured, SnapshotTaken
from errata.log.fold import LogFold
from errata.log.signing.trust import TrustState


def fold_to_json(fold: LogFold) -> dict[str, Any]:
    """All of a fold; `fold_from_json` restores it."""
    return {
        **head_to_json(fold),
        "lanes": lanes_to_json(fold),
        "edits": [
            [
                name,
                known.lane,
                known.standing.value,
                *([known.namespace] if known.namespace else []),
            ]
            for name, known in fold.standings().items()
        ],
    }


def head_to_json(fold: LogFold) -> dict[str, Any]:
    """All of a fold but its lanes and its edits."""
    return {
        "seq": fold.seq,
        "impossible": list(fold.impossible.items()),
        "voided": sorted(fold.voided),
        "trust": fold.trust.to_json(),
        "snapshot": None if fold.snapshot is None else _snapshot_to_json(fold.snapshot),
        **({"has_policy": True} if fold.has_policy else {}),
        **({"timed": sorted(fold.timed)} if fold.timed else {}),
        **({"canaries": _canaries_to_json(fold.canaries)} if fold.canaries.is_used else {}),
    }


def lanes_to_json(fold: LogFold) -> list[dict[str, Any]]:
    """The lanes of a fold."""
    return [_lane_to_json(lane, fold) for lane in fold.lanes.values()]


def fold_from_json(found: Mapping[str, Any]) -> LogFold:
    """The fold that `fold_to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: it did not write this.
    """
    fold = LogFold()
    fold.seq = int(found["seq"])
    stored = [dict(lane) for lane in found["lanes"]]
    fold.reviewed_lanes = {lane["lane"] for lane in stored if lane.pop("requires_approval", False)}
    lanes = [LaneConfigured(**lane) for lane in stored]
    fold.lanes = {lane.lane: lane for lane in lanes}
    fold.impossible = {int(seq): str(problem) for seq, problem in found["impossible"]}
    fold.voided = {int(seq) for seq in found["voided"]}
    fold.trust = TrustState.from_json(found["trust"])
    if found["snapshot"] is not None:
        fold.snapshot = _snapshot_from_json(found["snapshot"])
    fold.has_policy = bool(found.get("has_policy"))
    fold.timed = {str(name) for name in found.get("timed", ())}
    fold.canaries = _canaries_from_json(found.get("canaries"))
    fold.restore_standings(found["edits"])
    return fold


def _canaries_to_json(canaries: CanaryTable) -> dict[str, Any]:
    return {
        "open": [asdict(one) for one in canaries.open.values()],
        "ended": sorted(canaries.ended),
    }


def _canaries_from_json(found: Mapping[str, Any] | None) -> CanaryTable:
    canaries = CanaryTable()
    if found is not None:
        opened = [OpenCanary(**{**one, "readers": tuple(one["readers"])}) for one in found["open"]]
        canaries.open = {one.name: one for one in opened}
        canaries.ended = {str(name) for name in found["ended"]}
    return canaries


def _lane_to_json(lane: LaneConfigured, fold: LogFold) -> dict[str, Any]:
    """A lane; versions that know no approval cannot read one that requires it, and must not."""
    policy = {"requires_approval": True} if lane.lane in fold.reviewed_lanes else {}
    return {**asdict(lane), **policy}


def _snapshot_to_json(snapshot: SnapshotTaken) -> dict[str, Any]:
    found = asdict(replace(snapshot, signature=None))
    return {**found, "chain_digest": snapshot.chain_digest.hex()}


def _snapshot_from_json(found: Mapping[str, Any]) -> SnapshotTaken:
    digest, ref = bytes.fromhex(found["chain_digest"]), ArtifactRef(**found["manifest"])
    return SnapshotTaken(**{**found, "chain_digest": digest, "manifest": ref})
