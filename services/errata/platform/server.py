"""gRPC servers and channels as every service sets them up."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from errata.errors import StartupError
from errata.platform.addresses import host_and_port
from errata.platform.calls import CallMetrics
from errata.platform.health_convert import HEALTH_SERVICE, serving_state
from errata.platform.status_interceptor import StatusInterceptor
from errata.platform.tracing import CallTraces

MAX_MESSAGE_BYTES = 16 * 1024 * 1024

# Keepalive on both sides finds dead links; the BDP probe would let a server write megabytes ahead
# of a slow reader, which defeats backpressure on streams.
COMMON_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.bdp_probe", 0),
    # A writer may start for half an hour; gRPC would then look for it every two minutes.
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)
_SERVER_OPTIONS = (
    *COMMON_OPTIONS,
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
    # Clients resolve names anew only when a connection ends: so they find new replicas.
    ("grpc.max_connection_age_ms", 300_000),
)


class GrpcServer:
    """A `grpc.aio` server with health, reflection and the status interceptor.

    Health is NOT_SERVING until `start`, and again from the moment `stop` begins.
    """

    def __init__(self, address: str, services: Sequence[str]) -> None:
        """Prepares the server; register servicers on `server`, then `start`.

        Args:
            address: `host:port`; port 0 takes a free one.
            services: full names of the services, for health and reflection.
        """
        self.address = address
        self.port = 0
        self.server = grpc.aio.server(
            interceptors=[CallMetrics(), CallTraces(), StatusInterceptor()],
            options=list(_SERVER_OPTIONS),
        )
        self._services = tuple(services)
        self._health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        reflection.enable_server_reflection(
            [
                *services,
                HEALTH_SERVICE,
                reflection.SERVICE_NAME,
            ],
            self.server,
        )

    async def start(self) -> None:
        """Binds and serves.

        Raises:
            StartupError: the address is in use or cannot be bound; nothing was started.
        """
        check_address(self.address)
        try:
            self.port = self.server.add_insecure_port(self.address)
        except RuntimeError as error:
            raise _cannot_listen(self.address, str(error)) from error
        await self.server.start()
        await self.set_serving(True)

    async def set_serving(self, serving: bool) -> None:
        """Sets the health of the process and of each of its services."""
        value = serving_state(serving)
        for service in ("", *self._services):
            await self._health.set(service, value)

    async def stop(self, grace_seconds: float = 5.0) -> None:
        """Drains: NOT_SERVING first, then no new calls, then running ones get the grace."""
        await self.set_serving(False)
        await self.server.stop(grace_seconds)


def _cannot_listen(address: str, why: str) -> StartupError:
    return StartupError(
        f"cannot listen on {address}: {why}. Choose another address, or stop what holds it.",
        address=address,
    )


def check_address(address: str) -> None:
    """Returns if a server could listen there; gRPC's own error does not say what is wrong.

    Raises:
        StartupError: no `host:port`, in use, or not ours to bind.
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


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel with keepalive and a connection of its own, in the loop that uses it.

    gRPC shares connections between channels to one address; a redial would get a dead one back
    for as long as anything else in the process holds it.
    """
    options = [*COMMON_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.insecure_channel(address, options=options)


async def unless_stopped(work: Coroutine[Any, Any, object], stop: asyncio.Event) -> bool:
    """Does `work`; gives it up and returns False if `stop` is set first."""
    task, halt = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, halt), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return True
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return False
    finally:  # also where the caller itself is cancelled
        halt.cancel()
        task.cancel()


async def run_until_signalled(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Runs `serve` until SIGINT or SIGTERM sets the event that it was given."""
    stop = asyncio.Event()
    handle_signals(stop)
    await serve(stop)


def handle_signals(stop: asyncio.Event) -> None:
    """Lets SIGINT and SIGTERM set `stop`, whatever they did before."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
