"""Fetches from a log service that lies about sizes end early."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from errata.artifacts import RemoteArtifacts
from errata.errors import ArtifactCorruptError, LimitExceededError
from errata_client._gen.errata.v1 import edit_log_pb2, edit_log_pb2_grpc
from tests.waiting import PATIENCE

CHUNK = bytes(64 * 1024)


class _Endless(edit_log_pb2_grpc.EditLogServiceServicer):
    """Delivers zeros for as long as somebody listens."""

    def __init__(self) -> None:
        self.chunks = 0
        self.ended = asyncio.Event()

    async def GetArtifact(
        self, request: edit_log_pb2.GetArtifactRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[edit_log_pb2.GetArtifactResponse]:
        context.add_done_callback(lambda _: self.ended.set())
        while True:
            self.chunks += 1
            yield edit_log_pb2.GetArtifactResponse(chunk=CHUNK)

    async def wait_until_ended(self) -> None:
        """Returns once the caller has ended the stream."""
        async with asyncio.timeout(PATIENCE):
            await self.ended.wait()


@asynccontextmanager
async def _serving(service: _Endless) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server()
    edit_log_pb2_grpc.add_EditLogServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


@pytest.mark.parametrize("size_bytes", [0, 10, 3 * len(CHUNK)])
async def test_the_stream_is_cut_at_the_announced_size(size_bytes: int) -> None:
    service = _Endless()
    digest = hashlib.sha256(bytes(size_bytes)).hexdigest()
    async with _serving(service) as channel:
        with pytest.raises(ArtifactCorruptError, match="bytes that the log announces"):
            await RemoteArtifacts(channel).get(digest, size_bytes)
        await service.wait_until_ended()


async def test_the_stream_is_cut_at_the_limit_if_no_size_is_known() -> None:
    service = _Endless()
    async with _serving(service) as channel:
        with pytest.raises(LimitExceededError, match="ERRATA_ARTIFACTS__MAX_BYTES"):
            await RemoteArtifacts(channel, max_bytes=1_000_000).get("a" * 64)
        await service.wait_until_ended()


async def test_nothing_is_asked_for_what_is_announced_too_large() -> None:
    service = _Endless()
    async with _serving(service) as channel:
        with pytest.raises(LimitExceededError, match="ERRATA_ARTIFACTS__MAX_BYTES"):
            await RemoteArtifacts(channel, max_bytes=1_000_000).get("a" * 64, 1_000_001)
    assert service.chunks == 0
