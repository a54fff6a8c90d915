"""Set-up of gRPC servers and channels, shared by all services."""

from __future__ import annotations

import asyncio
import errno
import json
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from errata.errors import StartupError
from errata.platform.addresses import host_and_port
from errata.platform.calls import CallMetrics
from errata.platform.gate import Gate
from errata.platform.health_convert import HEALTH_SERVICE, health_state
from errata.platform.security.active import active
from errata.platform.security.renewing import Renewal, RenewingChannel
from errata.platform.security.rules import without_rule
from errata.platform.security.transport import (
    channel_credentials,
    check_plaintext,
    demands_certificates,
    server_credentials,
)
from errata.platform.settings import SecuritySettings
from errata.platform.status_interceptor import StatusInterceptor
from errata.platform.tracing import CallTraces

MAX_MESSAGE_BYTES = 16 * 1024 * 1024

# Keepalive on both sides detects dead connections. The BDP probe would let a server write megabytes
# ahead of a slow reader, which defeats backpressure on streams.
COMMON_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.bdp_probe", 0),
    # A writer can take half an hour to start; gRPC would then retry only every two minutes.
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)
# A frozen server answers no ping; with another one to turn to, callers need not wait a minute.
_FAILOVER_OPTIONS = {
    "grpc.keepalive_time_ms": 4_000,
    "grpc.keepalive_timeout_ms": 2_000,
    "grpc.http2.ping_timeout_ms": 2_000,  # 60 s by default, whatever the timeout above says
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.max_pings_without_data": 0,
}
_ONLY_HEALTHY = json.dumps(
    {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
)
_SERVER_OPTIONS = (
    *COMMON_OPTIONS,
    ("grpc.http2.min_ping_interval_without_data_ms", 2_000),  # see _FAILOVER_OPTIONS
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
    # Clients resolve names again only when a connection ends; this lets them find new replicas.
    ("grpc.max_connection_age_ms", 300_000),
    # Calls of one connection at once; a gateway has one connection for the waits of all clients.
    ("grpc.max_concurrent_streams", 1_000),
)


class GrpcServer:
    """A `grpc.aio` server with health, reflection and the status interceptor.

    Health is NOT_SERVING until `start`, and again as soon as `stop` begins.
    """

    def __init__(
        self,
        address: str,
        services: Sequence[str],
        *,
        is_front: bool = False,
        gate: Gate | None = None,
    ) -> None:
        """Prepares the server; register servicers on `server`, then call `start`.

        Args:
            address: `host:port`; port 0 selects a free port.
            services: full names of the services, for health and reflection.
            is_front: whether people call it, and not only other services.
            gate: refuses calls until it is opened; until then the health is NOT_SERVING.

        Raises:
            StartupError: a method of the services has no rule that says who may call it.
        """
        self.address = address
        self.port = 0
        self._is_front = is_front
        self._gate = gate
        self._security = active()
        check_rules(services)
        self.server = grpc.aio.server(
            interceptors=[
                CallMetrics(),
                CallTraces(),
                StatusInterceptor(),
                self._security.access(),
                *([gate] if gate is not None else []),
            ],
            options=list(_SERVER_OPTIONS),
        )
        self._services = tuple(services)
        self._health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        if self._security.settings.reflection != "off":
            named = [*services, HEALTH_SERVICE, reflection.SERVICE_NAME]
            reflection.enable_server_reflection(named, self.server)

    async def start(self) -> None:
        """Binds the address and serves.

        Raises:
            StartupError: the address is in use or cannot be bound, the certificate cannot be used,
                or plaintext is not allowed there; nothing was started.
        """
        check_address(self.address)
        settings = self._security.settings
        check_plaintext(self.address, host_and_port(self.address)[0], settings)
        try:
            if settings.has_tls:
                demands = demands_certificates(settings, is_front=self._is_front)
                credentials = server_credentials(settings, demands=demands)
                self.port = self.server.add_secure_port(self.address, credentials)
            else:
                self.port = self.server.add_insecure_port(self.address)
        except RuntimeError as error:
            raise _cannot_listen(self.address, str(error)) from error
        await self.server.start()
        await self.set_serving(self._gate is None)

    async def open_gate(self) -> None:
        """Lets calls pass; the health becomes SERVING."""
        if self._gate is not None:
            self._gate.is_open = True
        await self.set_serving(True)

    async def set_serving(self, serving: bool) -> None:
        """Sets the health of the process and of each of its services."""
        value = health_state(serving)
        for service in ("", *self._services):
            await self._health.set(service, value)

    async def stop(self, grace_seconds: float = 5.0) -> None:
        """Drains: sets NOT_SERVING, refuses new calls, then lets running calls finish."""
        await self.set_serving(False)
        await self.server.stop(grace_seconds)


def _cannot_listen(address: str, why: str) -> StartupError:
    return StartupError(
        f"cannot listen on {address}: {why}. Choose another address, or stop what uses it.",
        address=address,
    )


def check_address(address: str) -> None:
    """Returns if a server could listen there; gRPC's own error does not give the cause.

    Raises:
        StartupError: not a `host:port`, in use, or not allowed.
    """
    host, port = host_and_port(address)
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[
            0
        ]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except OSError as error:
        why = "the port is in use" if error.errno == errno.EADDRINUSE else str(error)
        raise _cannot_listen(address, why) from error


def open_channel(
    target: str, *, only_healthy: bool = False, authority: str = ""
) -> grpc.aio.Channel:
    """A channel with keepalive and its own connection; open it in the loop that uses it.

    With TLS it follows the certificate's files.

    gRPC shares connections between channels to one address: a reconnect would return a dead
    connection as long as another channel in the process holds it.

    Args:
        target: host:port, or one of several servers: dns:///host:port or IP:port,IP:port,….
        only_healthy: of several servers, calls those whose health is SERVING; otherwise, the first
            one that answers.
        authority: with what a certificate is compared; if empty, with the target, or with the first
            of several addresses.
    """
    options: dict[str, Any] = {**dict(COMMON_OPTIONS), "grpc.use_local_subchannel_pool": 1}
    if "," in target or target.startswith("dns:///"):
        options |= _FAILOVER_OPTIONS
        if only_healthy:
            options["grpc.service_config"] = _ONLY_HEALTHY
    if "," in target:
        # A certificate is compared with this name; gRPC would take the whole list for it.
        authority = authority or target.partition(",")[0]
        target = f"ipv4:{target}"
    if authority:
        options["grpc.default_authority"] = authority
    settings = active().settings
    if not settings.has_tls:
        return grpc.aio.insecure_channel(target, options=list(options.items()))

    def dial() -> grpc.aio.Channel:
        credentials = channel_credentials(settings)
        return grpc.aio.secure_channel(target, credentials, options=list(options.items()))

    return RenewingChannel(dial, Renewal(settings))


def open_blocking_channel(
    address: str,
    options: Sequence[tuple[str, Any]] = (),
    settings: SecuritySettings | None = None,
) -> grpc.Channel:
    """A channel for code without an event loop.

    Args:
        address: host:port.
        options: of gRPC.
        settings: name the certificate; if None, the process's.
    """
    settings = settings or active().settings
    if settings.has_tls:
        return grpc.secure_channel(address, channel_credentials(settings), options=options)
    return grpc.insecure_channel(address, options=options)


def check_rules(services: Sequence[str]) -> None:
    """Returns if every method of these services has a rule.

    Raises:
        StartupError: one has none; nobody could ever call it.
    """
    pool = descriptor_pool.Default()
    found = [pool.FindServiceByName(name) for name in services]
    methods = [f"/{each.full_name}/{method.name}" for each in found for method in each.methods]
    if missing := without_rule(methods):
        raise StartupError(
            f"no rule says who may call {', '.join(missing)}; see security/rules.py."
        )


async def unless_stopped(work: Coroutine[Any, Any, object], stop: asyncio.Event) -> bool:
    """Runs `work`; cancels it and returns False if `stop` is set first."""
    task, halt = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, halt), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return True
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return False
    finally:  # also when the caller is cancelled
        halt.cancel()
        task.cancel()


async def run_until_signalled(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Runs `serve` with an event that SIGINT and SIGTERM set."""
    stop = asyncio.Event()
    handle_signals(stop)
    await serve(stop)


def handle_signals(stop: asyncio.Event) -> None:
    """Makes SIGINT and SIGTERM set `stop`; replaces earlier handlers."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
