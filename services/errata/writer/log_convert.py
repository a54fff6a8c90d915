"""Requests of the writer to the log service."""

from __future__ import annotations

from dataclasses import dataclass

from errata.log.canary_convert import comparison_of
from errata.log.entries import Payload
from errata.log.payload_convert import encode
from errata.writer.canary_tally import CanaryReport
from errata_client._gen.errata.v1 import edit_log_pb2

_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class ReportedDigest:
    """The state digest of a replica at the position that was asked for."""

    replica: str
    role: str
    state_digest: str


def acquire_epoch_request(
    writer: str, lease_seconds: float, *, only_if_free: bool
) -> edit_log_pb2.AcquireEpochRequest:
    """Asks for a new epoch; `writer` is shown to operators."""
    return edit_log_pb2.AcquireEpochRequest(
        writer=writer, only_if_free=only_if_free, lease_ttl_ms=round(lease_seconds * 1000)
    )


def renew_lease_request(epoch: int, lease_seconds: float) -> edit_log_pb2.RenewLeaseRequest:
    """Asks for a longer lease; 0 ends it."""
    return edit_log_pb2.RenewLeaseRequest(epoch=epoch, lease_ttl_ms=round(lease_seconds * 1000))


def append_request(
    request_id: str,
    epoch: int,
    payload: Payload,
    author: str,
    trace_parent: str,
    on_behalf_of: str,
) -> edit_log_pb2.AppendRequest:
    """Asks to append one entry.

    Args:
        request_id: a repeated id is appended once.
        epoch: of the writer.
        payload: what the entry says.
        author: who asked for it.
        trace_parent: W3C trace context of the caller; may be empty.
        on_behalf_of: whom the author named beside himself; may be empty.
    """
    return edit_log_pb2.AppendRequest(
        request_id=request_id,
        epoch=epoch,
        payload=encode(payload, author, trace_parent=trace_parent, on_behalf_of=on_behalf_of),
    )


def list_replicas_request(at_seq: int, page_token: str) -> edit_log_pb2.ListReplicasRequest:
    """Asks for the replicas, and for their digests at a position."""
    return edit_log_pb2.ListReplicasRequest(page_size=_PAGE, page_token=page_token, at_seq=at_seq)


def canary_reports(response: edit_log_pb2.ListReplicasResponse) -> list[CanaryReport]:
    """What replicas that agree with the log have counted for the open canaries."""
    return [
        CanaryReport(
            replica.replica,
            {name: comparison_of(counted) for name, counted in replica.canaries.items()},
        )
        for replica in response.replicas
        if replica.agrees and replica.canaries
    ]


def reported_digests(response: edit_log_pb2.ListReplicasResponse) -> list[ReportedDigest]:
    """The digests that are known, of replicas that agree with the log."""
    return [
        ReportedDigest(replica.replica, replica.role, replica.digest_at)
        for replica in response.replicas
        if replica.agrees and replica.digest_at
    ]
