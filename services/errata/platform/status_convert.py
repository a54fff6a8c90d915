"""Errors as rich gRPC statuses, and back."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from urllib.parse import quote

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from errata import errors
from errata.platform.capped import MAX_METADATA_ITEMS, capped
from errata.platform.limits import MAX_STATUS_BYTES
from errata.platform.rpc_errors import rebuilt
from errata.platform.status import code_of
from errata_client import errors as client_errors

_TEXT_BYTES = (2_048, 1_024, 768, 512, 256, 128, 64)
_UNQUOTED = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")  # gRPC keeps these as they are
_DOMAIN = "errata.v1"


def from_status(status: status_pb2.Status) -> errors.ErrataError:
    """The error from which `to_status` made the status; an unknown reason gives the base class."""
    return rebuilt(client_errors.from_status(status))


def to_status(error: errors.ErrataError) -> status_pb2.Status:
    """The rich status of an error: code, message, ErrorInfo and the details for its code.

    Its texts are cut, evenly, until the status fits into `MAX_STATUS_BYTES` of trailing metadata.
    """
    for most in _TEXT_BYTES:
        message = capped(error.message, most)
        status = status_pb2.Status(code=code_of(type(error)).value[0], message=message)
        for detail in _details(error, message, most // 4):
            status.details.add().Pack(detail)
        if _size_as_metadata(message, status) <= MAX_STATUS_BYTES:
            break
    return status


def status_bytes(error: errors.ErrataError) -> bytes:
    """An error to store."""
    data: bytes = to_status(error).SerializeToString(deterministic=True)
    return data


def status_error(data: bytes) -> errors.ErrataError:
    """The error that `status_bytes` stored.

    Raises:
        ValueError: it stored something else.
    """
    try:
        return from_status(status_pb2.Status.FromString(data))
    except DecodeError as error:
        raise ValueError("not a status") from error


def _size_as_metadata(message: str, status: status_pb2.Status) -> int:
    """Bytes of `grpc-message`, percent-encoded, and of `grpc-status-details-bin`, in Base64."""
    num_bytes: int = status.ByteSize()
    return len(quote(message, safe=_UNQUOTED)) + 4 * (num_bytes + 2) // 3


def _details(error: errors.ErrataError, message: str, most: int) -> list[Message]:
    metadata = itertools.islice(error.metadata.items(), MAX_METADATA_ITEMS)
    info = error_details_pb2.ErrorInfo(
        reason=error.reason,
        domain=_DOMAIN,
        metadata={name: capped(value, most) for name, value in metadata},
    )
    field = None if error.field is None else capped(error.field, most)
    details: list[Message] = [info]
    if field is not None:
        bad_request = error_details_pb2.BadRequest()
        bad_request.field_violations.add(field=field, description=message)
        details.append(bad_request)
    if isinstance(error, errors.PreconditionError):
        precondition = error_details_pb2.PreconditionFailure()
        precondition.violations.add(type=error.reason, description=message)
        details.append(precondition)
    if isinstance(error, errors.LimitExceededError):
        quota = error_details_pb2.QuotaFailure()
        quota.violations.add(subject=field or "", description=message)
        details.append(quota)
    if isinstance(error, errors.QueueFullError) and error.retry_after_seconds is not None:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after_seconds * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return details


@dataclass(frozen=True, slots=True)
class RpcStatus:
    """A rich status as a server sends it.

    Attributes:
        code: of the call.
        message: for people.
        details: the serialised `google.rpc.Status`, for the trailing metadata.
    """

    code: grpc.StatusCode
    message: str
    details: bytes


def rpc_status(error: errors.ErrataError) -> RpcStatus:
    """The status of a call that raised `error`."""
    status = to_status(error)
    return RpcStatus(code_of(type(error)), status.message, status.SerializeToString())


def internal_status(trace_id: str) -> RpcStatus:
    """The status of a bug: it names only the id under which the service's log has the error."""
    code = grpc.StatusCode.INTERNAL
    message = f"internal error; the service's log has it under trace {trace_id}."
    status = status_pb2.Status(code=code.value[0], message=message)
    info = error_details_pb2.ErrorInfo(
        reason="INTERNAL", domain=_DOMAIN, metadata={"trace_id": trace_id}
    )
    status.details.add().Pack(info)
    return RpcStatus(code, message, status.SerializeToString())
