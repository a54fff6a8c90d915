"""What EditLogService answers to good and to unusable requests."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest

from errata.artifacts import ArtifactStore, RemoteArtifacts, digest_of
from errata.errors import (
    ArtifactCorruptError,
    InvalidRequestError,
    LogUnavailableError,
    NotFoundError,
    StartupError,
)
from errata.log.chain import ORIGIN, extend
from errata.log.feed import Feed
from errata.log.main import run
from errata.log.payload_convert import decode_payload
from errata.log.store import RedisLog
from errata.platform.paging import page_token
from errata.platform.settings import LogSettings
from errata_client._gen.errata.v1 import edit_log_pb2 as pb
from tests.integration.log.harness import (
    RedisServer,
    RunningLog,
    append_request,
    failure,
    log_settings,
    running_log,
    stream_failure,
)
from tests.integration.log.history import History
from tests.waiting import PATIENCE


def changed(**fields: Any) -> pb.AppendRequest:
    request = append_request(1)
    for name, value in fields.items():
        setattr(request, name, value)
    return request


def without_kind() -> pb.AppendRequest:
    request = append_request(1)
    request.payload.ClearField("lane_configured")
    return request


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("Append", changed(request_id=""), "request_id"),
        ("Append", changed(request_id="seven"), "request_id"),
        ("Append", changed(request_id=uuid.UUID(int=7).hex), "request_id"),
        ("Append", changed(epoch=0), "epoch"),
        ("Append", without_kind(), "payload.kind"),
        ("AcquireEpoch", pb.AcquireEpochRequest(), "writer"),
        ("AcquireEpoch", pb.AcquireEpochRequest(writer="w" * 257), "writer"),
        ("ListEntries", pb.ListEntriesRequest(page_size=-1), "page_size"),
        ("ListEntries", pb.ListEntriesRequest(from_seq=0), "from_seq"),
        ("ListEntries", pb.ListEntriesRequest(page_token="?"), "page_token"),
        (
            "ListEntries",
            pb.ListEntriesRequest(page_token=page_token("replicas", "1")),
            "page_token",
        ),
        ("ListEntries", pb.ListEntriesRequest(page_token=page_token("entries", "x")), "page_token"),
        ("ListReplicas", pb.ListReplicasRequest(page_size=-1), "page_size"),
        ("ListReplicas", pb.ListReplicasRequest(page_token="ä"), "page_token"),
        ("ReportPosition", pb.ReportPositionRequest(), "position.replica"),
        (
            "ReportPosition",
            pb.ReportPositionRequest(position=pb.ReplicaPosition(replica="r", applied_seq=-1)),
            "position.applied_seq",
        ),
        (
            "ReportPosition",
            pb.ReportPositionRequest(position=pb.ReplicaPosition(replica="r")),
            "position.chain_digest",
        ),
    ],
)
async def test_unusable_field_is_named(
    log: RunningLog, method: str, request_: Any, field: str
) -> None:
    error = await failure(getattr(log.stub, method)(request_, timeout=PATIENCE))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert error.field == field
    assert (await log.head()).head_seq == 0


async def test_entry_carries_key_author_time_and_chain(log: RunningLog) -> None:
    epoch, key = await log.acquire(), str(uuid.uuid4())
    request = append_request(epoch, key, comment="why", author="ada")
    request.payload.append_time.FromSeconds(1)
    request.payload.request_id = "not the key"
    await log.stub.Append(request, timeout=PATIENCE)
    request.payload.ClearField("append_time")
    request.payload.ClearField("request_id")
    assert (await log.stub.Append(request, timeout=PATIENCE)).duplicate, (
        "the log sets these two itself"
    )
    (entry,) = await log.entries()
    payload = decode_payload(entry)
    assert (payload.request_id, payload.author) == (key, "ada")
    assert payload.lane_configured == request.payload.lane_configured
    assert payload.append_time.seconds > 1_600_000_000
    head = await log.head()
    assert extend(ORIGIN, entry.payload).chain_digest == entry.chain_digest == head.chain_digest
    assert (head.head_seq, head.floor_seq, head.epoch) == (1, 1, epoch)


async def test_too_large_an_entry_is_refused(redis_server: RedisServer, tmp_path: Path) -> None:
    settings = log_settings(redis_server, tmp_path / "witness", max_payload_bytes=1_000)
    async with running_log(settings) as log:
        epoch = await log.acquire()
        error = await failure(log.append(epoch, comment="x" * 1_000))
        assert (error.code, error.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "LIMIT_EXCEEDED",
        )
        assert error.metadata["max_payload_bytes"] == "1000"
        assert (await log.append(epoch, comment="x" * 500)).seq == 1


async def test_entries_are_listed_by_page(log: RunningLog) -> None:
    history, epoch = History(), await log.acquire()
    empty = await log.stub.ListEntries(pb.ListEntriesRequest(), timeout=PATIENCE)
    assert (len(empty.entries), empty.next_page_token) == (0, "")
    for _ in range(7):
        await history.append(log, epoch)
    pages, token = [], ""
    while not pages or token:
        request = pb.ListEntriesRequest(page_size=3, page_token=token, from_seq=2)
        page = await log.stub.ListEntries(request, timeout=PATIENCE)
        pages.append([entry.seq for entry in page.entries])
        token = page.next_page_token
    assert pages == [[2, 3, 4], [5, 6, 7]]
    beyond = pb.ListEntriesRequest(from_seq=9)
    assert (
        await failure(log.stub.ListEntries(beyond, timeout=PATIENCE))
    ).reason == "SEQ_BEYOND_HEAD"


async def report(log: RunningLog, replica: str, seq: int, digest: bytes) -> Any:
    position = pb.ReplicaPosition(
        replica=replica, applied_seq=seq, chain_digest=digest, state_digest="s", role="worker"
    )
    return await log.stub.ReportPosition(
        pb.ReportPositionRequest(position=position), timeout=PATIENCE
    )


@pytest.mark.promise("P7")
async def test_replica_with_another_history_is_told_to_leave(log: RunningLog) -> None:
    history, epoch = History(), await log.acquire()
    for _ in range(4):
        await history.append(log, epoch)
    digests = [bytes(32), *(entry.chain_digest for entry in await log.entries())]
    for seq, digest in enumerate(digests):
        assert (await report(log, f"good-{seq}", seq, digest)).agrees
        answer = await report(log, f"bad-{seq}", seq, bytes(31) + b"x")
        assert (answer.agrees, answer.head_seq) == (False, 4)
    assert not (await report(log, "ahead", 5, bytes(32))).agrees


async def test_replicas_are_listed_by_page_and_forgotten(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    settings = log_settings(redis_server, tmp_path / "witness", replica_ttl_seconds=1000)
    async with running_log(settings) as log:
        await log.append(await log.acquire())
        for name in ("c", "a", "b"):
            await report(log, name, 0, bytes(32))
        first = await log.stub.ListReplicas(pb.ListReplicasRequest(page_size=2), timeout=PATIENCE)
        rest = await log.stub.ListReplicas(
            pb.ListReplicasRequest(page_size=2, page_token=first.next_page_token), timeout=PATIENCE
        )
    assert [replica.replica for replica in first.replicas] == ["a", "b"]
    assert [replica.replica for replica in rest.replicas] == ["c"]
    assert rest.next_page_token == ""
    replica = rest.replicas[0]
    assert (replica.lag, replica.agrees, replica.role) == (1, True, "worker")
    assert replica.report_time.seconds > 1_600_000_000


async def test_artifacts_travel_in_chunks(settings: LogSettings, tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    data = bytes(range(256)) * 3_000
    digest = await store.put(data)
    async with running_log(settings, store) as log:
        call = log.stub.GetArtifact(pb.GetArtifactRequest(digest=digest), timeout=PATIENCE)
        sizes = [len(response.chunk) async for response in call]
        assert sizes == [262_144, 262_144, 243_712]
        assert await RemoteArtifacts(log.channel).get(digest) == data


async def test_artifact_failures_cross_the_wire(settings: LogSettings, tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    digest = await store.put(b"tensor")
    missing = digest_of(b"nothing")
    async with running_log(settings, store) as log:
        remote = RemoteArtifacts(log.channel)
        with pytest.raises(NotFoundError) as caught:
            await remote.get(missing)
        assert caught.value.metadata["digest"] == missing
        Path(store.path_of(digest)).write_bytes(b"tenser")
        with pytest.raises(ArtifactCorruptError):
            await remote.get(digest)
        with pytest.raises(InvalidRequestError):
            await remote.get("../../etc/passwd")
        request = pb.GetArtifactRequest(digest="../../etc/passwd")
        assert (await stream_failure(log.stub.GetArtifact(request))).field == "digest"
    with pytest.raises(LogUnavailableError):
        await remote_to_nobody(digest)


async def remote_to_nobody(digest: str) -> bytes:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        return await RemoteArtifacts(channel, timeout_seconds=2).get(digest)


async def test_address_in_use_leaves_nothing_behind(log: RunningLog, settings: LogSettings) -> None:
    other = settings.model_copy(
        update={"witness_path": settings.witness_path.with_name("w2"), "key_prefix": "other"}
    )
    with pytest.raises(StartupError, match="port is in use"):
        await run(other, ArtifactStore(str(settings.witness_path.parent)), address=log.address)
    async with running_log(other) as again:
        assert (await again.head()).head_seq == 0


async def test_the_tail_ends_when_stopped_even_if_no_cancellation_reaches_it(
    settings: LogSettings,
) -> None:
    store = await RedisLog.open(settings)
    try:
        feed = Feed(store, page_entries=10, progress_seconds=0.1)
        tail = asyncio.create_task(feed.run())
        await asyncio.sleep(0.1)
        feed.stop()
        await asyncio.wait_for(tail, PATIENCE)
    finally:
        await store.close()


async def test_stop_event_ends_the_service_and_gives_the_witness_back(
    settings: LogSettings, tmp_path: Path
) -> None:
    stop, ready = asyncio.Event(), asyncio.Event()
    store = ArtifactStore(str(tmp_path / "artifacts"))
    running = asyncio.create_task(
        run(settings, store, address="127.0.0.1:0", ready=lambda _: ready.set(), stop=stop)
    )
    await asyncio.wait_for(ready.wait(), PATIENCE)
    stop.set()
    await asyncio.wait_for(running, PATIENCE)
    async with running_log(settings) as log:
        assert (await log.head()).head_seq == 0
