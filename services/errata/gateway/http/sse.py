"""Server-sent events: one JSON object each, as the OpenAI API streams them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

DONE = b"data: [DONE]\n\n"
"""The last event of a complete stream."""


def event(data: Mapping[str, Any], name: str = "") -> bytes:
    """One event; with a name, by which a client continues after it."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    named = f"id: {name}\n" if name else ""
    return f"{named}data: {text}\n\n".encode()


def pulse(text: str) -> bytes:
    """Keeps the connection alive; clients ignore it."""
    return f": {text}\n\n".encode()


class EventStream(StreamingResponse):
    """A response of events, whose source is closed at its end and when the client leaves."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[bytes],
        headers: Mapping[str, str],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        """Streams `events`.

        Args:
            events: as `event` makes them.
            headers: of the response.
            close: called at the end, whatever ends it.
        """
        # Proxies pass each event on at once.
        own = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, headers={**own, **headers})
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events; the server calls it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._close()
