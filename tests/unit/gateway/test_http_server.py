"""The HTTP server in a process that has other work: start, drain, signals."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from errata.errors import StartupError
from errata.gateway.http.server import HttpServer
from tests.waiting import PATIENCE


async def test_a_stop_lets_answers_finish_and_takes_no_more() -> None:
    go_on = asyncio.Event()

    async def slow(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"first "
            await go_on.wait()
            yield b"last"

        return StreamingResponse(parts())

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    server = HttpServer("127.0.0.1:0", Starlette(routes=[Route("/", slow)]))
    await server.start()
    url = f"http://127.0.0.1:{server.port}/"
    async with httpx2.AsyncClient(timeout=PATIENCE) as client:
        async with client.stream("GET", url) as answer:
            parts = answer.aiter_bytes()
            assert await anext(parts) == b"first "
            assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
            stopping = asyncio.create_task(server.stop())
            await _refused(server.port)
            go_on.set()
            assert await anext(parts) == b"last"
        await stopping


async def _refused(port: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return
            writer.close()
            await asyncio.sleep(0.01)


async def test_an_address_in_use_is_refused_at_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = HttpServer(f"127.0.0.1:{taken.getsockname()[1]}", Starlette())
        with pytest.raises(StartupError, match="the port is in use"):
            await server.start()
    await server.stop()


async def test_an_empty_address_serves_nothing() -> None:
    server = HttpServer("", Starlette())
    await server.start()
    assert server.port == 0
    await server.stop()
