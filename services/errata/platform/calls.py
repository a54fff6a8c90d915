"""Counts and times the calls of every gRPC server."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from errata.platform.interceptors import Around, Stream, Unary
from errata.platform.metrics import GRPC_REQUESTS, GRPC_SECONDS

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


class CallMetrics(Around):
    """Counts and times calls; outermost, so that it sees the codes that other interceptors set."""

    def unary(self, call: grpc.HandlerCallDetails, handle: Unary) -> Unary:
        """Records a call when it is answered."""

        async def measured(request: Any, context: Any) -> Any:
            started = time.perf_counter()
            try:
                return await handle(request, context)
            finally:
                _note(call, context, started)

        return measured

    def stream(self, call: grpc.HandlerCallDetails, handle: Stream) -> Stream:
        """Records a call when its stream has ended."""

        async def measured(request: Any, context: Any) -> AsyncIterator[Any]:
            started = time.perf_counter()
            try:
                async for response in handle(request, context):
                    yield response
            finally:
                _note(call, context, started)

        return measured


def _note(call: grpc.HandlerCallDetails, context: Any, started: float) -> None:
    method = str(call.method).removeprefix("/")
    code = "CANCELLED" if context.cancelled() else _CODES.get(context.code() or 0, "UNKNOWN")
    GRPC_REQUESTS.labels(method, code).inc()
    GRPC_SECONDS.labels(method).observe(time.perf_counter() - started)
