"""Counts of shaped answers: from a gateway's counter over gRPC to the answer of the catalog."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import grpc

from errata.gateway.shaped import ShapedAnswers
from errata.platform.addresses import free_port
from errata_client._gen.errata.v1 import catalog_pb2
from tests.integration.catalog.rig import Rig, Served, edit
from tests.waiting import PATIENCE


def answer(*edits: str) -> Any:
    return SimpleNamespace(provenance=SimpleNamespace(edits=edits))


async def counts(served: Served) -> dict[str, int]:
    request = catalog_pb2.ShapedAnswersRequest()
    response = await served.stub.ShapedAnswers(request, timeout=PATIENCE)
    return {count.edit: count.answers for count in response.counts}


async def test_what_a_gateway_counts_is_stored_once(rig: Rig) -> None:
    first, second = await rig.request(edit("Pisa is in Pisa"), edit("Pisa was in Pisa"))
    shaped = ShapedAnswers()
    shaped.note(answer(first, second))
    shaped.note(answer(first))
    shaped.note(answer())
    async with rig.serving() as served:
        assert await shaped.report(served.channel)
        assert await counts(served) == {first: 2, second: 1}
        assert await shaped.report(served.channel), "nothing new"
        shaped.note(answer(second))
        assert await shaped.report(served.channel)
        assert await counts(served) == {first: 2, second: 2}
    async with rig.serving() as served:
        assert await counts(served) == {first: 2, second: 2}, "they outlive the catalog"


async def test_a_report_without_an_answer_is_sent_again(rig: Rig) -> None:
    (first,) = await rig.request(edit("Pisa is in Pisa"))
    shaped = ShapedAnswers()
    shaped.note(answer(first))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{free_port()}") as nobody:
        assert not await shaped.report(nobody)
    shaped.note(answer(first))
    async with rig.serving() as served:
        assert not await shaped.report(served.channel), "the later one is still to come"
        assert await shaped.report(served.channel)
        assert await counts(served) == {first: 2}
