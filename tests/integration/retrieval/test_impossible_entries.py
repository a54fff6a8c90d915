"""One bad entry bricks nothing: the log refuses it; if it is there anyway, a repair heals all."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable

import grpc
import pytest

from errata.errors import ErrataError, ImpossibleEntryError
from errata.launch.repair import repair_entry
from errata_client._gen.errata.v1 import edit_log_pb2 as pb
from errata_client._gen.errata.v1 import edit_log_pb2_grpc
from errata_client.errors import ErrataError as ClientError
from tests.integration.log.entries import lane, message, request
from tests.integration.log.entries import revert as reverted
from tests.integration.log.harness import eventually, failure, smuggle
from tests.integration.retrieval.stack import FACTS, Stack, submit
from tests.unit.editing.tiny_models import make_model
from tests.waiting import PATIENCE


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _stopped(check_health: Callable[[], None]) -> bool:
    try:
        check_health()
    except ImpossibleEntryError:
        return True
    return False


def _healthy(check_health: Callable[[], None]) -> bool:
    try:
        check_health()
    except ErrataError:
        return False
    return True


async def _attack(address: str) -> ClientError:
    """Takes the epoch and appends the reversal of an edit that does not exist."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = edit_log_pb2_grpc.EditLogServiceStub(channel)
        taken = await stub.AcquireEpoch(pb.AcquireEpochRequest(writer="evil"), timeout=PATIENCE)
        asked = pb.AppendRequest(
            request_id=str(uuid.uuid4()),
            epoch=taken.epoch,
            payload=message(reverted("edits/99-0")),
        )
        return await failure(stub.Append(asked, timeout=PATIENCE))


async def test_anyone_can_take_the_epoch_but_not_brick_the_writer(stack: Stack) -> None:
    """Hole 1: two calls stopped the writer for good, and every worker."""
    async with stack.worker() as worker:
        async with stack.writer(stack.lane_model()) as writer:
            (name,), seq = await submit(writer, FACTS[0])
            error = await _attack(stack.address)
        assert error.reason == "NOT_FOUND"
        assert "edits/99-0" in error.message
        async with stack.writer(None) as writer, stack.worker() as fresh:
            assert writer.ledger.get(name).commit_seq == seq == writer.ledger.seq
            await submit(writer, FACTS[1])
            for replica in (worker, fresh):
                await eventually(lambda at=replica: at.engine.version.seq == writer.ledger.seq)
                replica.check_health()


@pytest.mark.promise("P7")
async def test_smuggled_entry_stops_all_readers_at_one_place_and_a_repair_heals_them(
    stack: Stack,
) -> None:
    async with stack.writer(stack.lane_model()) as writer:
        await submit(writer, FACTS[0])
    async with stack.worker() as worker, stack.retrieval() as retrieval:
        bad = smuggle(stack.redis, message(reverted("edits/99-0")).SerializeToString())
        await eventually(lambda: _stopped(worker.check_health), "the worker's stop")
        await eventually(lambda: _stopped(retrieval.check_health), "the stop of retrieval")
        assert worker.engine.version.seq == retrieval.latest.seq == bad - 1
        remedy = f"errata log repair --seq {bad}"
        with pytest.raises(ImpossibleEntryError, match=remedy):
            async with stack.worker():
                pass
        with pytest.raises(BaseExceptionGroup) as caught:
            async with stack.writer(None):
                pass
        error = _innermost(caught.value)
        assert isinstance(error, ImpossibleEntryError)
        assert remedy in error.message

        told: list[str] = []
        voided_by = await repair_entry(stack.address, bad, "smuggled", "ada", told.append)
        assert voided_by == bad + 1
        assert "edits/99-0" in told[0]
        await eventually(lambda: _healthy(worker.check_health), "the worker's return")
        await eventually(lambda: _healthy(retrieval.check_health), "the return of retrieval")
        async with stack.writer(None) as writer:
            _, seq = await submit(writer, FACTS[1])
            async with stack.worker() as fresh:
                for replica in (worker, fresh):
                    await eventually(lambda at=replica: at.engine.version.seq >= seq)
                await eventually(lambda: retrieval.latest.seq >= seq)
                digests = {each.engine.version.state_digest for each in (worker, fresh)}
                assert digests == {retrieval.latest.state_digest}, "P7: not the same state"


async def test_lane_that_no_process_can_open_stops_nobody(stack: Stack) -> None:
    async with stack.writer(stack.lane_model()) as writer, stack.worker() as worker:
        await submit(writer, FACTS[0])
        config = '{"layers": [99]}'
        unusable = lane(
            "lanes/unusable",
            config_json=config,
            config_digest=hashlib.sha256(config.encode()).hexdigest(),
            base_model_digest=make_model("llama").digest,
        )
        smuggle(
            stack.redis,
            message(unusable).SerializeToString(),
            message(request("lanes/unusable")).SerializeToString(),
        )
        _, seq = await submit(writer, FACTS[1])
        await eventually(lambda: worker.engine.version.seq >= seq)
    async with stack.writer(None) as writer, stack.worker() as fresh:
        _, seq = await submit(writer, FACTS[2])
        await eventually(lambda: fresh.engine.version.seq >= seq)
