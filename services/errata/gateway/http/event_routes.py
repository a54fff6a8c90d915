"""The handler of events: one server-sent event each, for as long as the client listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass
from starlette.requests import Request
from starlette.responses import Response

from errata.gateway.forward import call_metadata
from errata.gateway.http.calls import asked_seconds, unless_left
from errata.gateway.http.errors import failure_of
from errata.gateway.http.rest_convert import EVENTS, events_of, request_of
from errata.gateway.http.rest_routes import error_of
from errata.gateway.http.sse import EventStream, event, pulse

_LAST_EVENT_HEADER = "Last-Event-ID"
_LONGEST_SECONDS = 86_400.0


class EventsCall:
    """`GET /v1/events`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        """Streams over `channel`."""
        self._call: Any = channel.unary_stream(
            EVENTS.rpc_path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(EVENTS.rpc.output_type).FromString,
        )

    async def __call__(self, request: Request) -> Response:
        """Answers once the first message is there: until then an error has a status of its own."""
        query = request.query_params.multi_items()
        if last := request.headers.get(_LAST_EVENT_HEADER):
            # A client that reconnects repeats its first query.
            query = [item for item in query if item[0] not in ("after", "from_seq")]
            query.append(("after", last))
        message = await asyncio.to_thread(request_of, EVENTS, b"", query, {}, "")
        seconds = asked_seconds(request, _LONGEST_SECONDS)
        stream = self._call(message, timeout=seconds, metadata=call_metadata())
        try:
            first = await unless_left(request, _next(stream, seconds))
        except BaseException:
            stream.cancel()
            raise

        async def close() -> None:
            stream.cancel()

        return EventStream(_events(first, stream, seconds), {}, close)


async def _next(stream: Any, seconds: float) -> Any:
    try:
        return await stream.read()
    except grpc.aio.AioRpcError as error:
        raise error_of(EVENTS, error, seconds) from error


async def _events(message: Any, stream: Any, seconds: float) -> AsyncIterator[bytes]:
    """A failed stream ends with its error."""
    try:
        while message is not grpc.aio.EOF:
            found = events_of(message)
            for name, content in found:
                yield event(content, name)
            if not found:
                yield pulse(f"seq {message.seq}")
            message = await _next(stream, seconds)
    except Exception as error:  # noqa: BLE001 the status is sent; the error is an event
        yield event(failure_of(error).body)
