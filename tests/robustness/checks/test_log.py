"""The log's promises, each at the place where it is easiest to break."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from errata.errors import LogBehindWitnessError
from errata.log.chain import ORIGIN
from errata.log.subscriber import Subscriber
from errata.log.witness import SLOT_SPACING, WitnessFile, read_witness
from errata.platform.failpoints import configure_failpoints
from errata.platform.security.active import Security, configure_security
from errata.platform.security.audit import verify
from errata.platform.settings import LogSettings
from errata.platform.settings.security import SecuritySettings
from errata_client._gen.errata.v1 import edit_log_pb2 as pb
from errata_client._gen.errata.v1 import edit_log_pb2_grpc
from tests.integration.log.entries import append, commit, lane, request
from tests.integration.log.harness import RedisServer, RunningLog, failure, running_log
from tests.integration.log.history import judge_order
from tests.integration.log.link import Proxy
from tests.waiting import PATIENCE


@pytest.mark.promise("P2")
async def test_nothing_is_acknowledged_before_the_witness_has_it(
    log: RunningLog, settings: LogSettings
) -> None:
    epoch = await log.acquire()
    configure_failpoints("log.witness.before_sync=delay:0.3")
    for _ in range(3):
        told = await log.append(epoch)
        found = read_witness(settings.witness_path)
        assert found is not None
        assert found.head.seq >= told.seq
    configure_failpoints("log.witness.before_write=error")
    assert (await failure(log.append(epoch))).reason == "LOG_UNAVAILABLE"


@pytest.mark.promise("P2")
async def test_nothing_is_delivered_before_the_witness_has_it(
    log: RunningLog, settings: LogSettings
) -> None:
    epoch = await log.acquire()
    await log.append(epoch)
    stream = log.stub.Subscribe(pb.SubscribeRequest(from_seq=1))
    got = 0
    configure_failpoints("log.witness.before_write=delay:0.5")  # of several progress messages
    for _ in range(2):
        appending = asyncio.create_task(log.append(epoch))
        while not appending.done() or got < appending.result().seq:
            message = await asyncio.wait_for(stream.read(), PATIENCE)
            got += len(message.entries)
            found = read_witness(settings.witness_path)
            assert found is not None
            assert max(got, message.head_seq) <= found.head.seq
    stream.cancel()
    assert got == 3


@pytest.mark.promise("P4")
async def test_an_epoch_ends_with_the_next_grant_even_to_the_same_writer(log: RunningLog) -> None:
    epochs = [await log.acquire("same") for _ in range(4)]
    assert len(set(epochs)) == 4
    for epoch in epochs[:-1]:
        assert (await failure(log.append(epoch))).reason == "EPOCH_LOST"
    assert (await log.append(epochs[-1])).seq == 1


@pytest.mark.promise("P3")
async def test_an_id_has_one_entry_one_position_and_one_content(log: RunningLog) -> None:
    epoch = await log.acquire()
    keys = [str(uuid.uuid4()) for _ in range(20)]
    seqs = [(await log.append(epoch, key, comment=key)).seq for key in keys]
    for key, seq in zip(keys, seqs, strict=True):
        again = await log.append(epoch, key, comment=key)
        assert (again.seq, again.duplicate) == (seq, True)
        other = await failure(log.append(epoch, key, comment="other"))
        assert (other.reason, other.metadata["first_seq"]) == ("REQUEST_ID_REUSED", str(seq))
    assert (await log.head()).head_seq == len(keys)


@pytest.mark.promise("P1")
async def test_a_subscriber_resumes_behind_what_it_has(log: RunningLog) -> None:
    epoch = await log.acquire()
    got: list[int] = []
    async with Proxy(log.address) as link:

        async def follow() -> None:
            async with aclosing(Subscriber(link.address).batches()) as batches:
                async for batch in batches:
                    got.extend(entry.seq for entry in batch.entries)

        following = asyncio.create_task(follow())
        for number in range(1, 7):
            await log.append(epoch)
            async with asyncio.timeout(PATIENCE):
                while not following.done() and len(got) < number:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)  # several progress messages pass, as nothing is appended
            if number % 2:
                link.cut()
        assert not following.done(), following.exception()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    assert got == [1, 2, 3, 4, 5, 6]
    judge_order(await log.entries())


class _Forger(edit_log_pb2_grpc.EditLogServiceServicer):
    """Passes a log on, with one bit of one entry's payload changed."""

    def __init__(self, source: RunningLog) -> None:
        self._source = source

    async def Subscribe(
        self, request: pb.SubscribeRequest, context: Any
    ) -> AsyncIterator[pb.SubscribeResponse]:
        async for message in self._source.stub.Subscribe(request):
            if message.entries:
                payload = bytearray(message.entries[0].payload)
                payload[-1] ^= 1
                message.entries[0].payload = bytes(payload)
            yield message


@asynccontextmanager
async def _served(servicer: Any) -> AsyncIterator[str]:
    server = grpc.aio.server()
    edit_log_pb2_grpc.add_EditLogServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.mark.promise("P1", "P7")
async def test_a_flipped_bit_of_a_message_is_refused(log: RunningLog) -> None:
    await log.append(await log.acquire())
    async with _served(_Forger(log)) as address:
        with pytest.raises(LogBehindWitnessError, match="does not continue the chain"):
            await anext(Subscriber(address).batches())


@pytest.mark.promise("P1", "P7")
async def test_another_log_is_refused(log: RunningLog) -> None:
    await log.append(await log.acquire())
    subscriber = Subscriber(log.address, ORIGIN, log_id="ab" * 16)
    with pytest.raises(LogBehindWitnessError, match="restored or replaced"):
        await anext(subscriber.batches())


@pytest.mark.promise("P2")
@pytest.mark.parametrize("lost", ["entry", "epoch"])
async def test_a_redis_that_lost_its_last_write_is_refused(
    redis_server: RedisServer, settings: LogSettings, lost: str
) -> None:
    async with running_log(settings) as log:
        epoch = await log.acquire()
        for _ in range(3):
            await log.append(epoch)
        if lost == "epoch":
            await log.acquire()
    redis_server.kill()
    redis_server.truncate_aof(5)  # of the last transaction, which is then left out
    redis_server.start()
    with pytest.raises(LogBehindWitnessError):
        async with running_log(settings):
            raise AssertionError("it serves")


@pytest.mark.promise("P9")
async def test_no_entry_names_an_artifact_that_nobody_has(log: RunningLog) -> None:
    epoch = await log.acquire()
    await append(log, epoch, lane())
    seq = await append(log, epoch, request())
    error = await failure(append(log, epoch, commit(f"edits/{seq}-0")))
    assert "is not in the artifact store" in error.message
    assert (await log.head()).head_seq == seq


@pytest.mark.promise("P10")
async def test_a_change_is_in_the_audit_log_before_it_is_made(
    settings: LogSettings, tmp_path: Path
) -> None:
    security = Security(
        SecuritySettings(audit="changes", audit_dir=tmp_path / "audit"), service="log"
    )
    configure_security(security)
    try:
        async with running_log(settings) as log:
            epoch = await log.acquire()
            await log.append(epoch)
            configure_failpoints("audit.before_write=error")
            await failure(log.append(epoch))
            configure_failpoints("")
            assert (await log.head()).head_seq == 1
    finally:
        configure_security(Security(SecuritySettings()))
    assert verify(tmp_path / "audit/log.jsonl")[1] is None


@pytest.mark.promise("P2")
async def test_a_torn_write_of_the_witness_costs_only_what_was_not_acknowledged(
    settings: LogSettings,
) -> None:
    async with running_log(settings) as log:
        epoch = await log.acquire()
        for _ in range(4):
            await log.append(epoch)
    path = settings.witness_path
    data = path.read_bytes()
    before = read_witness(path)
    assert before is not None
    records = []
    for slot in (0, 1):
        torn = bytearray(data)
        at = slot * SLOT_SPACING + 50  # within the position
        torn[at : at + 8] = bytes(byte ^ 0xFF for byte in torn[at : at + 8])
        path.write_bytes(torn)
        found = read_witness(path)
        assert found is not None, "the other slot is whole"
        records.append(found.head.seq)
    assert sorted(records) == [before.head.seq - 1, before.head.seq]
    path.write_bytes(data)
    file = WitnessFile(path)
    assert file.record == before
    file.close()
