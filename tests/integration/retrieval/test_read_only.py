"""A retrieval service of a system that shows an earlier position keeps its hands off snapshots."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from errata.platform.addresses import free_port
from errata.platform.settings import load_settings
from errata.retrieval.main import serve
from errata_client._gen.errata.v1 import edit_log_pb2 as pb
from tests.integration.log import entries as made
from tests.integration.log.harness import RedisServer, eventually, log_settings, running_log


@pytest.mark.parametrize("read_only_at", [None, 2])
async def test_snapshots_may_be_of_later_positions(
    tmp_path: Path, read_only_at: int | None
) -> None:
    server = RedisServer(tmp_path / "redis")
    server.start()
    settings = log_settings(server, tmp_path / "witness")
    try:
        async with running_log(settings) as log:
            epoch = await log.acquire()
            for name in ("a", "b", "c"):
                await made.append(log, epoch, made.lane(f"lanes/{name}"))
        shown = settings.model_copy(update={"read_only_at": read_only_at})
        async with running_log(shown) as log:
            flags = {
                "log": {"address": log.address, "read_only_at": read_only_at},
                "retrieval": {
                    "address": f"127.0.0.1:{free_port()}",
                    "snapshots": tmp_path / "snapshots",
                },
            }
            stop = asyncio.Event()
            serving = asyncio.create_task(serve(load_settings(flags), stop))

            async def caught_up() -> bool:
                assert not serving.done()
                found = await log.stub.ListReplicas(pb.ListReplicasRequest())
                return [replica.applied_seq for replica in found.replicas] == [read_only_at or 3]

            await eventually(caught_up)
            stop.set()
            await serving
    finally:
        server.close()
    assert (tmp_path / "snapshots").exists() == (read_only_at is None)
