"""What interceptors of our servers have in common: calls with one request, wrapped."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import grpc

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]

Unary = Callable[..., Awaitable[Any]]
Stream = Callable[..., AsyncIterator[Any]]


class Around(grpc.aio.ServerInterceptor):
    """Wraps every handler of a unary request; an unknown method (None) stays UNIMPLEMENTED."""

    @abstractmethod
    def unary(self, call: grpc.HandlerCallDetails, handle: Unary) -> Unary:
        """A handler around one that answers once."""

    @abstractmethod
    def stream(self, call: grpc.HandlerCallDetails, handle: Stream) -> Stream:
        """A handler around one that answers with a stream."""

    def decoder(self, decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
        """What reads the request."""
        return decode

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Called by gRPC for each call."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return cast("Handler", handler)
        decode, encode = self.decoder(handler.request_deserializer), handler.response_serializer
        if handler.response_streaming:
            stream = self.stream(handler_call_details, cast(Any, handler.unary_stream))
            return grpc.unary_stream_rpc_method_handler(stream, decode, encode)
        unary = self.unary(handler_call_details, cast(Any, handler.unary_unary))
        return grpc.unary_unary_rpc_method_handler(unary, decode, encode)
