"""Checks of entries that name other entries."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from errata.artifacts.source import check_digest
from errata.errors import (
    BaseModelMismatchError,
    InvalidRequestError,
    NotFoundError,
    PreconditionError,
)
from errata.log.entries import EntryVoided, LaneConfigured, SnapshotTaken
from errata.log.forms import check_chain_digest, check_config, check_lane_name, check_ref


def check_voided(
    payload: EntryVoided, at_seq: int, voided: Collection[int], impossible: Collection[int]
) -> None:
    """Returns if an entry can be voided.

    Args:
        payload: names it.
        at_seq: the last entry.
        voided: entries that are voided already.
        impossible: entries that can be voided.

    Raises:
        InvalidRequestError: there is no reason.
        NotFoundError, PreconditionError: there is no such entry, or it cannot be voided.
    """
    seq = payload.seq
    if not payload.reason.strip():
        raise InvalidRequestError("give a reason.", field="reason")
    if seq in voided:
        raise PreconditionError(f"entry {seq} is voided already.", seq=seq)
    if not 1 <= seq <= at_seq:
        raise NotFoundError(f"there is no entry {seq}; the log ends at {at_seq}.", seq=seq)
    if seq not in impossible:
        raise PreconditionError(
            f"entry {seq} agrees with the entries before it and has its effect; it cannot be "
            "voided. To undo a commit, revert its edits.",
            seq=seq,
        )


def check_snapshot(payload: SnapshotTaken, at_seq: int, newest: SnapshotTaken | None) -> None:
    """Returns if an entry can name this snapshot; base models are compared elsewhere.

    Args:
        payload: names it.
        at_seq: the last entry.
        newest: the snapshot before it; None without one.

    Raises:
        InvalidRequestError: a form is impossible.
        PreconditionError: there is a newer one.
    """
    if not 1 <= payload.seq <= at_seq:
        raise InvalidRequestError(
            f"a snapshot at entry {payload.seq} cannot be named at entry {at_seq + 1}.",
            field="seq",
        )
    if newest is not None and payload.seq <= newest.seq:
        raise PreconditionError(
            f"there is a snapshot at entry {newest.seq} already; take a newer one.",
            seq=newest.seq,
        )
    check_chain_digest(payload.chain_digest)
    check_digest(payload.state_digest, "state_digest")
    check_ref(payload.manifest, "manifest")


def check_lane(payload: LaneConfigured, lanes: Mapping[str, LaneConfigured]) -> None:
    """Returns if a lane can be configured so.

    Args:
        payload: its configuration.
        lanes: those before it.

    Raises:
        InvalidRequestError: a form is impossible.
        PreconditionError: it has another configuration already.
        BaseModelMismatchError: the log is for another base model.
    """
    check_lane_name(payload.lane)
    check_config(payload)
    known = lanes.get(payload.lane)
    if known is not None and known != payload:
        raise PreconditionError(
            f"{payload.lane} already has another configuration; give the new lane another name.",
            lane=payload.lane,
        )
    check_digest(payload.base_model_digest, "base_model_digest")
    other = next(iter(lanes.values()), payload)
    if other.base_model_digest != payload.base_model_digest:
        raise BaseModelMismatchError(
            f"{payload.lane} is for base model {payload.base_model_digest[:16]}…, but the log "
            f"for {other.base_model_digest[:16]}…. Start with the model that the log was made "
            "with, or start a new log.",
            expected=other.base_model_digest,
            found=payload.base_model_digest,
        )
