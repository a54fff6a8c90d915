"""Counts, times and traces every HTTP request."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from errata.gateway.http.errors import CLIENT_LEFT
from errata.platform.metrics import HTTP_REQUESTS, HTTP_SECONDS
from errata.platform.tracing import span

ROUTE_KEY = "errata.route"
"""Where a handler leaves its route's path in the scope; labels never hold a client's own text."""


class Observed:
    """Wraps an application."""

    def __init__(self, app: ASGIApp) -> None:
        """Wraps `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes one request on, and records it when its response has ended."""
        started, status = time.perf_counter(), CLIENT_LEFT

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        parent = dict(scope["headers"]).get(b"traceparent", b"").decode("latin-1")
        try:
            with span("http", parent=parent, **{"http.request.method": scope["method"]}):
                await self._app(scope, receive, noted)
        finally:
            route = scope.get(ROUTE_KEY, "unmatched")
            HTTP_REQUESTS.labels(route, str(status)).inc()
            HTTP_SECONDS.labels(route).observe(time.perf_counter() - started)
