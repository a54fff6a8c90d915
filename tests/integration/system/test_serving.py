"""The engine as clients see it: sampling, floods, readers that leave, replicas that die."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import psutil
import pytest

from errata_client import (
    AsyncClient,
    Client,
    LimitExceededError,
    QueueFullError,
    Sampling,
    UnavailableError,
)
from tests.integration.log.harness import eventually
from tests.integration.system.conftest import MAX_QUEUE, System
from tests.integration.system.rows import num_finished, num_running
from tests.waiting import PATIENCE

PROMPT = "The capital of France is"
# So hot, hardly a text ends by itself before its last token.
_HOT = Sampling(temperature=9.0, seed=1)
_FLOOD = 8 * MAX_QUEUE


def test_a_seed_gives_the_same_text_on_every_replica(client: Client) -> None:
    def ask(seed: int) -> set[str]:
        sampling = Sampling(temperature=1.5, top_p=0.98, top_k=200, seed=seed)
        found = client.generate_everywhere(PROMPT, max_tokens=12, sampling=sampling)
        return {item.answer.text for item in found if item.answer}

    first = ask(11)
    assert len(first) == 1
    assert ask(11) == first
    assert any(ask(seed) != first for seed in range(12, 16)), "another seed must matter"
    unseeded = {
        client.generate(PROMPT, max_tokens=12, sampling=Sampling(temperature=2.0)).text
        for _ in range(6)
    }
    assert len(unseeded) > 1


def test_log_probabilities_are_those_of_scoring(client: Client) -> None:
    answer = client.generate(PROMPT, max_tokens=3, num_alternatives=2)
    assert "".join(choice.token for choice in answer.tokens).strip() == answer.text.strip()
    scored = client.score(PROMPT, answer.text.strip())
    for choice, token in zip(answer.tokens, scored.tokens, strict=False):
        assert choice.token_id == token.token_id
        assert choice.log_probability == pytest.approx(token.log_probability, abs=1e-3)
        assert len(choice.alternatives) == 2
        assert choice.alternatives[0].token_id == choice.token_id, "greedy takes the likeliest"
    chunks = list(client.stream(PROMPT, max_tokens=3, num_alternatives=0))
    streamed = [choice for chunk in chunks for choice in chunk.tokens]
    assert [c.token_id for c in streamed] == [c.token_id for c in answer.tokens]


def test_thousands_of_stop_texts_are_refused(client: Client) -> None:
    with pytest.raises(LimitExceededError) as caught:
        client.generate(PROMPT, stop=[f"stop {index}" for index in range(5_000)])
    assert caught.value.field == "stop"


async def test_a_flood_is_pushed_back_and_others_are_served(system: System) -> None:
    """Past the queues of both replicas a delay is told; nothing is lost, nothing breaks.

    The texts are long: one client may not ask faster than two replicas answer with a few words.
    """
    async with AsyncClient(system.target, timeout=PATIENCE) as client:

        async def one() -> str:
            try:
                await client.generate(PROMPT, max_tokens=60, sampling=_HOT)
            except QueueFullError as error:
                return "refused" if error.retry_after_seconds else "refused without a delay"
            except UnavailableError:
                return "unavailable"
            return "answered"

        told = Counter(await asyncio.gather(*[one() for _ in range(_FLOOD)]))
        assert told["refused"] > 0, told
        assert told["answered"] >= MAX_QUEUE, told
        assert sum(told.values()) == _FLOOD
        assert set(told) == {"refused", "answered"}, told
        assert (await client.generate(PROMPT, max_tokens=4)).text


async def test_readers_that_go_away_free_their_rows(system: System) -> None:
    """A row that is read to its end is counted as finished; of those that were left, some are not.

    On a fast machine many are: a replica may be done before its reader has left. Were rows not
    freed, all would be. A cool text has ended before anybody can leave.
    """
    async with AsyncClient(system.target, timeout=PATIENCE) as client:
        before = num_finished(system)
        [_ async for _ in client.stream(PROMPT, max_tokens=450, sampling=_HOT)]
        assert num_finished(system) == before + 1
        for _ in range(40):
            stream = client.stream(PROMPT, max_tokens=450, sampling=_HOT)
            await anext(stream)
            await stream.aclose()
        await eventually(lambda: num_running(system) == 0, "no row is left")
        assert num_finished(system) <= before + 36


def _worker_processes() -> list[psutil.Process]:
    mine = psutil.Process().children(recursive=True)
    return [p for p in mine if any("ServeReplica" in part for part in p.cmdline())]


class _Readers:
    """Streams that are read beside one another, and what became of each."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self.tasks: list[asyncio.Task[str]] = []
        self.chunks = 0
        self._in_the_middle = 0

    def start(self, number: int) -> None:
        self.tasks += [asyncio.create_task(self._read()) for _ in range(number)]

    async def _read(self) -> str:
        has_begun = False
        try:
            async for _ in self._client.stream(PROMPT, max_tokens=230):
                self.chunks += 1
                self._in_the_middle += not has_begun
                has_begun = True
        except UnavailableError as error:
            return "told" if "the replica stopped" in error.message else error.message
        finally:
            self._in_the_middle -= has_begun
        return "whole"

    async def stand_still(self) -> bool:
        """Waits until nothing comes any more; whether a stream is in its middle then.

        One that has brought nothing yet may not have been taken by its replica, and goes to the
        other one when that dies.
        """
        before = -1
        while before != self.chunks:
            before = self.chunks
            await asyncio.sleep(1)
        return self._in_the_middle > 0


async def test_a_replica_that_dies_ends_streams_clearly_and_unary_calls_go_elsewhere(
    system: System,
) -> None:
    workers = _worker_processes()
    assert len(workers) == 2
    async with AsyncClient(system.target, timeout=PATIENCE) as client:
        readers = _Readers(client)
        deadline = time.monotonic() + PATIENCE
        # A replica is faster than its readers, and a burst may go to one replica: it is stopped
        # first, so that it surely dies in the middle of streams.
        while True:
            assert time.monotonic() < deadline, "no stream was open on the replica"
            readers.start(8)
            chunks = readers.chunks
            while readers.chunks == chunks:
                await asyncio.sleep(0.01)
            workers[0].suspend()
            if await readers.stand_still():
                break
            workers[0].resume()
        readers.start(4)
        unary = [asyncio.create_task(client.generate(PROMPT, max_tokens=200)) for _ in range(12)]
        await asyncio.sleep(0.5)
        workers[0].kill()
        told = Counter(await asyncio.gather(*readers.tasks))
        answers = await asyncio.gather(*unary)
        assert told["told"] > 0, told
        assert told["whole"] > 0, told
        assert set(told) == {"told", "whole"}, told
        assert len({answer.text for answer in answers}) == 1
        deadline = time.monotonic() + PATIENCE
        while len(await client.generate_everywhere(PROMPT, max_tokens=2)) < 2:
            assert time.monotonic() < deadline, "Serve must replace the replica"
            await asyncio.sleep(0.5)
        restored = await client.generate_everywhere(PROMPT, max_tokens=4)
        digests = {a.answer.provenance.state_digest for a in restored if a.answer}
        assert len(digests) == 1
