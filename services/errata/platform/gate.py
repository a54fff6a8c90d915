"""Refuses calls while a server stands by, so that callers turn to another one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from errata.errors import UnavailableError
from errata.platform.interceptors import Around, Stream, Unary
from errata.platform.security.rules import HEALTH


class Gate(Around):
    """Refuses every call but those of health until it is opened.

    Attributes:
        is_open: whether calls pass.
    """

    def __init__(self, reason: str) -> None:
        """Closed; `reason` is what callers are told."""
        self.is_open = False
        self._reason = reason

    def unary(self, call: grpc.HandlerCallDetails, handle: Unary) -> Unary:
        """Refuses a call, or lets it pass."""

        async def gated(request: Any, context: Any) -> Any:
            self._check(call)
            return await handle(request, context)

        return gated

    def stream(self, call: grpc.HandlerCallDetails, handle: Stream) -> Stream:
        """Refuses a stream at its beginning, or lets it pass."""

        async def gated(request: Any, context: Any) -> AsyncIterator[Any]:
            self._check(call)
            async for response in handle(request, context):
                yield response

        return gated

    def _check(self, call: grpc.HandlerCallDetails) -> None:
        if not self.is_open and not str(call.method).startswith(HEALTH):
            raise UnavailableError(self._reason)
