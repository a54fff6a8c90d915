"""A catalog that is killed loses nothing, and sends an event again under the same id."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from errata.launch.health import health_of
from errata.platform.addresses import free_port
from tests.integration.catalog.receiver import SECRET, receiver
from tests.integration.catalog.rig import Rig, Served, edit
from tests.integration.log import entries
from tests.integration.log.harness import eventually

ROOT = Path(__file__).parents[3]


class Process:
    """`errata serve catalog` in a process of its own."""

    def __init__(self, rig: Rig, failpoints: str = "", webhooks: str = "") -> None:
        self.address = f"127.0.0.1:{free_port()}"
        file = rig.folder / "webhooks.toml"
        file.write_text(webhooks)
        own = {
            "ERRATA_DATA_DIR": str(rig.folder / "data"),
            "ERRATA_LOG__ADDRESS": rig.log.address,
            "ERRATA_CATALOG__ADDRESS": self.address,
            "ERRATA_CATALOG__WEBHOOK_FIRST_DELAY_SECONDS": "0.05",
            "ERRATA_FAILPOINTS": failpoints,
        }
        if webhooks:
            own["ERRATA_CATALOG__WEBHOOKS_FILE"] = str(file)
        self.output = (rig.folder / "catalog.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "errata.cli", "serve", "catalog"],
            cwd=ROOT,
            env=os.environ | own,
            stdout=self.output,
            stderr=self.output,
        )

    async def serves(self) -> None:
        await eventually(self._is_serving, "the catalog to serve")

    async def _is_serving(self) -> bool:
        assert self.process.poll() is None, "it ended"
        return await asyncio.to_thread(health_of, self.address, 1.0) == "SERVING"

    async def dies(self) -> None:
        code = await asyncio.to_thread(self.process.wait)
        assert code == -signal.SIGKILL

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.output.close()


async def test_a_kill_between_delivery_and_position_repeats_the_id(rig: Rig) -> None:
    (rig.folder / "secret").write_bytes(SECRET)
    with receiver() as server:
        table = f'[[target]]\nurl = "{server.url}"\nsecret_file = "secret"\nallow_private = true\n'
        first = Process(rig, "catalog.webhook.after_send=kill@1", table)
        try:
            await first.serves()
            (name,) = await rig.request(edit("The capital of Freedonia is"))
            await first.dies()
        finally:
            first.close()
        assert len(server.ids()) == 1
        second = Process(rig, "", table)
        try:
            await eventually(lambda: len(server.ids()) >= 2, "the event again")
            (other,) = await rig.request(edit("The river of Freedonia is"))
            await eventually(lambda: len(server.ids()) >= 3, "the next event")
        finally:
            second.close()
    ids = server.ids()
    assert ids[0] == ids[1]
    assert ids[1].endswith(name)
    assert ids[2].endswith(other)
    assert len(ids) == 3


@pytest.mark.parametrize("point", ["catalog.before_write", "catalog.after_write"])
async def test_a_kill_at_a_write_loses_and_repeats_nothing(rig: Rig, point: str) -> None:
    names = [(await rig.request(edit(f"The capital of {k} Freedonia is")))[0] for k in range(3)]
    await rig.append(entries.commit(*names))
    process = Process(rig, f"{point}=kill@2")  # the first pass is the catch-up
    try:
        await process.serves()
        names += await rig.request(edit("The river of Freedonia is"))
        await process.dies()
    finally:
        process.close()
    again = Process(rig)
    try:
        await again.serves()
        head = (await rig.log.head()).head_seq
        async with grpc.aio.insecure_channel(again.address) as channel:
            nothing: Any = None
            served = Served(nothing, channel)
            found = await served.find("freedonia", min_seq=head)
            assert sorted(each.edit.name for each in found.edits) == sorted(names)
            assert found.seq == head
            told = [event.edit for event in await served.events(from_seq=1)]
            assert told == [*names[:3], *names[:3], names[3]]
    finally:
        again.close()
