"""The log takes no entry that contradicts those before it, whoever asks."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from errata.artifacts import ArtifactStore
from errata.log.entries import (
    ArtifactRef,
    EditsRequested,
    EntryVoided,
    LaneCompacted,
    LaneModelCommitted,
    Payload,
)
from errata.platform.settings import LogSettings
from errata_client._gen.errata.v1 import edit_log_pb2 as pb
from errata_client._gen.errata.v1 import types_pb2
from tests.integration.log.entries import (
    BYTES,
    REF,
    commit,
    lane,
    message,
    reject,
    request,
    revert,
    snapshot,
)
from tests.integration.log.harness import (
    BASE_MODEL,
    RedisServer,
    RunningLog,
    failure,
    log_settings,
    running_log,
    smuggle,
)
from tests.waiting import PATIENCE


class Appender:
    """A client of the log that holds an epoch."""

    def __init__(self, log: RunningLog, epoch: int) -> None:
        self.log, self.epoch = log, epoch

    async def append(self, payload: Payload | pb.EntryPayload, request_id: str = "") -> Any:
        content = payload if isinstance(payload, pb.EntryPayload) else message(payload)
        asked = pb.AppendRequest(
            request_id=request_id or str(uuid.uuid4()), epoch=self.epoch, payload=content
        )
        return await self.log.stub.Append(asked, timeout=PATIENCE)

    async def refused(self, payload: Payload | pb.EntryPayload) -> str:
        """The reason of the refusal, which leaves the log as it was."""
        before = await self.log.head()
        error = await failure(self.append(payload))
        assert await self.log.head() == before
        assert error.message.startswith("the entry is refused: "), error.message
        return error.reason


@pytest_asyncio.fixture
async def appender(settings: LogSettings) -> AsyncIterator[Appender]:
    """Two lanes; edits/3-0 and 3-1 committed, 4-0 rejected, 5-0 requested, 3-1 reverted."""
    store = ArtifactStore(str(settings.witness_path.parent / "artifacts"))
    await store.put(BYTES)
    async with running_log(settings, store) as log:
        appender = Appender(log, await log.acquire())
        elder = lane("lanes/b", method="elder")
        for payload in (
            lane(),
            elder,
            request(num_edits=2),
            request(),
            request("lanes/b"),
            commit("edits/3-0", "edits/3-1"),
            reject("edits/4-0"),
            revert("edits/3-1"),
            elder,
        ):
            await appender.append(payload)
        yield appender


def new_lane(**changes: str) -> Payload:
    return lane("lanes/new", **changes)


def with_edit(**changes: str) -> Payload:
    asked = request()
    return EditsRequested(
        asked.lane, (replace(asked.edits[0], **changes),), asked.sources, asked.subjects_found
    )


def broken_details() -> pb.EntryPayload:
    content = message(reject("edits/5-0", name="lanes/b"))
    content.edits_rejected.rejections[0].error.details[0].value = b"\xff"
    return content


GONE = ArtifactRef("cd" * 32, 7)
GOOD = commit("edits/5-0", name="lanes/b")
MODEL = LaneModelCommitted("lanes/b", REF, (), None, BASE_MODEL)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (revert("edits/9-9"), "NOT_FOUND"),
        (revert("edits/3-0", "edits/3-0"), "INVALID_REQUEST"),
        (revert("edits/3-1"), "EDIT_NOT_REVERTIBLE"),
        (revert("edits/5-0"), "EDIT_NOT_REVERTIBLE"),
        (revert(), "INVALID_REQUEST"),
        (commit("edits/3-0"), "PRECONDITION_FAILED"),
        (commit("edits/4-0"), "PRECONDITION_FAILED"),
        (commit("edits/5-0"), "PRECONDITION_FAILED"),
        (commit("edits/5-1", name="lanes/b"), "NOT_FOUND"),
        (commit("edits/5-0", "edits/5-0", name="lanes/b"), "INVALID_REQUEST"),
        (commit("edits/5-0", name="lanes/c"), "UNKNOWN_LANE"),
        (commit(name="lanes/b"), "INVALID_REQUEST"),
        (replace(GOOD, base_model_digest="cd" * 32), "BASE_MODEL_MISMATCH"),
        (replace(GOOD, lane_config_digest="c"), "PRECONDITION_FAILED"),
        (replace(GOOD, artifact=ArtifactRef("..", 7)), "INVALID_REQUEST"),
        (replace(GOOD, artifact=replace(REF, size_bytes=0)), "INVALID_REQUEST"),
        (reject("edits/3-0"), "PRECONDITION_FAILED"),
        (reject("edits/9-9"), "NOT_FOUND"),
        (request("lanes/c"), "UNKNOWN_LANE"),
        (request(num_edits=0), "INVALID_REQUEST"),
        (with_edit(prompt=" "), "INVALID_REQUEST"),
        (with_edit(target=""), "INVALID_REQUEST"),
        (lane(method="elder"), "PRECONDITION_FAILED"),
        (lane("lanes/A"), "INVALID_REQUEST"),
        (new_lane(method="magic"), "INVALID_REQUEST"),
        (new_lane(config_digest="ab" * 32), "INVALID_REQUEST"),
        (new_lane(config_json="[]"), "INVALID_REQUEST"),
        (new_lane(base_model_digest="cd" * 32), "BASE_MODEL_MISMATCH"),
        (replace(MODEL, lane="lanes/a", edits=("edits/3-0",)), "PRECONDITION_FAILED"),
        (replace(MODEL, edits=("edits/3-0",)), "PRECONDITION_FAILED"),
        (replace(MODEL, repository=REF), "INVALID_REQUEST"),
        (LaneCompacted("lanes/a", ("edits/4-0",), REF, 1, BASE_MODEL), "PRECONDITION_FAILED"),
        (LaneCompacted("lanes/b", (), REF, 1, BASE_MODEL), "INVALID_REQUEST"),
        (EntryVoided(3, "why"), "PRECONDITION_FAILED"),
        (EntryVoided(77, "why"), "NOT_FOUND"),
        (EntryVoided(0, "why"), "NOT_FOUND"),
        (EntryVoided(3, " "), "INVALID_REQUEST"),
        (snapshot(0), "INVALID_REQUEST"),
        (snapshot(10), "INVALID_REQUEST"),
        (snapshot(5, chain_digest=b"short"), "INVALID_REQUEST"),
        (snapshot(5, state_digest="none"), "INVALID_REQUEST"),
        (snapshot(5, base_model_digest="cd" * 32), "BASE_MODEL_MISMATCH"),
        (snapshot(5, manifest=GONE), "NOT_FOUND"),
        (broken_details(), "INVALID_REQUEST"),
        (pb.EntryPayload(edits_rejected=pb.EditsRejected(lane="lanes/a")), "INVALID_REQUEST"),
    ],
)
async def test_entry_that_cannot_be_is_refused(
    appender: Appender, payload: Payload | pb.EntryPayload, reason: str
) -> None:
    assert await appender.refused(payload) == reason


async def test_artifacts_that_replicas_could_not_load_are_refused(appender: Appender) -> None:
    for artifact, reason in ((GONE, "NOT_FOUND"), (replace(REF, size_bytes=7), "INVALID_REQUEST")):
        content = replace(GOOD, artifact=artifact)
        assert await appender.refused(content) == reason
    await appender.append(GOOD)


async def test_snapshots_are_newer_each_time(appender: Appender) -> None:
    await appender.append(snapshot(5))
    for seq in (4, 5):
        assert await appender.refused(snapshot(seq)) == "PRECONDITION_FAILED"
    await appender.append(snapshot(6))


async def test_what_can_be_is_taken(appender: Appender) -> None:
    await appender.append(MODEL)
    await appender.append(GOOD)
    await appender.append(replace(MODEL, edits=("edits/5-0",), repository=REF))
    await appender.append(LaneCompacted("lanes/b", ("edits/5-0",), REF, 1, BASE_MODEL))
    await appender.append(revert("edits/5-0"))


async def test_retry_is_a_duplicate_and_old_epoch_is_fenced_whatever_the_entry(
    appender: Appender,
) -> None:
    key = str(uuid.uuid4())
    first = await appender.append(revert("edits/3-0"), key)
    again = await appender.append(revert("edits/3-0"), key)
    assert (again.seq, again.duplicate) == (first.seq, True)
    error = await failure(appender.append(revert("edits/9-9"), key))
    assert error.reason == "REQUEST_ID_REUSED"
    await appender.log.acquire("another")
    error = await failure(appender.append(revert("edits/9-9")))
    assert error.reason == "EPOCH_LOST"


async def test_one_of_two_commits_at_once_is_taken(
    appender: Appender, redis_server: RedisServer, tmp_path: Path
) -> None:
    """Of one service, and of two services on one Redis."""
    settings = log_settings(redis_server, tmp_path / "other" / "witness", adopt_unwitnessed=True)
    store = ArtifactStore(str(tmp_path / "artifacts"))
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(running_log(settings, store))
        appenders = [appender, Appender(other, appender.epoch)] * 4
        outcomes = await asyncio.gather(
            *(each.append(GOOD) for each in appenders),
            return_exceptions=True,
        )
        assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1


async def test_restart_knows_what_exists(appender: Appender, settings: LogSettings) -> None:
    assert appender.log.task is not None
    appender.log.task.cancel()
    await asyncio.wait([appender.log.task])
    store = ArtifactStore(str(settings.witness_path.parent / "artifacts"))
    async with running_log(settings, store) as log:
        again = Appender(log, appender.epoch)
        assert await again.refused(revert("edits/3-1")) == "EDIT_NOT_REVERTIBLE"
        await again.append(revert("edits/3-0"))


@pytest.mark.parametrize(
    "smuggled",
    [
        lambda: message(revert("edits/9-9")).SerializeToString(),
        lambda: b"\xff\xff\xff",
        lambda: b"",
        lambda: broken_details().SerializeToString(),
        lambda: pb.EntryPayload(entry_voided=pb.EntryVoided(seq=3)).SerializeToString(),
        lambda: pb.EntryPayload(
            edits_committed=pb.EditsCommitted(artifact=types_pb2.ArtifactRef())
        ).SerializeToString(),
    ],
)
async def test_smuggled_entry_blocks_appends_until_it_is_voided(
    appender: Appender, redis_server: RedisServer, smuggled: Callable[[], bytes]
) -> None:
    seq = smuggle(redis_server, smuggled())
    head = await appender.log.head()
    assert [entry.seq for entry in head.impossible_entries] == [seq]
    assert head.impossible_entries[0].problem
    error = await failure(appender.append(request()))
    assert error.reason == "PRECONDITION_FAILED"
    assert f"errata log repair --seq {seq}" in error.message
    await appender.append(EntryVoided(seq, "smuggled"))
    head = await appender.log.head()
    assert (list(head.voided_seqs), list(head.impossible_entries)) == ([seq], [])
    assert await appender.refused(EntryVoided(seq, "again")) == "PRECONDITION_FAILED"
    await appender.append(request())


async def test_kind_of_a_newer_version_is_not_voided(
    appender: Appender, redis_server: RedisServer
) -> None:
    seq = smuggle(redis_server, b"\xa2\x06\x00")
    error = await failure(appender.append(EntryVoided(seq, "why")))
    assert error.reason == "PRECONDITION_FAILED"
    assert "Upgrade" in error.message
