"""Base class of our server interceptors: wraps calls with one request."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import grpc

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]

Unary = Callable[..., Awaitable[Any]]
Stream = Callable[..., AsyncIterator[Any]]


class Around(grpc.aio.ServerInterceptor):
    """Wraps every handler with one request; an unknown method (None) stays UNIMPLEMENTED."""

    @abstractmethod
    def unary(self, call: grpc.HandlerCallDetails, handle: Unary) -> Unary:
        """Wraps a handler that returns one response."""

    @abstractmethod
    def stream(self, call: grpc.HandlerCallDetails, handle: Stream) -> Stream:
        """Wraps a handler that streams its responses."""

    def decoder(self, decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
        """Wraps the request's deserializer; None passes bytes through."""
        return decode

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Wraps the handler of one call; gRPC calls it."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return cast("Handler", handler)
        if inspect.iscoroutinefunction(handler.unary_stream):
            return handler  # gRPC's own health: it writes to the context, and anyone may call it
        decode, encode = self.decoder(handler.request_deserializer), handler.response_serializer
        if handler.response_streaming:
            stream = self.stream(handler_call_details, cast(Any, handler.unary_stream))
            return grpc.unary_stream_rpc_method_handler(stream, decode, encode)
        unary = self.unary(handler_call_details, cast(Any, handler.unary_unary))
        return grpc.unary_unary_rpc_method_handler(unary, decode, encode)
