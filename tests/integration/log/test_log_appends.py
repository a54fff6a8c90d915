"""P2, P3, P4: what was acknowledged stays, once, and only the newest writer adds to it."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from errata.errors import LogUnavailableError
from errata.log import backend
from errata.log.chain import ChainedEntry
from errata.log.convert import new_entry
from errata.log.payload_convert import decode_payload
from errata.log.store import RedisLog
from errata.log.witness import WitnessFile, WitnessRecord
from errata.platform.settings import LogSettings
from tests.integration.log.harness import (
    LogProcess,
    RedisServer,
    RunningLog,
    append_request,
    connected,
    eventually,
    failure,
    log_settings,
    retried,
    running_log,
)
from tests.integration.log.history import History, judge_order
from tests.integration.log.link import Proxy


async def keep_appending(
    log: RunningLog, epoch: int, history: History, stop: asyncio.Event
) -> None:
    while not stop.is_set():
        await history.append(log, epoch)


@pytest.mark.promise("P1", "P2", "P3")
async def test_ten_kills_of_redis_lose_and_repeat_nothing(
    log: RunningLog, redis_server: RedisServer
) -> None:
    history, stop = History(), asyncio.Event()
    epoch = await log.acquire()
    async with asyncio.TaskGroup() as clients:
        for _ in range(8):
            clients.create_task(keep_appending(log, epoch, history, stop))
        for _ in range(10):
            goal = len(history.acknowledged) + 120
            await eventually(lambda goal=goal: len(history.acknowledged) >= goal, "120 appends")
            await asyncio.to_thread(redis_server.restart)  # appends go on meanwhile
        goal = len(history.acknowledged) + 120
        await eventually(lambda: len(history.acknowledged) >= goal, "appends after the last kill")
        stop.set()
    assert history.num_retries >= 10, "the kills hit nothing"
    history.judge(await log.entries(), min_acknowledged=1_320)


@pytest.mark.promise("P1", "P2", "P3")
async def test_killed_log_service_loses_and_repeats_nothing(settings: LogSettings) -> None:
    service, history, stop = LogProcess(settings), History(), asyncio.Event()
    try:
        await service.start()
        async with connected(service.address) as log, asyncio.TaskGroup() as clients:
            epoch = await log.acquire()
            for _ in range(8):
                clients.create_task(keep_appending(log, epoch, history, stop))
            for _ in range(3):
                goal = len(history.acknowledged) + 60
                await eventually(lambda goal=goal: len(history.acknowledged) >= goal)
                service.kill()
                await service.start()
            goal = len(history.acknowledged) + 60
            await eventually(lambda: len(history.acknowledged) >= goal)
            stop.set()
        assert history.num_retries >= 3, "the kills hit nothing"
        async with connected(service.address) as log:
            history.judge(await log.entries(), min_acknowledged=240)
    finally:
        service.kill()


@pytest.mark.promise("P2", "P3")
async def test_entry_that_the_witness_missed_is_adopted_and_its_retry_is_a_duplicate(
    settings: LogSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await RedisLog.open(settings)
    epoch = await log.acquire_epoch("test")
    entry = new_entry(append_request(epoch, comment="between script and witness"))

    def broken(self: WitnessFile, record: WitnessRecord) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(WitnessFile, "write", broken)
        with pytest.raises(LogUnavailableError, match="witness"):
            await log.append(entry)
    assert log.head.seq == 0, "what is not witnessed is not shown"
    with pytest.raises(LogUnavailableError, match="restart"):
        await log.append(entry)
    await log.close()

    log = await RedisLog.open(settings)
    assert log.head.seq == 1
    again = await log.append(entry)
    assert (again.seq, again.duplicate) == (1, True)
    await log.close()


@pytest.mark.promise("P2")
async def test_cancelled_append_is_whole_or_absent(settings: LogSettings) -> None:
    log = await RedisLog.open(settings)
    epoch = await log.acquire_epoch("test")
    for index in range(30):
        append = asyncio.create_task(
            log.append(new_entry(append_request(epoch, comment=str(index))))
        )
        for _ in range(index % 5):
            await asyncio.sleep(0)
        append.cancel()
        await asyncio.wait((append,))
    await log.close()
    log = await RedisLog.open(settings)
    judge_order((await log.read(1, 1000)).entries)
    await log.close()


@pytest.mark.promise("P2", "P3")
async def test_append_that_redis_finishes_late_is_one_entry(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """The service gives up; Redis, thawed, still runs what lies in its socket."""
    history = History()
    settings = log_settings(redis_server, tmp_path / "witness", redis_timeout_seconds=1.0)
    async with running_log(settings) as log:
        epoch = await retried(log.acquire)
        await history.append(log, epoch)
        key = str(uuid.uuid4())
        redis_server.freeze()
        try:
            error = await failure(log.append(epoch, key, comment=key))
        finally:
            redis_server.thaw()
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "LOG_UNAVAILABLE")
        await asyncio.gather(*(history.append(log, epoch) for _ in range(5)))
        # A history of its own: the entry may stand before what was acknowledged meanwhile.
        seq = await History().append(log, epoch, key)
        entries = await retried(log.entries)
        history.judge(entries, min_acknowledged=6)
        keys = [decode_payload(entry).request_id for entry in entries]
        assert keys.count(key) == 1
        assert keys[seq - 1] == key


@pytest.mark.promise("P3")
async def test_concurrent_retries_of_one_key_make_one_entry(
    log: RunningLog, settings: LogSettings, tmp_path: Path
) -> None:
    epoch = await log.acquire()
    other_settings = settings.model_copy(update={"witness_path": tmp_path / "other" / "witness"})
    other_settings = other_settings.model_copy(update={"adopt_unwitnessed": True})
    key = str(uuid.uuid4())
    async with running_log(other_settings) as other:
        answers = await asyncio.gather(
            *(service.append(epoch, key, comment="same") for service in [log, other] * 8)
        )
    assert {answer.seq for answer in answers} == {1}
    assert sorted(answer.duplicate for answer in answers) == [False] + [True] * 15
    assert len(await log.entries()) == 1


@pytest.mark.promise("P3")
async def test_known_key_with_other_content_is_refused_with_its_first_seq(log: RunningLog) -> None:
    epoch, key = await log.acquire(), str(uuid.uuid4())
    await log.append(epoch)
    first = await log.append(epoch, key, comment="one")
    error = await failure(log.append(epoch, key, comment="two"))
    assert error.code is grpc.StatusCode.ALREADY_EXISTS
    assert error.reason == "REQUEST_ID_REUSED"
    assert error.metadata["first_seq"] == str(first.seq) == "2"
    upper = await log.append(epoch, key.upper(), comment="one")
    assert (upper.seq, upper.duplicate) == (2, True)
    assert (await log.head()).head_seq == 2


@pytest.mark.promise("P4")
async def test_replaced_writer_appends_nothing_not_even_a_known_key(log: RunningLog) -> None:
    old, key = await log.acquire("old"), str(uuid.uuid4())
    await log.append(old, key)
    new = await log.acquire("new")
    assert new > old
    for request_id in (None, key):
        error = await failure(log.append(old, request_id))
        assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "EPOCH_LOST")
        assert error.metadata["current_epoch"] == str(new)
    assert (await failure(log.append(new + 1))).reason == "EPOCH_LOST"
    assert (await log.head()).head_seq == 1
    assert (await log.append(new, key)).duplicate


async def writes_of_a_late_writer(log: RunningLog) -> list[str]:
    """The authors of all entries, after an old writer's append was held back over a takeover."""
    async with Proxy(log.address) as link, connected(link.address) as old:
        old_epoch = await old.acquire("old")
        await old.append(old_epoch, author="old")
        link.blackhole()
        late = [asyncio.create_task(old.append(old_epoch, author="old")) for _ in range(8)]
        new_epoch = await log.acquire("new")
        await log.append(new_epoch, author="new")
        link.heal()
        await asyncio.wait(late)
        for append in late:
            append.exception()
    return [decode_payload(entry).author for entry in await log.entries()]


@pytest.mark.promise("P4")
async def test_writer_that_wakes_up_late_appends_nothing(log: RunningLog) -> None:
    assert await writes_of_a_late_writer(log) == ["old", "new"]


async def test_control_without_the_fence_the_late_writer_is_seen(
    settings: LogSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = backend._Script.__init__

    def without_fence(self: backend._Script, name: str) -> None:
        genuine(self, name)
        lines = self.source.splitlines()
        self.source = "\n".join(line for line in lines if "FENCED'" not in line)
        self.sha = "0" * 40

    monkeypatch.setattr(backend._Script, "__init__", without_fence)
    async with running_log(settings) as log:
        assert (await writes_of_a_late_writer(log)).count("old") > 1


@pytest.mark.promise("P1", "P3")
async def test_two_services_on_one_redis_make_one_history(
    log: RunningLog, redis_server: RedisServer, tmp_path: Path
) -> None:
    history, epoch = History(), await log.acquire()
    async with AsyncExitStack() as stack:
        path = tmp_path / "other" / "witness"
        other = await stack.enter_async_context(running_log(log_settings(redis_server, path)))
        stack_of = [log, other]
        await asyncio.gather(*(history.append(stack_of[i % 2], epoch) for i in range(200)))
        assert await other.entries() == await log.entries()
        seq = await history.append(log, epoch)
        assert (await other.head()).head_seq >= seq
        history.judge(await other.entries(), min_acknowledged=201)


def without(entries: list[ChainedEntry], index: int) -> list[ChainedEntry]:
    return entries[:index] + entries[index + 1 :]


@pytest.mark.parametrize(
    ("bug", "promise"),
    [
        (lambda entries: without(entries, 3), "P1"),
        (lambda entries: entries[:-1], "P2"),
        (lambda entries: [*entries[:4], entries[3], *entries[4:]], "P1"),
        (lambda entries: [*entries[:3], entries[4], entries[3], *entries[5:]], "P1"),
        (lambda entries: list(reversed(entries)), "P1"),
    ],
)
async def test_control_the_judge_sees_planted_bugs(
    log: RunningLog, bug: object, promise: str
) -> None:
    history, epoch = History(), await log.acquire()
    for _ in range(8):
        await history.append(log, epoch)
    entries = await log.entries()
    history.judge(entries)
    assert callable(bug)
    with pytest.raises(AssertionError, match=promise):
        history.judge(bug(entries))
