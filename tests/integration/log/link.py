"""A breakable link between a client and a service."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress


class Proxy:
    """A TCP link that can be cut, reset, or made to swallow everything."""

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self.address = ""
        self.num_connections = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        while self._pumps:
            await asyncio.wait(self._pumps)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Closes every connection in good order."""
        for writer in self._writers:
            writer.close()
        for pump in self._pumps:
            pump.cancel()

    def reset(self) -> None:
        """Closes every connection with RST."""
        for writer in self._writers:
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.cut()

    def blackhole(self) -> None:
        """Holds everything back: present connections stay open and silent."""
        self._open.clear()

    def heal(self) -> None:
        """Lets everything through, what was held back included."""
        self._open.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        self.num_connections += 1
        self._writers |= {writer, there_writer}
        for source, sink in ((reader, there_writer), (there_reader, writer)):
            pump = asyncio.create_task(self._pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self._open.wait()
                sink.write(data)
                await sink.drain()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            sink.close()
            with suppress(OSError):
                await sink.wait_closed()
            self._writers.discard(sink)
