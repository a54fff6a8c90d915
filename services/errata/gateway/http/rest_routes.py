"""Handlers of the JSON routes: they call the services behind the gateway."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from errata.errors import ErrataError
from errata.gateway.convert import edits_of
from errata.gateway.forward import call_error, call_metadata
from errata.gateway.http.calls import asked_seconds, read_body, unless_left
from errata.gateway.http.rest_convert import RestRoute, body_of, request_id_of, request_of
from errata.gateway.rates import Rates, caller_of_request
from errata.platform.settings import GatewaySettings

_ID_HEADER = "Idempotency-Key"


class RestCall:
    """The handler of one route."""

    def __init__(
        self, route: RestRoute, channel: grpc.aio.Channel, settings: GatewaySettings, rates: Rates
    ) -> None:
        """Calls the route's RPC over `channel`."""
        self._route = route
        self._rates = rates
        self._settings = settings
        self._call: Any = channel.unary_unary(
            route.rpc_path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(route.rpc.output_type).FromString,
        )

    async def __call__(self, request: Request) -> Response:
        """Answers one request."""
        body = b""
        if self._route.verb == "POST":
            body = await read_body(request, self._settings.http_max_body_bytes)
        message = await asyncio.to_thread(
            request_of,
            self._route,
            body,
            request.query_params.multi_items(),
            request.path_params,
            request.headers.get(_ID_HEADER, ""),
        )
        if (edits := edits_of(message)) is not None:
            self._rates.edit(caller_of_request(request), *edits)
        seconds = asked_seconds(request, self._settings.default_timeout_seconds)
        answer = await unless_left(request, self._forward(message, seconds))
        # Whoever repeats the request under this id gets the same outcome.
        used = request_id_of(message)
        return JSONResponse(body_of(answer), headers={_ID_HEADER: used} if used else {})

    async def _forward(self, message: Any, seconds: float) -> Any:
        try:
            return await self._call(message, timeout=seconds, metadata=call_metadata())
        except grpc.aio.AioRpcError as error:
            raise error_of(self._route, error, seconds) from error


def error_of(route: RestRoute, error: grpc.aio.AioRpcError, seconds: float) -> ErrataError:
    """The error of a call that failed: the service's own, or that of the connection."""
    again = (
        "repeat it with the same request id, and allow more time with the header X-Request-Timeout."
    )
    return call_error(error, route.rpc.containing_service.name, seconds, again)
