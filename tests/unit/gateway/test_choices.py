"""The choices of one answer are of one state, even while edits are committed."""

from __future__ import annotations

import asyncio

import pytest

from errata.errors import NotFoundError, UnavailableError
from errata.gateway.http.choices import of_one_state
from errata_client._gen.errata.v1 import inference_pb2


def _request(number: int) -> inference_pb2.GenerateRequest:
    return inference_pb2.GenerateRequest(prompt=str(number))


def _answer(number: int, seq: int) -> inference_pb2.GenerateResponse:
    provenance = inference_pb2.Provenance(applied_seq=seq)
    return inference_pb2.GenerateResponse(text=str(number), provenance=provenance)


async def test_choices_of_older_positions_are_made_again() -> None:
    positions = {0: [4], 1: [3, 5], 2: [4]}
    asked: list[tuple[int, int]] = []

    async def ask(
        index: int, request: inference_pb2.GenerateRequest
    ) -> inference_pb2.GenerateResponse:
        asked.append((index, request.min_seq))
        found = positions[index]
        return _answer(index, found.pop(0) if found else max(request.min_seq, 5))

    answers = await of_one_state([_request(index) for index in range(3)], ask)
    assert [answer.text for answer in answers] == ["0", "1", "2"]
    assert {answer.provenance.applied_seq for answer in answers} == {5}
    # The second choice was older than 4; when it came at 5, the others were older.
    assert asked == [(0, 0), (1, 0), (2, 0), (1, 4), (0, 5), (2, 5)]


async def test_choices_that_never_agree_are_an_error() -> None:
    seqs = iter(range(100))

    async def ask(
        index: int, request: inference_pb2.GenerateRequest
    ) -> inference_pb2.GenerateResponse:
        return _answer(index, next(seqs))

    with pytest.raises(UnavailableError, match="one state"):
        await of_one_state([_request(0), _request(1)], ask)


async def test_a_failed_choice_cancels_the_others() -> None:
    cancelled = asyncio.Event()

    async def ask(
        index: int, request: inference_pb2.GenerateRequest
    ) -> inference_pb2.GenerateResponse:
        if index:
            raise NotFoundError("no.")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    with pytest.raises(NotFoundError):
        await of_one_state([_request(0), _request(1)], ask)
    assert cancelled.is_set()
