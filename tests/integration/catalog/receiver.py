"""A real HTTP server that takes webhooks, or fails in the ways of real ones."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from errata.catalog.webhooks.messages import signature

SECRET = b"a secret of the receiver"


@dataclass
class Delivered:
    """One request."""

    path: str
    event_id: str
    body: dict[str, Any]
    signed: bool
    status: int


@dataclass
class Receiver:
    """What came in, and what to answer next: 200 once `answers` is used up.

    Attributes:
        answers: statuses; 0 hangs until `released`.
        location: of redirects.
    """

    port: int = 0
    answers: list[int] = field(default_factory=list)
    location: str = "/elsewhere"
    requests: list[Delivered] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks"

    def taken(self) -> list[str]:
        """Ids of the requests that were answered with 200, in order."""
        return [each.event_id for each in self.requests if each.status == 200]

    def ids(self) -> list[str]:
        return [each.event_id for each in self.requests]


@contextmanager
def receiver(*answers: int) -> Iterator[Receiver]:
    state = Receiver(answers=list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            event_id, time = self.headers["webhook-id"], self.headers["webhook-timestamp"]
            expected = signature(SECRET, event_id, time, body)
            status = state.answers.pop(0) if state.answers else 200
            state.requests.append(
                Delivered(
                    self.path,
                    event_id,
                    json.loads(body),
                    self.headers["webhook-signature"] == expected,
                    status,
                )
            )
            if not status:
                state.released.wait()
                return
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("location", state.location)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are kept, not printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
