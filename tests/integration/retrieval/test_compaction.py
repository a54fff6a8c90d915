"""Compaction of a running lane: every replica changes at one position, or nothing changes."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from errata.editing.lemoe.config import LemoeConfig
from errata.editing.lemoe.lane import LemoeLane
from errata.errors import (
    CheckFailedError,
    InvalidRequestError,
    PreconditionError,
    QueueFullError,
    RequestIdReusedError,
    UnavailableError,
    UnknownLaneError,
)
from errata.writer.compaction import CompactionOptions
from errata.writer.intake import Draft
from tests.integration.log.harness import eventually
from tests.integration.retrieval.stack import (
    FACTS,
    LANE,
    PROMPTS,
    Stack,
    answer_of,
    revert,
    submit,
)
from tests.unit.editing import elder_models, lemoe_models

CONFIGS: dict[str, dict[str, Any]] = {
    "lemoe": {**lemoe_models.SMALL.model_dump(mode="json"), "max_wait_seconds": 0.0},
    # Learned to the end: in fp32 and in bf16, which CPUs with tile units fit in, every token's
    # log-probability is then within .02 of what more steps give. After 100 smaller steps one is 2
    # below, and in bf16 another token goes before it.
    "elder": {**elder_models.SMALL.model_dump(mode="json"), "steps": 300, "learning_rate": 2e-2},
}


def _request() -> str:
    return str(uuid.uuid4())


@pytest.mark.promise("P7", "P11")
@pytest.mark.parametrize("method", CONFIGS)
async def test_a_compacted_lane_answers_as_before_and_knows_reverted_edits_no_more(
    stack: Stack, method: str
) -> None:
    async with stack.writer(None, method, config=CONFIGS[method]) as writer:
        names, _ = await submit(writer, *FACTS)
        at = await revert(writer, names[1])
        async with stack.worker() as worker, stack.retrieval() as service:
            before = await asyncio.gather(*[answer_of(worker, p, at) for p in PROMPTS])
            request, order = _request(), CompactionOptions()
            seq, made = await writer.compact(request, LANE, order, "test", 60.0)
            assert made is not None
            assert (made.before.reliability, made.after.reliability) == (1.0, 1.0)
            assert made.edits == (names[0], *names[2:])
            after = await asyncio.gather(*[answer_of(worker, p, seq) for p in PROMPTS])
            assert after[1] == before[1], "what was reverted is answered by the base model"
            for number, (_, target) in enumerate(FACTS):
                if number != 1:
                    text, edits = after[number]
                    assert text.startswith(f" {target}")
                    assert edits == (names[number],)
            await eventually(lambda: service.latest.seq >= seq, "the service's position")
            digests = {worker.engine.version.state_digest, service.latest.state_digest}
            assert digests == {writer._applier.digest()}
            assert await writer.compact(request, LANE, order, "test", 60.0) == (seq, None)
            more, at = await submit(writer, ("Finland is known for its", "football"))
            answer, claimed = await answer_of(worker, "Finland is known for its", at)
            assert (answer.startswith(" football"), claimed) == (True, tuple(more))
        async with stack.worker() as late:
            assert await answer_of(late, PROMPTS[0], seq) == await answer_of(late, PROMPTS[0], at)
            assert (await answer_of(late, PROMPTS[0], at))[1] == (names[0],), "a fresh replica, too"
            assert late.engine.version.state_digest == writer._applier.digest()


async def test_experts_are_merged(stack: Stack) -> None:
    config = {**CONFIGS["lemoe"], "expert_edits": 1}
    async with stack.writer(None, "lemoe", config=config) as writer:
        await submit(writer, *FACTS)
        await eventually(lambda: writer.report(LANE).sizes["experts"] == 4, "the last commit")
        _, made = await writer.compact(
            _request(), LANE, CompactionOptions(num_experts=2), "test", 60.0
        )
        assert made is not None
        assert made.sizes_before["experts"] == 4
        sizes = writer.report(LANE).sizes
        assert sizes["experts"] == 2
        assert sizes["bytes"] < made.sizes_before["bytes"]
        names, seq = await submit(writer, ("Lyon is", "blue"))
        await eventually(lambda: writer.report(LANE).sizes["experts"] == 3, "the lane goes on")
        async with stack.worker() as worker:
            _, edits = await answer_of(worker, "Lyon is", seq)
            assert edits == tuple(names)


async def test_a_compaction_that_falls_short_changes_nothing(stack: Stack) -> None:
    async with stack.writer(None, "lemoe", config=CONFIGS["lemoe"]) as writer:
        _, seq = await submit(writer, *FACTS)
        await eventually(lambda: writer.report(LANE).sizes["edits"] == 4, "the last commit")
        digest, head = writer._applier.digest(), writer.ledger.seq
        spoiled = {**CONFIGS["lemoe"], "steps": 1}
        lane = writer._applier.lanes[LANE].lane
        assert isinstance(lane, LemoeLane)
        lane.config = LemoeConfig.model_validate(spoiled)
        request = _request()
        with pytest.raises(CheckFailedError, match="reliability would fall"):
            await writer.compact(request, LANE, CompactionOptions(), "test", 60.0)
        lane.config = LemoeConfig.model_validate(CONFIGS["lemoe"])
        with pytest.raises(CheckFailedError, match="reliability would fall"):
            await writer.compact(
                request, LANE, CompactionOptions(), "test", 0.1
            )  # who left learns it, too
        with pytest.raises(RequestIdReusedError):
            await writer.compact(request, LANE, CompactionOptions(num_experts=1), "test", 60.0)
        assert (writer._applier.digest(), writer.ledger.seq) == (digest, head)
        async with stack.worker() as worker:
            assert (await answer_of(worker, PROMPTS[0], seq))[1]


async def test_edits_of_other_lanes_go_between_compactions(stack: Stack) -> None:
    """Eight compactions in a row kept another lane's edit waiting beyond 48 s."""
    others = ("one", "two", "three", "four")
    async with stack.writer(None, "lemoe", config=CONFIGS["lemoe"], others=others) as writer:
        for name in others:
            await submit(writer, FACTS[0], lane=f"lanes/{name}")
        compactions = [
            asyncio.create_task(
                writer.compact(_request(), f"lanes/{name}", CompactionOptions(), "test", 120.0)
            )
            for name in others
        ]
        await asyncio.wait(compactions, timeout=0.01)
        names, committed = await submit(writer, FACTS[1])
        requested = int(names[0].removeprefix("edits/").split("-")[0])
        seqs = [seq for seq, _ in await asyncio.gather(*compactions)]
        assert sum(requested < seq < committed for seq in seqs) <= 1
        assert sum(seq > committed for seq in seqs) >= 3


async def test_a_lane_has_one_compaction_at_a_time(stack: Stack) -> None:
    async with stack.writer(None, "lemoe", config=CONFIGS["lemoe"], others=("one",)) as writer:
        await submit(writer, FACTS[0])
        await submit(writer, FACTS[0], lane="lanes/one")
        first, order = _request(), CompactionOptions()
        running = asyncio.create_task(writer.compact(first, LANE, order, "test", 120.0))
        await asyncio.wait((running,), timeout=0.01)
        with pytest.raises(QueueFullError, match=f"{LANE} is being compacted") as caught:
            await writer.compact(_request(), LANE, order, "test", 120.0)
        assert caught.value.retry_after_seconds
        await writer.compact(_request(), "lanes/one", order, "test", 120.0)
        assert (await writer.compact(first, LANE, order, "test", 120.0))[0] == (await running)[0]
        seq, made = await writer.compact(_request(), LANE, order, "test", 120.0)
        assert made is not None
        assert seq > (await running)[0]


async def test_what_cannot_be_compacted_is_refused(stack: Stack) -> None:
    async with stack.writer(None, "lemoe", config=CONFIGS["lemoe"]) as writer:
        await submit(writer, FACTS[0])

        async def refused(lane: str = LANE, wait: float = 60.0, **order: Any) -> None:
            await writer.compact(_request(), lane, CompactionOptions(**order), "test", wait)

        with pytest.raises(UnknownLaneError):
            await refused("lanes/nowhere")
        with pytest.raises(InvalidRequestError, match="9 experts for 1 edits"):
            await refused(num_experts=9)
        with pytest.raises(UnavailableError, match="still running; retry"):
            await refused(wait=0.0)
        used = _request()
        await writer.submit(used, [Draft(*FACTS[1], "", (), (), "")], LANE, "test")
        with pytest.raises(RequestIdReusedError):
            await writer.compact(used, LANE, CompactionOptions(), "test", 60.0)


async def test_a_method_that_carries_only_its_edits_has_nothing_to_compact(stack: Stack) -> None:
    async with stack.writer(stack.lane_model()) as writer:
        with pytest.raises(PreconditionError, match="nothing to compact"):
            await writer.compact(_request(), LANE, CompactionOptions(), "test", 60.0)
