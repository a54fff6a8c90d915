"""Counts and times the calls of every gRPC server."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import grpc

from errata.platform.metrics import GRPC_REQUESTS, GRPC_SECONDS

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


class CallMetrics(grpc.aio.ServerInterceptor):
    """Outermost of the interceptors, so that it sees the codes that others set."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Wraps the handler; an unknown method has none, and is not counted."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return cast("Handler", handler)
        method = handler_call_details.method.removeprefix("/")
        decode, encode = handler.request_deserializer, handler.response_serializer
        if handler.response_streaming:
            stream = _stream(method, cast(Any, handler.unary_stream))
            return grpc.unary_stream_rpc_method_handler(stream, decode, encode)
        unary = _unary(method, cast(Any, handler.unary_unary))
        return grpc.unary_unary_rpc_method_handler(unary, decode, encode)


def _unary(method: str, handle: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def measured(request: Any, context: Any) -> Any:
        started = time.perf_counter()
        try:
            return await handle(request, context)
        finally:
            _note(method, context, started)

    return measured


def _stream(
    method: str, handle: Callable[..., AsyncIterator[Any]]
) -> Callable[..., AsyncIterator[Any]]:
    async def measured(request: Any, context: Any) -> AsyncIterator[Any]:
        started = time.perf_counter()
        try:
            async for response in handle(request, context):
                yield response
        finally:
            _note(method, context, started)

    return measured


def _note(method: str, context: Any, started: float) -> None:
    code = "CANCELLED" if context.cancelled() else _CODES.get(context.code() or 0, "UNKNOWN")
    GRPC_REQUESTS.labels(method, code).inc()
    GRPC_SECONDS.labels(method).observe(time.perf_counter() - started)
