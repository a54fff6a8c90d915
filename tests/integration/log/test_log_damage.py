"""P2: whatever contradicts an acknowledgement is refused, at the start and while serving."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from errata.errors import LogBehindWitnessError, LogNotEmptyError, PreconditionError, StartupError
from errata.log.chain import ORIGIN, Position
from errata.log.convert import new_entry
from errata.log.store import RedisLog
from errata.log.witness import SLOT_SPACING, WitnessFile
from errata.platform.settings import LogSettings
from errata_client._gen.errata.v1 import edit_log_pb2 as pb
from tests.integration.log.harness import (
    RedisServer,
    RunningLog,
    append_request,
    eventually,
    failure,
    running_log,
    stream_failure,
)
from tests.integration.log.history import History
from tests.waiting import PATIENCE

pytestmark = pytest.mark.promise("P2")


async def fill(settings: LogSettings, num_entries: int = 5) -> None:
    history = History()
    async with running_log(settings) as log:
        epoch = await log.acquire()
        for index in range(num_entries):
            await history.append(log, epoch)
            assert history.acknowledged[-1].seq == index + 1


def flip_payload(redis_server: RedisServer, seq: int) -> None:
    """Changes one byte of an entry's payload in the append-only file."""
    (row,) = redis_server.client.xrange("{errata}:stream", f"{seq}-0", f"{seq}-0")
    payload = row[1][b"payload"]
    redis_server.kill()
    data = redis_server.aof.read_bytes()
    assert data.count(payload) == 1
    flipped = payload[:-1] + bytes([payload[-1] ^ 1])
    redis_server.aof.write_bytes(data.replace(payload, flipped))
    redis_server.start()


@pytest.mark.parametrize("num_bytes", [1, 5, 200])
async def test_start_with_a_truncated_log_is_refused(
    settings: LogSettings, redis_server: RedisServer, num_bytes: int
) -> None:
    await fill(settings)
    redis_server.kill()
    redis_server.truncate_aof(num_bytes)
    redis_server.start()
    with pytest.raises(LogBehindWitnessError, match="head is 4, but 5 was acknowledged"):
        await RedisLog.open(settings)


async def test_control_without_the_witness_the_truncated_log_is_served(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    await fill(settings)
    redis_server.kill()
    redis_server.truncate_aof(5)
    redis_server.start()
    settings.witness_path.unlink()
    async with running_log(settings.model_copy(update={"adopt_unwitnessed": True})) as log:
        assert (await log.head()).head_seq == 4


async def test_truncation_while_serving_is_told_to_everyone(
    log: RunningLog, redis_server: RedisServer
) -> None:
    history, epoch = History(), await log.acquire()
    for _ in range(5):
        await history.append(log, epoch)
    redis_server.kill()
    redis_server.truncate_aof(5)
    redis_server.start()
    calls = [
        lambda: failure(log.head()),
        lambda: failure(log.append(epoch)),
        lambda: failure(log.append(epoch, history.acknowledged[-1].request_id)),
        lambda: failure(log.acquire()),
        lambda: failure(log.entries()),
        lambda: stream_failure(log.stub.Subscribe(pb.SubscribeRequest(from_seq=1))),
    ]
    for call in calls:
        error = await call()
        assert (error.code, error.reason) == (grpc.StatusCode.DATA_LOSS, "LOG_BEHIND_WITNESS")
    assert redis_server.client.xlen("{errata}:stream") == 4, "nothing was appended"
    await eventually(lambda: health_is(log, "NOT_SERVING"), "NOT_SERVING")


async def health_is(log: RunningLog, name: str) -> bool:
    stub = health_pb2_grpc.HealthStub(log.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status) == name


async def test_idle_service_notices_truncation_by_itself(
    log: RunningLog, redis_server: RedisServer
) -> None:
    await log.append(await log.acquire())
    stream = log.stub.Subscribe(pb.SubscribeRequest(from_seq=1))
    assert (await stream.read()).head_seq == 1
    redis_server.kill()
    redis_server.truncate_aof(5)
    redis_server.start()
    await eventually(lambda: health_is(log, "NOT_SERVING"), "NOT_SERVING")
    error = await stream_failure(stream)
    # The break itself may be noticed before the damage; the next stream tells the damage.
    assert error.reason in {"LOG_BEHIND_WITNESS", "LOG_UNAVAILABLE"}
    error = await stream_failure(log.stub.Subscribe(pb.SubscribeRequest(from_seq=1)))
    assert error.reason == "LOG_BEHIND_WITNESS"


async def test_another_log_while_serving_is_refused(
    log: RunningLog, redis_server: RedisServer
) -> None:
    epoch = await log.acquire()
    await log.append(epoch)
    redis_server.client.flushall()
    error = await failure(log.append(epoch))
    assert error.reason == "LOG_BEHIND_WITNESS"
    assert redis_server.client.dbsize() == 0


async def test_lost_epoch_is_refused(settings: LogSettings, redis_server: RedisServer) -> None:
    log = await RedisLog.open(settings)
    assert [await log.acquire_epoch("test") for _ in range(2)] == [1, 2]
    await log.close()
    redis_server.kill()
    redis_server.truncate_aof(5)
    redis_server.start()
    with pytest.raises(LogBehindWitnessError, match="epoch is 1, but 2 was granted"):
        await RedisLog.open(settings)


@pytest.mark.parametrize("seq", [1, 3, 5])
async def test_one_flipped_payload_byte_is_noticed(
    settings: LogSettings, redis_server: RedisServer, seq: int
) -> None:
    await fill(settings)
    async with running_log(settings) as log:
        flip_payload(redis_server, seq)
        error = await failure(log.entries())
        assert (error.code, error.reason) == (grpc.StatusCode.DATA_LOSS, "LOG_BEHIND_WITNESS")
        assert error.metadata["seq"] == str(seq)


async def test_flipped_byte_at_the_head_is_refused_at_the_start(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    await fill(settings)
    flip_payload(redis_server, 5)
    with pytest.raises(LogBehindWitnessError, match="entry 5"):
        await RedisLog.open(settings)


async def test_history_rewritten_consistently_is_refused(
    settings: LogSettings, redis_server: RedisServer, tmp_path: Path
) -> None:
    """As many entries, a right chain, the same log id: only the digest tells."""
    await fill(settings)
    log_id = redis_server.client.hget("{errata}:head", "log_id")
    redis_server.client.flushall()
    other = settings.model_copy(update={"witness_path": tmp_path / "other"})
    await fill(other)
    redis_server.client.hset("{errata}:head", "log_id", log_id)
    with pytest.raises(LogBehindWitnessError, match="entry 5 in Redis is not the one"):
        await RedisLog.open(settings)


async def test_emptied_redis_is_refused(settings: LogSettings, redis_server: RedisServer) -> None:
    await fill(settings)
    redis_server.client.flushall()
    with pytest.raises(LogBehindWitnessError, match="holds no log"):
        await RedisLog.open(settings)
    await fill(settings.model_copy(update={"witness_path": settings.witness_path.with_name("new")}))
    with pytest.raises(LogBehindWitnessError, match="holds log"):
        await RedisLog.open(settings)


async def test_missing_witness_needs_the_operators_word(settings: LogSettings) -> None:
    await fill(settings)
    settings.witness_path.unlink()
    with pytest.raises(LogNotEmptyError, match="adopt_unwitnessed"):
        await RedisLog.open(settings)
    log = await RedisLog.open(settings.model_copy(update={"adopt_unwitnessed": True}))
    assert log.head.seq == 5
    await log.close()
    log = await RedisLog.open(settings)
    assert log.head.seq == 5
    await log.close()


async def test_unwitnessed_log_with_a_broken_chain_is_refused_all_the_same(
    settings: LogSettings, redis_server: RedisServer
) -> None:
    await fill(settings)
    settings.witness_path.unlink()
    flip_payload(redis_server, 2)
    with pytest.raises(LogBehindWitnessError, match="entry 2"):
        await RedisLog.open(settings.model_copy(update={"adopt_unwitnessed": True}))


async def test_torn_witness_write_falls_back_to_the_older_slot(settings: LogSettings) -> None:
    await fill(settings)
    file = WitnessFile(settings.witness_path)
    assert file.record is not None
    newest = file._generation % 2 * SLOT_SPACING
    assert file.record.head.seq == 5
    file.close()
    data = bytearray(settings.witness_path.read_bytes())
    data[newest + 70] ^= 0xFF
    settings.witness_path.write_bytes(data)
    log = await RedisLog.open(settings)
    assert log.head.seq == 5, "entry 5 is adopted from Redis after verification"
    await log.close()


async def test_witness_belongs_to_one_service(settings: LogSettings) -> None:
    log = await RedisLog.open(settings)
    with pytest.raises(StartupError, match="another log service owns"):
        await RedisLog.open(settings)
    await log.close()
    await (await RedisLog.open(settings)).close()


@pytest.fixture
async def trimmed(log: RunningLog, redis_server: RedisServer) -> RunningLog:
    history, epoch = History(), await log.acquire()
    for _ in range(10):
        await history.append(log, epoch)
    redis_server.client.xtrim("{errata}:stream", minid="6-0", approximate=False)
    return log


async def test_below_the_floor_is_told_the_floor(trimmed: RunningLog) -> None:
    head = await trimmed.head()
    assert (head.floor_seq, head.head_seq) == (6, 10)
    errors = [
        await failure(trimmed.entries(5)),
        await stream_failure(trimmed.stub.Subscribe(pb.SubscribeRequest(from_seq=5))),
    ]
    for error in errors:
        assert (error.code, error.reason) == (grpc.StatusCode.OUT_OF_RANGE, "SEQ_TRIMMED")
        assert error.metadata["floor_seq"] == "6"
    assert [entry.seq for entry in await trimmed.entries(6)] == [6, 7, 8, 9, 10]


async def test_trimmed_log_goes_on_even_without_an_entry_left(
    trimmed: RunningLog, redis_server: RedisServer
) -> None:
    redis_server.client.xtrim("{errata}:stream", maxlen=0, approximate=False)
    head = await trimmed.head()
    assert (head.floor_seq, head.head_seq) == (11, 10)
    assert (await trimmed.append(await trimmed.acquire())).seq == 11


@pytest.mark.parametrize("adopt", [False, True])
async def test_trimmed_log_opens(
    settings: LogSettings, redis_server: RedisServer, adopt: bool
) -> None:
    await fill(settings)
    redis_server.client.xtrim("{errata}:stream", minid="3-0", approximate=False)
    if adopt:
        settings.witness_path.unlink()
    log = await RedisLog.open(settings.model_copy(update={"adopt_unwitnessed": adopt}))
    assert log.head.seq == 5
    before = (await log.read(3, 1)).base
    assert await log.holds(before)
    assert not await log.holds(Position(1, ORIGIN.chain_digest))
    entry = new_entry(append_request(await log.acquire_epoch("test")))
    with pytest.raises(PreconditionError, match="trimmed up to 2"):
        await log.append(entry)  # nothing says what the first entries configured
    await log.close()


async def test_dead_redis_is_unavailable_and_comes_back(
    log: RunningLog, redis_server: RedisServer
) -> None:
    epoch = await log.acquire()
    await log.append(epoch)
    stream = log.stub.Subscribe(pb.SubscribeRequest(from_seq=1))
    assert len((await stream.read()).entries) == 1
    redis_server.kill()
    for error in (
        await failure(log.append(epoch)),
        await failure(log.head()),
        await stream_failure(stream),
    ):
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "LOG_UNAVAILABLE")
    redis_server.start()
    assert (await log.append(epoch)).seq == 2
    stream = log.stub.Subscribe(pb.SubscribeRequest(from_seq=2))
    assert [entry.seq for entry in (await stream.read()).entries] == [2]
    stream.cancel()
    await eventually(lambda: health_is(log, "SERVING"))


async def test_forgotten_scripts_are_sent_again(log: RunningLog, redis_server: RedisServer) -> None:
    epoch = await log.acquire()
    await log.append(epoch)
    redis_server.client.script_flush()
    assert (await log.append(epoch)).seq == 2
    assert await log.acquire() == epoch + 1


async def test_full_redis_refuses_wholly_and_still_knows_old_keys(
    log: RunningLog, redis_server: RedisServer
) -> None:
    history, epoch = History(), await log.acquire()
    await history.append(log, epoch)
    redis_server.client.config_set("maxmemory", 1)
    key = "00000000-0000-4000-8000-000000000000"
    error = await failure(log.append(epoch, key, comment=key))
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
    assert (
        await log.append(
            epoch, history.acknowledged[0].request_id, comment=history.acknowledged[0].request_id
        )
    ).duplicate
    assert (await log.head()).head_seq == 1
    redis_server.client.config_set("maxmemory", 0)
    assert await history.append(log, epoch, key) == 2
    history.judge(await log.entries())
