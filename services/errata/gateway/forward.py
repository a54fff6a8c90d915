"""Forwards calls to the services behind the gateway, as bytes and unchanged, within the limits.

Of log and catalog, only the methods that clients need are forwarded; only the writer appends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc

from errata.errors import DeadlineExceededError, ErrataError, UnavailableError
from errata.gateway.convert import (
    CATALOG,
    EDIT_LOG,
    EDITING,
    EDITING_METHODS,
    checked,
    edits_of,
)
from errata.gateway.rates import Rates, caller_of_call
from errata.platform.rpc_errors import service_error
from errata.platform.security.identity import caller_metadata
from errata.platform.status import DETAILS_KEY, PUSHBACK_KEY
from errata.platform.tracing import outgoing
from errata_client import errors as client_errors

LOG_UNARY = ("GetHead", "ListEntries", "ListReplicas")
LOG_STREAMS = ("Subscribe", "GetArtifact")
CATALOG_UNARY = ("FindEdits", "ShapedAnswers")
CATALOG_STREAMS = ("WatchEvents",)


def handlers(
    editing: grpc.aio.Channel, log: grpc.aio.Channel, catalog: grpc.aio.Channel, rates: Rates
) -> list[Any]:
    """One generic handler for each service that is forwarded."""
    to_editing = {name: _unary(editing, f"/{EDITING}/{name}", rates) for name in EDITING_METHODS}
    to_log = {name: _unary(log, f"/{EDIT_LOG}/{name}", rates) for name in LOG_UNARY}
    to_log |= {name: _stream(log, f"/{EDIT_LOG}/{name}") for name in LOG_STREAMS}
    to_catalog = {name: _unary(catalog, f"/{CATALOG}/{name}", rates) for name in CATALOG_UNARY}
    to_catalog |= {name: _stream(catalog, f"/{CATALOG}/{name}") for name in CATALOG_STREAMS}
    return [
        grpc.method_handlers_generic_handler(CATALOG, to_catalog),
        grpc.method_handlers_generic_handler(EDITING, to_editing),
        grpc.method_handlers_generic_handler(EDIT_LOG, to_log),
    ]


def call_metadata() -> tuple[tuple[str, str | bytes], ...]:
    """The current trace, and who calls: the service behind trusts a gateway to say so."""
    return (*outgoing(), *caller_metadata())


def _unary(channel: grpc.aio.Channel, path: str, rates: Rates) -> grpc.RpcMethodHandler[Any, Any]:
    call: Any = channel.unary_unary(path)  # without serializers: bytes in, bytes out

    async def forwarded(request: bytes, context: Any) -> bytes:
        edits = edits_of(await asyncio.to_thread(checked, path, request))
        if edits is not None:
            rates.edit(caller_of_call(context), *edits)
        try:
            return bytes(
                await call(request, timeout=context.time_remaining(), metadata=call_metadata())
            )
        except grpc.aio.AioRpcError as error:
            await _forward_error(context, path, error)

    return grpc.unary_unary_rpc_method_handler(forwarded)


def _stream(channel: grpc.aio.Channel, path: str) -> grpc.RpcMethodHandler[Any, Any]:
    call: Any = channel.unary_stream(path)

    async def forwarded(request: bytes, context: Any) -> AsyncIterator[bytes]:
        await asyncio.to_thread(checked, path, request)
        try:
            async for message in call(
                request, timeout=context.time_remaining(), metadata=call_metadata()
            ):
                yield message
        except grpc.aio.AioRpcError as error:
            await _forward_error(context, path, error)

    return grpc.unary_stream_rpc_method_handler(forwarded)


def cannot_reach(service: str) -> UnavailableError:
    """The error of a call whose connection failed."""
    return UnavailableError(
        f"the gateway cannot reach {service}; try again with the same request id.", service=service
    )


def call_error(
    error: grpc.aio.AioRpcError, service: str, seconds: float, again: str
) -> ErrataError:
    """The error of a call that failed: the service's own, or that of the connection.

    Args:
        error: of the call.
        service: that was called.
        seconds: the call's deadline.
        again: what the caller should do if the outcome is unknown.
    """
    of_transport = not client_errors.from_rpc_error(error).reason
    if of_transport and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceededError(
            f"no answer within {seconds:g} s, and the outcome is unknown; {again}",
            timeout_seconds=seconds,
        )
    if of_transport and error.code() is grpc.StatusCode.UNAVAILABLE:
        return cannot_reach(service)
    return service_error(error, service, UnavailableError)


async def _forward_error(context: Any, path: str, error: grpc.aio.AioRpcError) -> NoReturn:
    """Forwards a service's status unchanged; a failed connection gets a reason."""
    keys = (DETAILS_KEY, PUSHBACK_KEY)
    details = tuple((key, value) for key, value in error.trailing_metadata() if key in keys)
    if not details and error.code() is grpc.StatusCode.UNAVAILABLE:
        service = path.split("/")[1].rpartition(".")[2]
        raise cannot_reach(service) from error
    await context.abort(error.code(), error.details() or "", trailing_metadata=details)
    raise AssertionError("abort always raises")
