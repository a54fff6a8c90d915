"""Calls the services behind the gateway for the caller of a page, as the JSON routes do."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from starlette.requests import Request

from errata.gateway.convert import INFERENCE, as_read, edits_of
from errata.gateway.forward import call_error, call_metadata
from errata.gateway.http.calls import unless_left
from errata.gateway.http.console.calls_convert import Call, replied
from errata.gateway.http.guard import Guard
from errata.gateway.rates import Rates, caller_of_request
from errata.platform.limits_convert import check_request
from errata.platform.settings import GatewaySettings
from errata.platform.tracing import trace_parent

if TYPE_CHECKING:
    from errata.gateway.pool import WorkerPool  # loads Ray

T = TypeVar("T")
_INFERENCE = INFERENCE.rpartition(".")[2]
_FIT_SECONDS = 120.0  # a fit takes longer than an answer
_AFTER_FITS = ("PreviewEdits", "EndCanary")  # a preview is one, a canary's end waits for one
_POOL_METHODS = {"Generate": "generate", "Score": "score", "GetModel": "get_model"}


class Backend:
    """What pages ask; every call has the identity, the limits and the audit of its caller."""

    def __init__(
        self,
        pool: WorkerPool,
        channels: Mapping[str, grpc.aio.Channel],
        settings: GatewaySettings,
        guard: Guard,
        rates: Rates,
    ) -> None:
        """Uses what the gateway's other routes use.

        Args:
            pool: answers inference.
            channels: by full name of the service.
            settings: of the gateway.
            guard: knows callers.
            rates: of the gateway.
        """
        self._pool = pool
        self._channels = {name.rpartition(".")[2]: each for name, each in channels.items()}
        self._seconds = settings.default_timeout_seconds
        self._guard = guard
        self._rates = rates

    def allow(self, request: Request, service: str, method: str) -> None:
        """Returns if the caller may call a method; pages that serve nothing else ask first.

        Raises:
            PermissionDeniedError: he may not.
        """
        self._guard.allow(request, f"/errata.v1.{service}/{method}")

    async def call(self, request: Request, call: Call[T]) -> T:
        """One call's result.

        Args:
            request: of the page.
            call: to make.

        Raises:
            ErrataError: the service's own error, or one of the connection; or the caller may not,
                or asks too often.
            ClientDisconnect: the client left.
        """
        path = f"/errata.v1.{call.service}/{call.method}"
        self.allow(request, call.service, call.method)
        await asyncio.to_thread(check_request, call.request)
        caller = caller_of_request(request)
        if (edits := edits_of(call.request)) is not None:
            self._rates.edit(caller, *edits)
        if call.service != _INFERENCE:
            reply = await unless_left(request, self._forwarded(call, path))
            return await asyncio.to_thread(call.parse, reply)  # replies may have megabytes
        if call.method != "GetModel":
            self._rates.answer(caller)
        reply = await unless_left(request, self._answered(call))
        return await asyncio.to_thread(call.parse, reply)

    async def _answered(self, call: Call[Any]) -> Any:
        more = (trace_parent(),) if call.method == "Generate" else ()
        # Workers know no identities: what the caller may read is decided here.
        request = call.request if call.method == "GetModel" else as_read(call.request)
        return await self._pool.call(_POOL_METHODS[call.method], request, self._seconds, *more)

    async def _forwarded(self, call: Call[Any], path: str) -> Any:
        channel: Any = self._channels[call.service]
        is_long = call.method in _AFTER_FITS
        seconds = max(self._seconds, _FIT_SECONDS) if is_long else self._seconds
        rpc = channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=replied(call).FromString,
        )
        try:
            return await rpc(call.request, timeout=seconds, metadata=call_metadata())
        except grpc.aio.AioRpcError as error:
            again = "send the same form again, which has one effect."
            raise call_error(error, call.service, seconds, again) from error
