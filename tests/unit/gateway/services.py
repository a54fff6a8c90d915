"""The gateway's HTTP application in front of services that answer as a test wants."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import grpc
import httpx2
from google.protobuf.message_factory import GetMessageClass

from errata.gateway.http.app import build_app
from errata.platform.addresses import free_port
from errata.platform.security.active import Security, active, configure_security
from errata.platform.server import GrpcServer, open_channel
from errata.platform.settings import GatewaySettings, SecuritySettings
from errata_client._gen.errata.v1 import edit_log_pb2, editing_pb2

Answers = dict[str, Callable[[Any], Any]]
seconds_left: ContextVar[float | None] = ContextVar("seconds_left")
"""Of the call that is being answered; None without a deadline."""


class Service:
    """A service of the gateway's protos, with an answer for each of some methods."""

    def __init__(self, file: Any, name: str, answers: Answers) -> None:
        service = file.DESCRIPTOR.services_by_name[name]
        self.server = GrpcServer("127.0.0.1:0", [])
        self.server.server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    service.full_name,
                    {
                        each: self._handler(service.methods_by_name[each], answer)
                        for each, answer in answers.items()
                    },
                )
            ]
        )

    @staticmethod
    def _handler(method: Any, answer: Callable[[Any], Any]) -> grpc.RpcMethodHandler[Any, Any]:
        async def handle(request: Any, context: Any) -> Any:
            seconds_left.set(context.time_remaining())
            return answer(request)

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )


class Workers:
    """Stands where the pool of workers does, with an answer for each of some methods."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def call(self, method: str, request: Any, seconds: float, *more: Any) -> Any:
        return self._answers[method](request)


@asynccontextmanager
async def gateway_http(
    log: Answers | None = None,
    editing: Answers | None = None,
    security: SecuritySettings | None = None,
    workers: Answers | None = None,
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the gateway's HTTP application with the console."""
    logs = Service(edit_log_pb2, "EditLogService", log or {})
    edits = Service(editing_pb2, "EditingService", editing or {})
    pool: Any = Workers(workers or {})
    settings = GatewaySettings(console=True)
    await logs.server.start()
    await edits.server.start()
    async with (
        open_channel(f"127.0.0.1:{logs.server.port}") as to_log,
        open_channel(f"127.0.0.1:{edits.server.port}") as to_edits,
        open_channel(f"127.0.0.1:{free_port()}") as nobody,
    ):
        before = active()
        configure_security(Security(security or SecuritySettings()))
        try:
            app = build_app(pool, to_edits, to_log, nobody, settings)
        finally:
            configure_security(before)
        scheme = "http" if security is None else "https"
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(
            transport=transport, base_url=f"{scheme}://localhost"
        ) as made:
            yield made
    await logs.server.stop(0)
    await edits.server.stop(0)
