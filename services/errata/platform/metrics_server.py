"""The HTTP server that Prometheus reads, with TLS where the process has it."""

from __future__ import annotations

import socket
import threading
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import structlog
from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from errata.platform.security.transport import ServerContext, check_plaintext
from errata.platform.settings.security import SecuritySettings

_HANDSHAKE_SECONDS = 10.0

_log = structlog.get_logger(__name__)


class _Silent(WSGIRequestHandler):
    timeout = _HANDSHAKE_SECONDS  # of one read, so that a silent caller ends

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not logged."""


class _Server(ThreadingWSGIServer):
    tls: ServerContext | None = None

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection; its handshake is the work of the thread that reads it."""
        connection, address = super().get_request()
        if self.tls is None:
            return connection, address
        self.tls.refresh()
        return (
            self.tls.context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            ),
            address,
        )

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Callers that hang up or speak no TLS are no reason for an alarm."""
        _log.debug("a scrape failed", caller=client_address, exc_info=True)


class MetricsServer:
    """Serves the process's metrics, on a thread of its own."""

    def __init__(self, host: str, port: int, settings: SecuritySettings) -> None:
        """Binds and serves.

        Args:
            host: to listen on.
            port: to listen on; 0 selects a free one.
            settings: whether there is TLS, and who may read.

        Raises:
            OSError: the address cannot be bound.
            StartupError: the certificate cannot be used, or plaintext is not allowed there.
        """
        tls: ServerContext | None = None
        if settings.metrics != "plaintext":
            check_plaintext(f"{host}:{port}", host, settings)
            if settings.has_tls:
                tls = ServerContext(settings, demands=settings.metrics == "certificates")
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        kind = type("_Bound", (_Server,), {"address_family": family, "tls": tls})
        self._server: Any = make_server(host, port, make_wsgi_app(), kind, _Silent)
        self.port = int(self._server.server_port)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
