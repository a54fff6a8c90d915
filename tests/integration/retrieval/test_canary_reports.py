"""Rules end canaries by what replicas reported to real log services."""

from __future__ import annotations

from datetime import timedelta

import pytest

from errata.errors import (
    ErrataError,
)
from errata.log.canary_entries import (
    CanaryComparison,
    CanaryCounts,
)
from errata.log.positions import ReplicaReport
from errata.log.remote import RemoteLog
from errata.platform.server import open_channel
from errata.writer.canary_book import CanaryRecord
from errata.writer.log_services import LogServices, addresses_of
from errata.writer.metrics import LedgerCollector
from errata.writer.timetable import utc_now
from errata.writer.writer import Writer
from errata_client._gen.errata.v1 import editing_pb2 as pb
from errata_client._gen.errata.v1 import types_pb2
from tests.integration.retrieval.canary_desk import (
    NAME,
    OWN,
    Desk,
    ended,
    wait_for,
)
from tests.integration.retrieval.stack import Stack
from tests.waiting import PATIENCE


async def report(stack: Stack, opened_seq: int, replica: str, **counts: CanaryCounts) -> None:
    """Reports as a replica does, at the log's head."""
    async with open_channel(stack.address) as channel:
        log = RemoteLog(channel)
        head = (await log.state()).head
        counted = {NAME: CanaryComparison(opened_seq, **counts)}
        sent = ReplicaReport(replica, head, "ab" * 32, "worker", canaries=counted)
        assert await log.report(sent, PATIENCE)


async def test_a_rule_rolls_back_on_what_replicas_reported(stack: Stack) -> None:
    async with stack.writer(stack.lane_model(), config=OWN) as writer:
        desk = Desk(writer)
        rule = types_pb2.CanaryRule(min_requests=100, max_error_increase=0.05)
        opened = (await desk.open(rule=rule)).seq
        name = await desk.put("Finland")
        await report(stack, opened, "one", canary=CanaryCounts(60, errors=1), rest=CanaryCounts(5))
        await report(stack, opened + 1, "two", canary=CanaryCounts(500, errors=500))
        await wait_for(writer, lambda counts: counts.canary.requests == 60)
        (canary,) = await desk.list()
        assert canary.comparison.canary.requests == 60, "another entry opened what `two` counts"
        await report(stack, opened, "two", canary=CanaryCounts(40, errors=9))
        canary = await ended(writer)
        assert (canary.state, canary.ended_by) == (pb.Canary.STATE_ROLLED_BACK, "errata-writer")
        assert canary.comment == (
            "by its rule: 10 of 100 requests (10.00%) in it failed, and 0 of 5 requests (0.00%) of "
            "the rest; the rule allows 5.00% more."
        )
        assert (canary.comparison.canary.requests, canary.comparison.rest.requests) == (100, 5)
        assert (await desk.get(name)).state == pb.Edit.STATE_REVERTED


async def test_a_rule_is_asked_again_once_no_fit_runs(stack: Stack) -> None:
    start, passed = utc_now(), timedelta(days=2)
    async with stack.writer(stack.lane_model(), config=OWN, clock=lambda: start + passed) as writer:
        desk = Desk(writer)
        rule = types_pb2.CanaryRule(
            min_requests=10, max_error_increase=0.05, promote_after_seconds=86_400
        )
        async with writer._edited.exclusive():  # as a fit does
            opened = (await desk.open(rule=rule)).seq
            await report(stack, opened, "one", canary=CanaryCounts(10))
            await wait_for(writer, lambda counts: counts.canary.requests == 10)
            await writer._canary_watch.look()
            await report(stack, opened, "one", canary=CanaryCounts(20, errors=9))
            await wait_for(writer, lambda counts: counts.canary.errors == 9)
            await writer.ledger.wait_until(lambda: record(writer).rolling_back)
        canary = await ended(writer)
        assert (canary.state, canary.ended_by) == (pb.Canary.STATE_ROLLED_BACK, "errata-writer")


def record(writer: Writer) -> CanaryRecord:
    """The canary as the writer knows it."""
    found = writer.ledger.canaries.get(NAME)
    assert found is not None
    return found


async def test_a_rule_promotes_by_the_writers_clock(stack: Stack) -> None:
    start, passed = utc_now(), timedelta(0)
    async with stack.writer(stack.lane_model(), clock=lambda: start + passed) as writer:
        desk = Desk(writer)
        rule = types_pb2.CanaryRule(
            min_requests=10, max_error_increase=0.5, promote_after_seconds=86_400
        )
        opened = (await desk.open(rule=rule)).seq
        await report(stack, opened, "one", canary=CanaryCounts(10))
        await wait_for(writer, lambda counts: counts.canary.requests == 10)
        assert (await desk.list())[0].state == pb.Canary.STATE_OPEN
        passed = timedelta(days=2)
        canary = await ended(writer)
        assert (canary.state, canary.ended_by) == (pb.Canary.STATE_PROMOTED, "errata-writer")
        assert canary.comment.startswith("by its rule: it had this audience for 172,")


async def test_all_log_services_of_a_target_are_asked(stack: Stack) -> None:
    assert await addresses_of("10.0.0.1:1,10.0.0.2:2") == ["10.0.0.1:1", "10.0.0.2:2"]
    port = stack.address.rpartition(":")[2]
    assert f"127.0.0.1:{port}" in await addresses_of(f"dns:///localhost:{port}")
    await report(stack, 7, "one", canary=CanaryCounts(3))
    services = LogServices(f"{stack.address},127.0.0.1:1")  # nothing listens on the second one
    try:
        (found,) = await services.canary_reports()
        assert (found.replica, found.canaries[NAME].canary.requests) == ("one", 3)
    finally:
        await services.close()
    nobody = LogServices("127.0.0.1:1")
    try:
        with pytest.raises(ErrataError):
            await nobody.canary_reports()
    finally:
        await nobody.close()


async def test_metrics_tell_what_was_counted(stack: Stack) -> None:
    async with stack.writer(stack.lane_model()) as writer:
        opened = (await Desk(writer).open()).seq
        await report(stack, opened, "one", canary=CanaryCounts(10, errors=2), rest=CanaryCounts(90))
        await wait_for(writer, lambda counts: counts.canary.requests == 10)
        found = {
            (sample.name, sample.labels.get("arm", "")): sample.value
            for metric in LedgerCollector(writer.ledger, writer.canaries.tally).collect()
            for sample in metric.samples
            if "canar" in sample.name
        }
        assert found == {
            ("errata_open_canaries", ""): 1.0,
            ("errata_canary_requests", "canary"): 10.0,
            ("errata_canary_requests", "rest"): 90.0,
            ("errata_canary_errors", "canary"): 2.0,
            ("errata_canary_errors", "rest"): 0.0,
        }
