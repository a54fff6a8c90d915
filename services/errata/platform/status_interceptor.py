"""Refuses requests that exceed a limit, and gives every failed call a rich status."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from errata import errors
from errata.platform.interceptors import Around, Stream, Unary
from errata.platform.limits_convert import check_request
from errata.platform.status import DETAILS_KEY, PUSHBACK_KEY
from errata.platform.status_convert import internal_status, rpc_status
from errata.platform.tracing import trace_parent

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

_log = structlog.get_logger(__name__)


class _Undecodable:
    """Represents a request whose bytes are not a valid message."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class StatusInterceptor(Around):
    """Turns refusals and what handlers raise into rich statuses, for unary and streamed calls."""

    def unary(self, call: grpc.HandlerCallDetails, handle: Unary) -> Unary:
        """Handles errors of a call with one response."""

        async def guarded(request: Any, context: Context) -> Any:
            try:
                _check(request)
                return await handle(request, context)
            except Exception as error:  # noqa: BLE001 every failure gets a status here
                await _abort(context, error)

        return guarded

    def stream(self, call: grpc.HandlerCallDetails, handle: Stream) -> Stream:
        """Handles errors of a call that streams its responses."""

        async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                _check(request)
                async for response in handle(request, context):
                    yield response
            except Exception as error:  # noqa: BLE001 every failure gets a status here
                await _abort(context, error)

        return guarded

    def decoder(self, decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
        """Passes undecodable bytes on, so that the handler's guard refuses them."""
        return _tolerant(decode)


def _tolerant(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """A deserializer that never fails: gRPC would answer INTERNAL, but the caller is at fault."""
    if decode is None:
        return None

    def decoded(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError as error:
            return _Undecodable(error)

    return decoded


def _check(request: Any) -> None:
    """Refuses what is no message, and what exceeds a limit; bytes are only passed on."""
    if isinstance(request, _Undecodable):
        raise errors.InvalidRequestError(
            "the request is not a valid message (bad encoding, or text that is not UTF-8); "
            "encode it with the published protos."
        ) from request.cause
    if isinstance(request, Message):
        check_request(request)


async def _abort(context: Context, error: Exception) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, errors.ErrataError):
        status = rpc_status(error)
    else:
        trace_id = trace_parent().split("-")[1] if trace_parent() else uuid.uuid4().hex
        _log.error(
            "unexpected error in a handler", trace_id=trace_id, exception=errors.traceback_of(error)
        )
        status = internal_status(trace_id)
    trailing: list[tuple[str, str | bytes]] = [(DETAILS_KEY, status.details)]
    if isinstance(error, errors.UnavailableError) and error.only_by_caller:
        trailing.append((PUSHBACK_KEY, "-1"))
    await context.abort(status.code, status.message, trailing_metadata=tuple(trailing))
    raise AssertionError("abort always raises")
