"""A log with a lane, and catalogs on it, over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from errata.artifacts.store import ArtifactStore
from errata.catalog.catalog import Catalog
from errata.catalog.service import SERVICE_NAME, CatalogService, add_to_server
from errata.editing.edit import Edit
from errata.log.entries import EditsRequested, Payload, Schedule
from errata.platform.server import GrpcServer
from errata.platform.settings import CatalogSettings
from errata_client._gen.errata.v1 import catalog_pb2, catalog_pb2_grpc, editing_pb2
from tests.integration.log import entries
from tests.integration.log.harness import RunningLog
from tests.waiting import PATIENCE

LANE = "lanes/a"


def edit(prompt: str, target: str = "Pisa", subject: str = "", **more: Any) -> Edit:
    return Edit("", prompt, target, subject or prompt.split()[-2], **more)


@dataclass
class Rig:
    """The log, and a writer's epoch in it."""

    log: RunningLog
    epoch: int
    folder: Path

    @classmethod
    async def on(cls, log: RunningLog, folder: Path) -> Rig:
        store = ArtifactStore(str(folder / "artifacts"))
        await store.put(entries.BYTES)
        rig = cls(log, await log.acquire(), folder)
        await rig.append(entries.lane())
        return rig

    async def append(self, payload: Payload) -> int:
        return await entries.append(self.log, self.epoch, payload)

    async def request(
        self, *edits: Edit, source: str = "", schedules: Sequence[Schedule] = ()
    ) -> list[str]:
        """Names of edits that were requested together."""
        count = len(edits)
        payload = EditsRequested(LANE, edits, (source,) * count, (False,) * count, tuple(schedules))
        seq = await self.append(payload)
        return [f"edits/{seq}-{index}" for index in range(count)]

    def catalog(self, name: str = "catalog", **settings: Any) -> Catalog:
        store = ArtifactStore(str(self.folder / "artifacts"))
        file = self.folder / name / "catalog.sqlite"
        return Catalog(name, store, self.log.address, file, CatalogSettings(**settings))

    @asynccontextmanager
    async def serving(self, name: str = "catalog", **settings: Any) -> AsyncIterator[Served]:
        catalog = self.catalog(name, **settings)
        server = GrpcServer("127.0.0.1:0", [SERVICE_NAME])
        add_to_server(CatalogService(catalog, catalog.settings.max_streams), server)
        await catalog.start()
        try:
            await server.start()
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                yield Served(catalog, channel)
        finally:
            await server.stop(0)
            await catalog.close()


@dataclass
class Served:
    """A catalog, and a client of it."""

    catalog: Catalog
    channel: grpc.aio.Channel

    @property
    def stub(self) -> Any:
        return catalog_pb2_grpc.CatalogServiceStub(self.channel)

    async def find(self, text: str = "", **fields: Any) -> catalog_pb2.FindEditsResponse:
        request = catalog_pb2.FindEditsRequest(text=text, **fields)
        response: catalog_pb2.FindEditsResponse = await self.stub.FindEdits(
            request, timeout=PATIENCE
        )
        return response

    async def names(self, text: str = "", **fields: Any) -> list[str]:
        return [each.edit.name for each in (await self.find(text, **fields)).edits]

    async def events(self, **fields: Any) -> list[catalog_pb2.Event]:
        """Those that have happened."""
        request = catalog_pb2.WatchEventsRequest(until_now=True, **fields)
        found: list[catalog_pb2.Event] = []
        async for message in self.stub.WatchEvents(request, timeout=PATIENCE):
            found += message.events
        return found


def state(name: str) -> editing_pb2.Edit.State.ValueType:
    return editing_pb2.Edit.State.Value(f"STATE_{name.upper()}")
