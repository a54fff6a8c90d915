"""Log messages: proto ↔ domain; refuses invalid requests."""

from __future__ import annotations

import hashlib
import time
import uuid
from dataclasses import replace

from errata.errors import ImpossibleEntryError, InvalidRequestError
from errata.log.append import NewEntry
from errata.log.canary_convert import comparison_message, comparison_of
from errata.log.chain import DIGEST_BYTES, ChainedEntry, Position
from errata.log.delivery import Delivery
from errata.log.history import LogState, Page
from errata.log.payload_convert import decode_payload, snapshot_message, snapshot_of
from errata.log.positions import ReplicaReport, ReplicaState
from errata.platform.limits import NAME_CHARS
from errata.platform.paging import MAX_PAGE_SIZE
from errata_client._gen.errata.v1 import edit_log_pb2

MAX_LEASE_MS = 3_600_000


def new_entry(request: edit_log_pb2.AppendRequest) -> NewEntry:
    """Checks an append and sets its time.

    Raises:
        InvalidRequestError: a field is invalid; the error names it.
    """
    request_id = _uuid(request.request_id, "request_id")
    number = epoch(request.epoch)
    payload = edit_log_pb2.EntryPayload()
    payload.CopyFrom(request.payload)
    if payload.WhichOneof("kind") is None:
        raise InvalidRequestError(
            "payload has no kind that this log knows; set exactly one kind, such as "
            "edits_requested.",
            field="payload.kind",
        )
    content_digest = _content_digest(payload)
    payload.request_id = request_id
    payload.trace_parent = request.payload.trace_parent
    payload.append_time.FromNanoseconds(time.time_ns())
    data = payload.SerializeToString(deterministic=True)
    # What was accepted must be settled, and every edit must be revertible, when Redis is full.
    leaves_reserve = payload.WhichOneof("kind") in _OF_CLIENTS
    return NewEntry(number, request_id, content_digest, data, leaves_reserve)


_OF_CLIENTS = (
    "edits_requested",
    "edits_scheduled",
    "edits_namespaced",
    "edits_canaried",
    "probes_set",
)


def epoch(value: int) -> int:
    """A received epoch, checked.

    Raises:
        InvalidRequestError: no writer has it.
    """
    if value < 1:
        raise InvalidRequestError(
            f"epoch is {value}; use one that AcquireEpoch returned.", field="epoch"
        )
    return value


def lease_ms(value: int) -> int:
    """A received duration of a lease, checked.

    Raises:
        InvalidRequestError: it is negative, or longer than a standby writer should ever wait.
    """
    if not 0 <= value <= MAX_LEASE_MS:
        raise InvalidRequestError(
            f"lease_ttl_ms is {value}; it can be 0 to {MAX_LEASE_MS:,}.", field="lease_ttl_ms"
        )
    return value


def stored_request(entry: ChainedEntry) -> tuple[str, bytes] | None:
    """Request id and content digest with which an entry was appended; None for damaged bytes.

    Raises:
        PreconditionError: this version does not know the entry's kind.
    """
    try:
        payload = decode_payload(entry)
    except ImpossibleEntryError:  # it came into Redis without the log service
        return None
    request_id = payload.request_id
    return request_id, _content_digest(payload)


def entry_from(message: edit_log_pb2.LogEntry) -> ChainedEntry:
    """A received entry, not verified."""
    return ChainedEntry(message.seq, message.payload, message.chain_digest)


def entry_to(entry: ChainedEntry) -> edit_log_pb2.LogEntry:
    """An entry to send."""
    return edit_log_pb2.LogEntry(
        seq=entry.seq, payload=entry.payload, chain_digest=entry.chain_digest
    )


def head_response(state: LogState, lease_left_ms: int) -> edit_log_pb2.GetHeadResponse:
    """The log's state to send, and how long the active writer's lease still runs."""
    return edit_log_pb2.GetHeadResponse(
        log_id=state.log_id,
        head_seq=state.head.seq,
        chain_digest=state.head.chain_digest,
        floor_seq=state.floor_seq,
        epoch=state.epoch,
        voided_seqs=state.voided,
        impossible_entries=[
            edit_log_pb2.ImpossibleEntry(seq=seq, problem=problem)
            for seq, problem in state.impossible.items()
        ],
        newest_snapshot=None if state.snapshot is None else snapshot_message(state.snapshot),
        lease_left_ms=lease_left_ms,
    )


def state_from(response: edit_log_pb2.GetHeadResponse) -> LogState:
    """A received state."""
    return LogState(
        log_id=response.log_id,
        head=Position(response.head_seq, response.chain_digest),
        floor_seq=response.floor_seq,
        epoch=response.epoch,
        voided=tuple(response.voided_seqs),
        impossible={entry.seq: entry.problem for entry in response.impossible_entries},
        snapshot=snapshot_of(response.newest_snapshot)
        if response.HasField("newest_snapshot")
        else None,
    )


def head_request() -> edit_log_pb2.GetHeadRequest:
    """Asks for the log's state."""
    return edit_log_pb2.GetHeadRequest()


def list_request(from_seq: int) -> edit_log_pb2.ListEntriesRequest:
    """Asks for a page of entries from `from_seq` on."""
    return edit_log_pb2.ListEntriesRequest(from_seq=from_seq, page_size=MAX_PAGE_SIZE)


def entries_from(response: edit_log_pb2.ListEntriesResponse) -> tuple[ChainedEntry, ...]:
    """A received page of entries, not verified."""
    return tuple(map(entry_from, response.entries))


def subscribe_response(page: Page, log_id: str) -> edit_log_pb2.SubscribeResponse:
    """A page; a progress message if it has no entries."""
    return edit_log_pb2.SubscribeResponse(
        entries=[entry_to(entry) for entry in page.entries],
        head_seq=page.head.seq,
        log_id=log_id,
    )


def subscribe_request(from_seq: int) -> edit_log_pb2.SubscribeRequest:
    """Asks for the entries from `from_seq` on."""
    return edit_log_pb2.SubscribeRequest(from_seq=from_seq)


def report_request(report: ReplicaReport) -> edit_log_pb2.ReportPositionRequest:
    """Reports a replica's position."""
    return edit_log_pb2.ReportPositionRequest(position=report_to(report))


def received_delivery(message: object) -> Delivery | None:
    """What a read of the stream gave; None for its end, which gRPC marks by another object."""
    if not isinstance(message, edit_log_pb2.SubscribeResponse):
        return None
    return delivery_from(message)


def delivery_from(message: edit_log_pb2.SubscribeResponse) -> Delivery:
    """A received page or progress message, not verified."""
    entries = tuple(map(entry_from, message.entries))
    return Delivery(message.log_id, message.head_seq, entries)


def report_from(position: edit_log_pb2.ReplicaPosition) -> ReplicaReport:
    """A received report, checked.

    Raises:
        InvalidRequestError: a field is invalid; the error names it.
    """
    name(position.replica, "position.replica")
    if position.applied_seq < 0:
        raise InvalidRequestError(
            f"position.applied_seq is {position.applied_seq}; the minimum is 0, before the "
            "first entry.",
            field="position.applied_seq",
        )
    if len(position.chain_digest) != DIGEST_BYTES:
        raise InvalidRequestError(
            f"position.chain_digest has {len(position.chain_digest)} bytes; it must have "
            f"{DIGEST_BYTES}.",
            field="position.chain_digest",
        )
    return ReplicaReport(
        replica=position.replica,
        position=Position(position.applied_seq, position.chain_digest),
        state_digest=position.state_digest,
        role=position.role,
        device_usage={lane: dict(sizes.values) for lane, sizes in position.resident.items()},
        recent=tuple((state.seq, state.state_digest) for state in position.recent),
        canaries={name: comparison_of(counted) for name, counted in position.canaries.items()},
    )


def report_to(report: ReplicaReport) -> edit_log_pb2.ReplicaPosition:
    """A report to send."""
    message = edit_log_pb2.ReplicaPosition(
        replica=report.replica,
        applied_seq=report.position.seq,
        chain_digest=report.position.chain_digest,
        state_digest=report.state_digest,
        role=report.role,
    )
    for lane, sizes in report.device_usage.items():
        message.resident[lane].values.update(sizes)
    for seq, digest in report.recent:
        message.recent.add(seq=seq, state_digest=digest)
    for canary, counted in report.canaries.items():
        message.canaries[canary].CopyFrom(comparison_message(counted))
    return message


def replica_to(
    state: ReplicaState, head_seq: int, digest_at: str = ""
) -> edit_log_pb2.ReplicaPosition:
    """A replica's state to send, and its digest at the position that was asked for."""
    message = report_to(replace(state.report, recent=()))
    message.digest_at = digest_at
    message.lag = max(0, head_seq - state.report.position.seq)
    message.agrees = state.agrees
    message.report_time.FromNanoseconds(int(state.report_time * 1e9))
    return message


def name(value: str, field: str) -> str:
    """Returns the name if it is neither empty nor too long.

    Raises:
        InvalidRequestError: it is empty or too long.
    """
    if not value or len(value) > NAME_CHARS:
        raise InvalidRequestError(
            f"{field} has {len(value)} characters; give 1 to {NAME_CHARS}.", field=field
        )
    return value


def _content_digest(payload: edit_log_pb2.EntryPayload) -> bytes:
    """SHA-256 of what a retry repeats; the fields that it does not repeat are cleared."""
    payload.ClearField("request_id")
    payload.ClearField("append_time")
    payload.ClearField("trace_parent")  # a retry has another trace but the same content
    return hashlib.sha256(payload.SerializeToString(deterministic=True)).digest()


def _uuid(value: str, field: str) -> str:
    """The canonical form of a UUID, because two spellings would be two keys."""
    try:
        parsed = str(uuid.UUID(value))
    except ValueError as error:
        raise _not_a_uuid(value, field) from error
    if parsed != value.lower():
        raise _not_a_uuid(value, field)
    return parsed


def _not_a_uuid(value: str, field: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{field} must be a UUID such as {uuid.UUID(int=0)}, not {value[:80]!r}; create one for "
        "each request and keep it for retries.",
        field=field,
    )
