"""Two writers behind one target: one is active by its lease, the other stands by."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from errata import demo
from errata.demo import Corpus
from errata.errors import EpochLostError
from errata.launch.box import Box, free_addresses
from errata.launch.health import health_of
from errata.launch.processes import Process
from errata.log.entries import EditsReverted
from errata.platform.addresses import free_port
from errata.platform.server import open_channel
from errata.writer.log_client import LogClient
from errata_client import Client, EditSpec, EditState, LogEntry, UnavailableError
from errata_client._gen.errata.v1 import editing_pb2, editing_pb2_grpc, types_pb2
from errata_client.errors import from_rpc_error
from tests.integration.log.harness import eventually
from tests.waiting import PATIENCE, wait

_log = logging.getLogger(__name__)
_WRITER = [sys.executable, "-m", "errata.cli", "serve", "writer"]


@dataclass
class Pair:
    """A box without a writer, and two writers of it."""

    box: Box
    addresses: tuple[str, str]
    processes: list[Process] = field(default_factory=list)

    @property
    def target(self) -> str:
        return ",".join(self.addresses)

    def start(self, lease_ttl_seconds: float) -> None:
        """Starts the first writer; once it is active, the second one, until it stands by."""
        for number, address in enumerate(self.addresses):
            environment = {
                **self.box.settings.environment(),
                "ERRATA_WRITER__ADDRESS": address,
                "ERRATA_WRITER__STANDBY": "true",
                "ERRATA_WRITER__LEASE_TTL_SECONDS": str(lease_ttl_seconds),
            }
            log_path = self.box.settings.data_dir / f"writer-{number}.log"
            process = Process.start(f"writer-{number}", _WRITER, environment, log_path)
            self.processes.append(process)
            state = ("SERVING", "NOT_SERVING")[number]
            process.wait_until(lambda a=address, s=state: health_of(a, 5) == s, PATIENCE)
        second = self.processes[1]
        second.wait_until(lambda: "standing by" in second.tail(), PATIENCE)

    def stop(self) -> None:
        for process in self.processes:
            if process.running:
                os.kill(process.popen.pid, signal.SIGCONT)
            process.stop(10)

    def entries(self) -> list[LogEntry]:
        with Client(self.box.settings.log.address) as log:
            return list(log.entries())


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    lanes = tmp_path / "lanes.toml"  # one that needs no statistics of the base model
    model = demo.lanes_path().with_name("recipe")
    lanes.write_text(f'[lanes.main]\nmethod = "recipe"\nmodel = "{model}"\n')
    settings: dict[str, Any] = {"data_dir": tmp_path, **free_addresses()}
    settings["writer"]["lanes_file"] = lanes
    box = Box(settings)
    pair = Pair(box, (f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"))
    try:
        box.start_log()
        yield pair
    finally:
        pair.stop()
        box.stop()


@dataclass
class Stream:
    """Edits that a client submits one after the other, each until it is acknowledged."""

    corpus: Corpus
    acknowledged: dict[str, list[str]] = field(default_factory=dict)  # request id → edits
    num_retries: int = 0

    async def run(self, target: str, is_enough: Callable[[], bool]) -> None:
        """Calls only healthy writers, as a gateway does."""
        edits = self.corpus.demo_edits()
        async with open_channel(target, only_healthy=True) as channel:
            stub = editing_pb2_grpc.EditingServiceStub(channel)  # type: ignore[no-untyped-call]
            while not is_enough():
                edit = edits[len(self.acknowledged) % len(edits)]
                spec = types_pb2.EditSpec(
                    prompt=edit.prompt, target=edit.target, subject=edit.subject
                )
                request = editing_pb2.SubmitEditsRequest(request_id=str(uuid.uuid4()), edits=[spec])
                answer = await self._until_acknowledged(stub, request)
                self.acknowledged[request.request_id] = [edit.name for edit in answer.edits]
                await asyncio.sleep(0.2)

    async def _until_acknowledged(
        self, stub: editing_pb2_grpc.EditingServiceStub, request: editing_pb2.SubmitEditsRequest
    ) -> editing_pb2.SubmitEditsResponse:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer: editing_pb2.SubmitEditsResponse = await stub.SubmitEdits(
                    request, timeout=20
                )
                return answer
            except grpc.aio.AioRpcError as error:
                cause = from_rpc_error(error)
                # A writer that was replaced says so if it is asked before its health is looked at.
                lost = isinstance(cause, UnavailableError) or cause.reason == "EPOCH_LOST"
                late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                if not (lost or late) or time.monotonic() > deadline:
                    raise
                self.num_retries += 1
                await asyncio.sleep(0.1)


@pytest.mark.promise("P2", "P3", "P4")
async def test_a_frozen_writer_is_replaced_and_fenced_and_no_edit_is_lost_or_done_twice(
    pair: Pair, corpus: Corpus
) -> None:
    await asyncio.to_thread(pair.start, 2.0)
    first, second = pair.processes
    stream = Stream(corpus)
    enough = asyncio.Event()
    submitting = asyncio.create_task(stream.run(pair.target, enough.is_set))
    await eventually(lambda: len(stream.acknowledged) >= 5, "edits are accepted")
    os.kill(first.popen.pid, signal.SIGSTOP)
    frozen, before = time.monotonic(), len(stream.acknowledged)
    await eventually(lambda: health_of(pair.addresses[1], 5) == "SERVING", "the standby serves")
    took_over = time.monotonic() - frozen
    # One call may have been answered before the freeze.
    await eventually(lambda: len(stream.acknowledged) >= before + 2, "the standby accepts edits")
    answered = time.monotonic() - frozen
    _log.info("the standby is active after %.1f s, answers after %.1f s", took_over, answered)
    async with open_channel(pair.box.settings.log.address) as channel:
        late = LogClient(channel, "the first writer, after its successor")
        late.epoch = 1
        revert = EditsReverted(("edits/1-0",), "")
        with pytest.raises(EpochLostError):
            await late.append(str(uuid.uuid4()), revert, "tests")
    os.kill(first.popen.pid, signal.SIGCONT)
    await eventually(lambda: not first.running, "the first writer ends by itself")
    assert first.popen.returncode == 1
    assert "EPOCH_LOST" in first.tail()
    await eventually(lambda: len(stream.acknowledged) >= before + 6, "edits are accepted")
    enough.set()
    await submitting
    assert second.running
    await asyncio.to_thread(_judge, pair, stream)


def _judge(pair: Pair, stream: Stream) -> None:
    """Fails unless every acknowledged edit is in the log once, and settled once."""
    accepted = [name for names in stream.acknowledged.values() for name in names]
    with Client(pair.addresses[1], timeout=PATIENCE) as client:
        client.wait_edits(accepted)
    entries = pair.entries()
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert _named(entries, "edits_requested") == Counter(accepted)
    assert _named(entries, "edits_committed", "edits_rejected") == Counter(accepted)


def _named(entries: list[LogEntry], *kinds: str) -> Counter[str]:
    return Counter(name for entry in entries if entry.kind in kinds for name in entry.edits)


@pytest.mark.promise("P4")
def test_a_standby_changes_nothing_and_takes_over_as_soon_as_the_active_writer_ends(
    pair: Pair, corpus: Corpus
) -> None:
    """The lease is longer than the test: only the end of it lets the standby in."""
    pair.start(3_600.0)
    first, _ = pair.processes
    edit = corpus.demo_edits()[0]
    spec = EditSpec(edit.prompt, edit.target, edit.subject)
    before = pair.entries()
    with Client(pair.addresses[1], timeout=PATIENCE) as standby:
        with pytest.raises(UnavailableError, match="stands by"):
            standby.submit_edits([spec], timeout=5)
        assert pair.entries() == before
        with Client(pair.addresses[0], timeout=PATIENCE) as active:
            (accepted,) = active.submit_edits([spec])
        first.stop(60)
        assert first.popen.returncode == 0, first.tail()
        wait(lambda: health_of(pair.addresses[1], 5) == "SERVING", "the standby serves")
        (done,) = standby.wait_edits([accepted.name])
    assert done.state is EditState.COMMITTED
    assert _named(pair.entries(), "edits_committed") == Counter([accepted.name])
