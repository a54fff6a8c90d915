"""Protos to the log's own types and back; what a client can send wrong is refused here."""

from __future__ import annotations

import hashlib
import time
import uuid
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from errata.errors import InvalidRequestError, PreconditionError
from errata.log.chain import DIGEST_BYTES, Entry, Position
from errata.log.history import Page
from errata.log.positions import ReplicaReport, ReplicaState
from errata_client._gen.errata.v1 import edit_log_pb2

MAX_NAME_CHARS = 256


@dataclass(frozen=True, slots=True)
class AppendFields:
    """A checked append.

    Attributes:
        content_digest: SHA-256 of what was asked, without key and time.
        payload: the bytes to store, with both.
    """

    epoch: int
    request_id: str
    content_digest: bytes
    payload: bytes


def append_fields(request: edit_log_pb2.AppendRequest) -> AppendFields:
    """Checks an append and stamps its time.

    Raises:
        InvalidRequestError: names the field.
    """
    request_id = _uuid(request.request_id, "request_id")
    if request.epoch < 1:
        raise InvalidRequestError(
            f"epoch is {request.epoch}; take one from AcquireEpoch.", field="epoch"
        )
    payload = edit_log_pb2.EntryPayload()
    payload.CopyFrom(request.payload)
    if payload.WhichOneof("kind") is None:
        raise InvalidRequestError(
            "payload has no kind that this log knows; set exactly one, such as edits_requested.",
            field="payload.kind",
        )
    payload.ClearField("request_id")
    payload.ClearField("append_time")
    payload.ClearField("trace_parent")  # a retry is another call, but asks for the same
    content_digest = hashlib.sha256(payload.SerializeToString(deterministic=True)).digest()
    payload.request_id = request_id
    payload.trace_parent = request.payload.trace_parent
    payload.append_time.FromNanoseconds(time.time_ns())
    data = payload.SerializeToString(deterministic=True)
    return AppendFields(request.epoch, request_id, content_digest, data)


def decode_payload(entry: Entry) -> edit_log_pb2.EntryPayload:
    """What an entry says.

    Raises:
        PreconditionError: the entry is of a kind that this version does not know; a reader must
            stop before it, since it cannot tell what the entry changes.
    """
    payload = edit_log_pb2.EntryPayload()
    try:
        payload.ParseFromString(entry.payload)
    except DecodeError as error:
        raise _unknown_kind(entry) from error
    if payload.WhichOneof("kind") is None:
        raise _unknown_kind(entry)
    return payload


def _unknown_kind(entry: Entry) -> PreconditionError:
    return PreconditionError(
        f"entry {entry.seq} is of a kind that this version does not know. Upgrade this process; "
        "it stays at the entry before.",
        seq=entry.seq,
    )


def entry_from(message: edit_log_pb2.LogEntry) -> Entry:
    """An entry as it came over the wire; not verified."""
    return Entry(message.seq, message.payload, message.chain_digest)


def entry_to(entry: Entry) -> edit_log_pb2.LogEntry:
    """An entry for the wire."""
    return edit_log_pb2.LogEntry(
        seq=entry.seq, payload=entry.payload, chain_digest=entry.chain_digest
    )


def subscribe_response(page: Page, log_id: str) -> edit_log_pb2.SubscribeResponse:
    """A page, or progress if it has no entries."""
    return edit_log_pb2.SubscribeResponse(
        entries=[entry_to(entry) for entry in page.entries],
        head_seq=page.head.seq,
        log_id=log_id,
    )


def report_from(position: edit_log_pb2.ReplicaPosition) -> ReplicaReport:
    """A checked report.

    Raises:
        InvalidRequestError: names the field.
    """
    name(position.replica, "position.replica")
    if position.applied_seq < 0:
        raise InvalidRequestError(
            f"position.applied_seq is {position.applied_seq}; 0 is before the first entry.",
            field="position.applied_seq",
        )
    if len(position.chain_digest) != DIGEST_BYTES:
        raise InvalidRequestError(
            f"position.chain_digest has {len(position.chain_digest)} bytes; H(applied_seq) has "
            f"{DIGEST_BYTES}.",
            field="position.chain_digest",
        )
    return ReplicaReport(
        replica=position.replica,
        position=Position(position.applied_seq, position.chain_digest),
        state_digest=position.state_digest,
        role=position.role,
        resident={lane: dict(sizes.values) for lane, sizes in position.resident.items()},
    )


def replica_to(state: ReplicaState, head_seq: int) -> edit_log_pb2.ReplicaPosition:
    """A replica's state for the wire."""
    report = state.report
    message = edit_log_pb2.ReplicaPosition(
        replica=report.replica,
        applied_seq=report.position.seq,
        chain_digest=report.position.chain_digest,
        state_digest=report.state_digest,
        role=report.role,
        lag=max(0, head_seq - report.position.seq),
        agrees=state.agrees,
    )
    for lane, sizes in report.resident.items():
        message.resident[lane].values.update(sizes)
    message.report_time.FromNanoseconds(int(state.report_time * 1e9))
    return message


def name(value: str, field: str) -> str:
    """Returns a name that is set and not too long.

    Raises:
        InvalidRequestError: it is empty or too long.
    """
    if not value or len(value) > MAX_NAME_CHARS:
        raise InvalidRequestError(
            f"{field} has {len(value)} characters; give 1 to {MAX_NAME_CHARS}.", field=field
        )
    return value


def _uuid(value: str, field: str) -> str:
    """The canonical form of a UUID; other spellings would be other keys."""
    try:
        parsed = str(uuid.UUID(value))
    except ValueError as error:
        raise _not_a_uuid(value, field) from error
    if parsed != value.lower():
        raise _not_a_uuid(value, field)
    return parsed


def _not_a_uuid(value: str, field: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{field} must be a UUID such as {uuid.UUID(int=0)}, not {value[:80]!r}; make one for each "
        "request and keep it for retries.",
        field=field,
    )
