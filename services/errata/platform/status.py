"""The only map from Errata's errors to gRPC statuses."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import structlog
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from errata import errors
from errata.platform.interceptors import Around, Stream, Unary
from errata.platform.tracing import trace_parent

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

DOMAIN = "errata.v1"
DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"  # negative: the client's channel shall not retry

# The nearest class on an error's ancestry decides, so a new leaf has a status from the start.
CODES: dict[type[errors.ErrataError], grpc.StatusCode] = {
    errors.InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.RequestIdReusedError: grpc.StatusCode.ALREADY_EXISTS,
    errors.LimitExceededError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.PreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ModelError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.EpochLostError: grpc.StatusCode.ABORTED,
    errors.SeqTrimmedError: grpc.StatusCode.OUT_OF_RANGE,
    errors.SeqBeyondHeadError: grpc.StatusCode.OUT_OF_RANGE,
    errors.DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.DataLossError: grpc.StatusCode.DATA_LOSS,
    errors.FitError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.StartupError: grpc.StatusCode.FAILED_PRECONDITION,
}

_log = structlog.get_logger(__name__)


def code_of(kind: type[errors.ErrataError]) -> grpc.StatusCode:
    """The gRPC code of an error class.

    Raises:
        KeyError: the class has no mapped ancestor; a test keeps this from being released.
    """
    for ancestor in kind.__mro__:
        if ancestor in CODES:
            return CODES[ancestor]
    raise KeyError(kind.__name__)


def to_status(error: errors.ErrataError) -> status_pb2.Status:
    """The rich status of an error: code, message, ErrorInfo and the details that fit the code."""
    status = status_pb2.Status(code=code_of(type(error)).value[0], message=error.message)
    for detail in _details(error):
        status.details.add().Pack(detail)
    return status


def _details(error: errors.ErrataError) -> list[Message]:
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=DOMAIN, metadata=dict(error.metadata)
    )
    details: list[Message] = [info]
    if error.field is not None:
        bad_request = error_details_pb2.BadRequest()
        bad_request.field_violations.add(field=error.field, description=error.message)
        details.append(bad_request)
    if isinstance(error, errors.PreconditionError):
        precondition = error_details_pb2.PreconditionFailure()
        precondition.violations.add(type=error.reason, description=error.message)
        details.append(precondition)
    if isinstance(error, errors.LimitExceededError):
        quota = error_details_pb2.QuotaFailure()
        quota.violations.add(subject=error.field or "", description=error.message)
        details.append(quota)
    if isinstance(error, errors.QueueFullError) and error.retry_after_seconds is not None:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after_seconds * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return details


def internal_status(trace_id: str) -> status_pb2.Status:
    """The status of a bug: nothing about it but an id to find it in the service's own log."""
    status = status_pb2.Status(
        code=grpc.StatusCode.INTERNAL.value[0],
        message=f"internal error; the service's log has it under trace {trace_id}.",
    )
    info = error_details_pb2.ErrorInfo(
        reason="INTERNAL", domain=DOMAIN, metadata={"trace_id": trace_id}
    )
    status.details.add().Pack(info)
    return status


class _Undecodable:
    """Stands for a request whose bytes are no valid message."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class StatusInterceptor(Around):
    """Turns what handlers raise into rich statuses, for unary and server-streaming calls."""

    def unary(self, call: grpc.HandlerCallDetails, handle: Unary) -> Unary:
        """Errors of a call that is answered once."""

        async def guarded(request: Any, context: Context) -> Any:
            try:
                _check_decoded(request)
                return await handle(request, context)
            except Exception as error:  # noqa: BLE001 the one seam where every failure gets a status
                await _abort(context, error)

        return guarded

    def stream(self, call: grpc.HandlerCallDetails, handle: Stream) -> Stream:
        """Errors of a call that is answered with a stream."""

        async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                _check_decoded(request)
                async for response in handle(request, context):
                    yield response
            except Exception as error:  # noqa: BLE001 the one seam where every failure gets a status
                await _abort(context, error)

        return guarded

    def decoder(self, decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
        """Bytes that are no message reach the handler's guard."""
        return _tolerant(decode)


def _tolerant(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """gRPC itself answers INTERNAL to undecodable bytes, but they are the caller's fault."""
    if decode is None:
        return None

    def decoded(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError as error:
            return _Undecodable(error)

    return decoded


def _check_decoded(request: Any) -> None:
    if isinstance(request, _Undecodable):
        raise errors.InvalidRequestError(
            "the request is no valid message (bad encoding, or text that is not UTF-8); "
            "encode it with the published protos."
        ) from request.cause


async def _abort(context: Context, error: Exception) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, errors.ErrataError):
        status = to_status(error)
    else:
        trace_id = trace_parent().split("-")[1] if trace_parent() else uuid.uuid4().hex
        _log.error(
            "unexpected error in a handler", trace_id=trace_id, exception=errors.traceback_of(error)
        )
        status = internal_status(trace_id)
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    trailing: list[tuple[str, str | bytes]] = [(DETAILS_KEY, status.SerializeToString())]
    if isinstance(error, errors.ReplicaBehindError):
        # The deadline was used up by waiting here; a retry by the channel would only hide why.
        trailing.append((PUSHBACK_KEY, "-1"))
    await context.abort(code, status.message, trailing_metadata=tuple(trailing))
    raise AssertionError("abort always raises")
