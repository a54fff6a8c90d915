"""Writers that die or wake up too late, and a Redis that goes away."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from collections import Counter
from dataclasses import replace

import pytest

from errata import demo
from errata.artifacts.remote import RemoteArtifacts
from errata.artifacts.source import ArtifactSource
from errata.demo import Corpus
from errata.editing.model.causal_lm import CausalLM
from errata.engine.serving_state import ServingState
from errata.errors import (
    ErrataError,
    LogBehindWitnessError,
    LogUnavailableError,
    ReplicaBehindError,
)
from errata.launch.box import Box
from errata.launch.processes import Process
from errata.platform.addresses import free_port
from errata.platform.server import open_channel
from errata.platform.settings import WorkerSettings
from errata.worker.admission import GenerationInput
from errata.worker.replica import Replica
from errata_client import (
    Client,
    DeadlineExceededError,
    EditNotRevertibleError,
    EditSpec,
    EditState,
    EpochLostError,
    LogEntry,
    UnavailableError,
)
from tests.integration.log.harness import eventually
from tests.waiting import PATIENCE, wait


def _specs(corpus: Corpus) -> list[EditSpec]:
    return [EditSpec(edit.prompt, edit.target, edit.subject) for edit in corpus.demo_edits()]


def _entries(box: Box) -> list[LogEntry]:
    with Client(box.settings.log.address) as log:
        return list(log.entries())


def _settled(entries: list[LogEntry]) -> Counter[str]:
    kinds = ("edits_committed", "edits_rejected")
    return Counter(name for entry in entries if entry.kind in kinds for name in entry.edits)


@pytest.mark.promise("P2", "P9")
def test_a_writer_killed_in_a_fit_is_replaced_and_nothing_is_done_twice(
    box: Box, corpus: Corpus
) -> None:
    with Client(box.settings.writer.address, timeout=PATIENCE) as client:
        accepted = client.submit_edits(_specs(corpus))
        names = [edit.name for edit in accepted]
        wait(
            lambda: EditState.FITTING in {client.get_edit(name).state for name in names},
            "an edit is being fitted",
        )
        box.processes["writer"].kill()
    before = _entries(box)
    assert not _settled(before), "the kill must come before the commit"
    box.processes.pop("writer").stop(1)
    box.start_service("writer", box.settings.writer.address)
    with Client(box.settings.writer.address, timeout=PATIENCE) as client:
        edits = client.wait_edits(names)
    assert all(edit.state is EditState.COMMITTED for edit in edits), edits
    after = _entries(box)
    assert [entry.seq for entry in after] == list(range(1, len(after) + 1))
    assert after[: len(before)] == before
    assert _settled(after) == Counter(names)
    kinds = Counter(entry.kind for entry in after)
    assert (kinds["lane_configured"], kinds["lane_model_committed"]) == (4, 3)


@pytest.mark.promise("P4")
def test_a_writer_that_wakes_up_after_its_successor_appends_nothing(
    box: Box, corpus: Corpus
) -> None:
    old = box.processes["writer"]
    os.kill(old.popen.pid, signal.SIGSTOP)
    address = f"127.0.0.1:{free_port()}"
    environment = {**box.settings.environment(), "ERRATA_WRITER__ADDRESS": address}
    command = [sys.executable, "-m", "errata.cli", "serve", "writer"]
    new = Process.start("new-writer", command, environment, box.settings.data_dir / "new.log")
    try:
        with Client(address, timeout=PATIENCE) as client:
            wait(lambda: _serves(client), "the new writer serves")
            spec = _specs(corpus)[0]
            (edit,) = client.wait_edits([client.submit_edits([spec])[0].name])
            assert edit.state is EditState.COMMITTED
            before = _entries(box)
            os.kill(old.popen.pid, signal.SIGCONT)
            with Client(box.settings.writer.address, timeout=PATIENCE) as late:
                with pytest.raises(EpochLostError) as caught:
                    late.submit_edits([_specs(corpus)[1]])
                assert caught.value.reason == "EPOCH_LOST"
            wait(lambda: not old.running, "the old writer ends by itself")
            assert old.popen.returncode == 1
            assert "EPOCH_LOST" in old.tail()
            assert _entries(box) == before
            assert client.get_edit(edit.name).state is EditState.COMMITTED
    finally:
        new.stop(10)


def _serves(client: Client) -> bool:
    try:
        return bool(client.lanes(timeout=2))
    except (UnavailableError, DeadlineExceededError):
        return False


@pytest.mark.promise("P2", "P3")
def test_edits_outlive_a_redis_that_dies_in_between(box: Box, corpus: Corpus) -> None:
    specs = _specs(corpus)
    with Client(box.settings.writer.address, timeout=PATIENCE) as client:
        (first,) = client.wait_edits([client.submit_edits([specs[0]])[0].name])
        before = _entries(box)
        box.processes["redis"].kill()
        request_id = str(uuid.uuid4())
        with pytest.raises(UnavailableError) as caught:
            client.submit_edits([specs[1]], request_id=request_id, timeout=PATIENCE)
        assert caught.value.reason == "LOG_UNAVAILABLE"
        assert "same request id" in caught.value.message
        box.processes.pop("redis").stop(1)
        box.start_redis()
        wait(lambda: _accepts(client, specs[1], request_id), "the log is back")
        (again,) = client.submit_edits([specs[1]], request_id=request_id)
        (second,) = client.wait_edits([again.name])
        assert (first.state, second.state) == (EditState.COMMITTED, EditState.COMMITTED)
    after = _entries(box)
    assert after[: len(before)] == before
    assert _settled(after) == Counter([first.name, second.name])


def _accepts(client: Client, spec: EditSpec, request_id: str) -> bool:
    try:
        client.submit_edits([spec], request_id=request_id, timeout=5)
    except (UnavailableError, DeadlineExceededError):
        return False
    return True


class _Held:
    """Artifacts that, once held, come only when they are let go, and then at the second try."""

    def __init__(self, source: ArtifactSource) -> None:
        self._source = source
        self.let_go = asyncio.Event()
        self.let_go.set()
        self.tries = 1

    def hold(self) -> None:
        self.let_go.clear()
        self.tries = 0

    async def get(self, digest: str, size_bytes: int | None = None) -> bytes:
        await self.let_go.wait()
        self.tries += 1
        if self.tries == 1:
            raise LogUnavailableError("away for a moment")
        return await self._source.get(digest, size_bytes)


def _is_healthy(replica: Replica) -> bool:
    try:
        replica.check_health()
    except ErrataError:
        return False
    return True


@pytest.mark.promise("P5")
async def test_a_replica_that_is_behind_says_so_before_the_deadline_and_never_answers_old(
    box: Box, corpus: Corpus
) -> None:
    edit = corpus.demo_edits()[0]
    model = await asyncio.to_thread(CausalLM.load, demo.model_path())
    log_address = box.settings.log.address
    async with open_channel(log_address) as channel:
        held = _Held(RemoteArtifacts(channel))
        replica = Replica("slow", model, held, log_address, WorkerSettings(max_lag=1))
        await replica.start()
        held.hold()

        async def ask(min_seq: int | None, seconds: float) -> str:
            pieces = [
                piece
                async for piece in replica.generate(
                    GenerationInput(prompt=edit.prompt, min_seq=min_seq, max_tokens=8, stop=["."]),
                    streaming=False,
                    timeout_seconds=seconds,
                )
            ]
            return "".join(piece.text for piece in pieces).strip()

        try:
            old = await ask(None, PATIENCE)
            with Client(box.settings.writer.address, timeout=PATIENCE) as client:
                spec = _specs(corpus)[0]
                (accepted,) = await asyncio.to_thread(client.submit_edits, [spec])
                (done,) = await asyncio.to_thread(client.wait_edits, [accepted.name])
            assert await ask(None, PATIENCE) == old, "without min_seq it may answer as it stands"
            # Not DeadlineExceededError: `before_deadline` leaves time for the reason.
            with pytest.raises(ReplicaBehindError) as caught:
                await ask(done.commit_seq, 2.0)
            assert caught.value.metadata["min_seq"] == str(done.commit_seq)
            assert int(caught.value.metadata["applied_seq"]) < done.commit_seq
            with Client(box.settings.writer.address, timeout=PATIENCE) as client:
                (other,) = await asyncio.to_thread(client.submit_edits, [_specs(corpus)[1]])
                await asyncio.to_thread(client.wait_edits, [other.name])
            # The log's news are read while the replica waits.
            await eventually(lambda: not _is_healthy(replica), "the replica knows how far it is")
            with pytest.raises(ReplicaBehindError, match="entries behind"):
                replica.check_health()
            waiting = asyncio.create_task(ask(done.commit_seq, PATIENCE))
            held.let_go.set()
            assert await waiting == edit.target
            assert held.tries >= 2
            await ask(replica.engine.version.seq, PATIENCE)
            replica.check_health()
        finally:
            await replica.close()


@pytest.mark.promise("P7")
async def test_a_replica_whose_history_is_not_the_logs_leaves_rotation(box: Box) -> None:
    model = await asyncio.to_thread(CausalLM.load, demo.model_path())
    async with open_channel(box.settings.log.address) as channel:
        source = RemoteArtifacts(channel)
        replica = Replica("astray", model, source, box.settings.log.address, WorkerSettings())
        await replica.start()
        try:
            replica.check_health()
            version = replace(replica.engine.version, chain_digest=bytes(32))
            await replica.engine.change(lambda: ServingState(version), alters_weights=False)
            # It reports each second, and when it has moved.
            await eventually(lambda: not _is_healthy(replica), "the log contradicts it")
            with pytest.raises(LogBehindWitnessError, match="another history"):
                replica.check_health()
        finally:
            await replica.close()


@pytest.mark.promise("P9", "P11")
async def test_a_revert_whose_caller_left_is_not_done_twice(box: Box, corpus: Corpus) -> None:
    """While the outcome of one revert is unknown, another of the same edit must wait."""
    spec = _specs(corpus)[0]
    ids = [str(uuid.uuid4()) for _ in range(2)]
    with Client(box.settings.writer.address, timeout=PATIENCE) as client:
        (edit,) = client.wait_edits([client.submit_edits([spec])[0].name])
        os.kill(box.processes["log"].popen.pid, signal.SIGSTOP)
        try:
            for request_id in ids:
                with pytest.raises((UnavailableError, DeadlineExceededError)):
                    client.revert([edit.name], request_id=request_id, timeout=2)
        finally:
            os.kill(box.processes["log"].popen.pid, signal.SIGCONT)
        seq = client.revert([edit.name], request_id=ids[0]).seq
        with pytest.raises(EditNotRevertibleError):
            client.revert([edit.name], request_id=ids[1])
        assert client.get_edit(edit.name).revert_seq == seq
    kinds = [entry.kind for entry in _entries(box)]
    assert kinds.count("edits_reverted") == 1


@pytest.mark.promise("P2")
def test_a_writer_that_is_told_to_end_finishes_its_batch(box: Box, corpus: Corpus) -> None:
    writer = box.processes.pop("writer")
    with Client(box.settings.writer.address, timeout=PATIENCE) as client:
        # One edit, whose fit ends on any machine before the writer no longer waits for it; and it
        # may have ended before anybody looks.
        (edit,) = client.submit_edits(_specs(corpus)[:1])
        begun = (EditState.FITTING, EditState.COMMITTED)
        wait(lambda: client.get_edit(edit.name).state in begun, "the edit is being fitted")
    writer.stop(PATIENCE)
    assert writer.popen.returncode == 0, writer.tail()
    assert _settled(_entries(box)), "what was being fitted must be in the log"
