"""Runs the HTTP application in the gateway's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from errata.errors import StartupError
from errata.platform.addresses import host_and_port
from errata.platform.security.active import active
from errata.platform.security.transport import (
    ServerContext,
    check_plaintext,
    demands_certificates,
)
from errata.platform.server import check_address

_BACKLOG = 2_048
_GRACE_SECONDS = 5
_RENEW_SECONDS = 10.0


class _Server(uvicorn.Server):
    """A server that leaves signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Installs no handlers: the gateway stops its servers itself."""
        yield


class HttpServer:
    """Serves an application at one address.

    Attributes:
        port: once it is started.
    """

    def __init__(self, address: str, app: ASGIApp) -> None:
        """Prepares the server.

        Args:
            address: `host:port`; port 0 selects a free port, and empty serves nothing.
            app: to serve.
        """
        self.address = address
        self.port = 0
        self._server = _Server(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
        )
        self._security = active().settings
        self._serving: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Binds the address and serves.

        Raises:
            StartupError: the address is in use or cannot be bound, the certificate cannot be used,
                or plaintext is not allowed there; nothing was started.
        """
        if not self.address:
            return
        check_address(self.address)
        host, port = host_and_port(self.address)
        check_plaintext(self.address, host, self._security)
        if self._security.has_tls:
            self._encrypt()
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[
            0
        ]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(target)
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise StartupError(
                f"cannot listen on {self.address}: {error}. Choose another address.",
                address=self.address,
            ) from error
        self.port = listener.getsockname()[1]
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))

    def _encrypt(self) -> None:
        demands = demands_certificates(self._security, is_front=True)
        tls = ServerContext(self._security, demands=demands)
        config = self._server.config
        config.load()
        config.ssl = tls.context
        self._renewing = asyncio.create_task(_renew(tls))

    async def stop(self) -> None:
        """Drains: accepts no connections, lets running answers finish for five seconds."""
        if self._renewing is not None:
            self._renewing.cancel()
        if self._serving is not None:
            self._server.should_exit = True
            await self._serving


async def _renew(tls: ServerContext) -> None:
    """Reads the certificate again when its file changes."""
    while True:
        await asyncio.sleep(_RENEW_SECONDS)
        tls.refresh()
