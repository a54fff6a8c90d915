"""What a replica counts for the requests in a canary and for the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import pytest

from errata.editing.canaries import NO_CANARIES, Canaries, OpenCanary
from errata.editing.namespaces import DEFAULT_ONLY
from errata.engine.sequence import Piece, ScoredContinuation
from errata.errors import (
    DataLossError,
    DeadlineExceededError,
    ErrataError,
    InvalidRequestError,
    UnavailableError,
)
from errata.log.canary_entries import CanaryCounts
from errata.worker.canary_counts import CanaryCounter
from tests.unit.engine.helpers import VERSION

ALL_IN = OpenCanary("canaries/all", 7, "lanes/a", "", 1_000_000)
NONE_IN = OpenCanary("canaries/none", 9, "lanes/a", "", 0)
ELSEWHERE = OpenCanary("canaries/team", 9, "lanes/a", "team", 1_000_000)
CANARIES = Canaries(
    {one.name: one for one in (ALL_IN, NONE_IN, ELSEWHERE)}, {"edits/8-0": "canaries/all"}
)
ASKED = (DEFAULT_ONLY, "user-1")


def piece(*edits: str, num_tokens: int = 3, canaries: Canaries = CANARIES) -> Piece:
    return Piece("x", 2, num_tokens, "", replace(VERSION, canaries=canaries), edits)


async def stream(*pieces: Piece, error: Exception | None = None) -> AsyncGenerator[Piece, None]:
    for each in pieces:
        yield each
    if error is not None:
        raise error


async def ask(counter: CanaryCounter, pieces: AsyncGenerator[Piece, None]) -> list[Piece]:
    return [each async for each in counter.generation(pieces, ASKED, CANARIES)]


def without_time(counts: CanaryCounts) -> CanaryCounts:
    return replace(counts, microseconds=0)


async def test_an_answer_counts_once_in_the_arm_of_its_request() -> None:
    counter = CanaryCounter()
    given = [piece("edits/8-0", num_tokens=1), piece("edits/8-0", num_tokens=4)]
    assert await ask(counter, stream(*given)) == given
    await ask(counter, stream(piece("edits/2-0")))
    await ask(counter, stream(piece()))
    found = counter.report(CANARIES)
    assert found.keys() == {"canaries/all", "canaries/none"}, "the third concerns another namespace"
    one, other = found["canaries/all"], found["canaries/none"]
    assert (one.opened_seq, other.opened_seq) == (7, 9)
    assert without_time(one.canary) == CanaryCounts(3, 1, 2, 0, 10)
    assert one.rest == CanaryCounts()
    assert other.canary == CanaryCounts()
    assert without_time(other.rest) == CanaryCounts(3, 0, 2, 0, 10), "claims are of its own edits"
    assert one.canary.microseconds == other.rest.microseconds > 0


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (UnavailableError("no"), 1),
        (DataLossError("no"), 1),
        (ValueError("a bug"), 1),
        (InvalidRequestError("no"), 0),
        (DeadlineExceededError("no"), 0),
    ],
)
async def test_a_failure_counts_unless_it_is_the_requests_own(
    error: ErrataError | ValueError, counts: int
) -> None:
    counter = CanaryCounter()
    with pytest.raises(type(error)):
        await ask(counter, stream(piece(), error=error))

    async def failing() -> ScoredContinuation:
        raise error

    with pytest.raises(type(error)):
        await counter.score(failing(), ASKED, CANARIES)
    found = counter.report(CANARIES)
    if not counts:
        assert found == {}
        return
    assert without_time(found["canaries/all"].canary) == CanaryCounts(2, 0, 0, 2)


async def test_scores_are_counted_too() -> None:
    counter = CanaryCounter()
    made = ScoredContinuation((-1.0, -2.0), (1, 2), replace(VERSION, canaries=CANARIES), ())
    assert await counter.score(asyncio.sleep(0, made), ASKED, CANARIES) is made
    assert without_time(counter.report(CANARIES)["canaries/all"].canary) == CanaryCounts(
        1, tokens=2
    )


async def test_a_caller_who_leaves_is_not_counted_and_an_ended_canary_is_forgotten() -> None:
    counter = CanaryCounter()
    async with aclosing(counter.generation(stream(piece(), piece()), ASKED, CANARIES)) as pieces:
        await anext(pieces)
    assert counter.report(CANARIES) == {}
    await ask(counter, stream(piece()))
    await ask(counter, stream(piece(canaries=NO_CANARIES)))
    left = Canaries({NONE_IN.name: NONE_IN})
    assert counter.report(left).keys() == {"canaries/none"}
    assert counter.report(CANARIES).keys() == {"canaries/none"}
