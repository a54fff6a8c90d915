"""Requests of the writer to the log service."""

from __future__ import annotations

from errata.log.entries import Payload
from errata.log.payload_convert import encode
from errata_client._gen.errata.v1 import edit_log_pb2


def acquire_epoch_request(writer: str) -> edit_log_pb2.AcquireEpochRequest:
    """Asks for a new epoch; `writer` is shown to operators."""
    return edit_log_pb2.AcquireEpochRequest(writer=writer)


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
