"""A stream that fails ends with its error, and not as if it were complete."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from errata.errors import UnavailableError
from errata.gateway.http.openai_bodies import Bodies
from errata.gateway.http.openai_routes import events
from errata_client._gen.errata.v1 import inference_pb2


async def _pieces(
    *, fails: bool
) -> AsyncIterator[tuple[int, inference_pb2.StreamGenerateResponse]]:
    provenance = inference_pb2.Provenance(applied_seq=3)
    yield 0, inference_pb2.StreamGenerateResponse(text="a", provenance=provenance)
    if fails:
        raise UnavailableError("the replica stopped; try again.")
    yield (
        0,
        inference_pb2.StreamGenerateResponse(
            text="b", provenance=provenance, finish_reason=inference_pb2.FINISH_REASON_STOP
        ),
    )


async def test_an_error_is_the_last_event() -> None:
    bodies = Bodies("m", chat=True, with_tokens=False, num_choices=1)
    first, last = [each async for each in events(_pieces(fails=True), bodies)]
    assert b'"content":"a"' in first
    error = json.loads(last.removeprefix(b"data: "))["error"]
    assert (error["code"], error["type"]) == ("unavailable", "server_error")


async def test_a_complete_stream_says_so() -> None:
    bodies = Bodies("m", chat=False, with_tokens=False, num_choices=1, streamed_usage="last")
    *pieces, usage, done = [each async for each in events(_pieces(fails=False), bodies)]
    assert len(pieces) == 2
    assert b'"choices":[]' in usage
    assert done == b"data: [DONE]\n\n"
