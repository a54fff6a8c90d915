"""Previews on a real log: what they say comes true, and nothing of them remains."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from errata.errors import InvalidEditError, LimitExceededError, QueueFullError, UnavailableError
from errata.writer.conflicts import Kind
from errata.writer.intake import Draft
from errata.writer.preview import Preview
from errata.writer.writer import Writer
from tests.integration.retrieval.stack import FACTS, LANE, LIMITS, PROMPTS, Stack, submit
from tests.integration.retrieval.test_compaction import CONFIGS
from tests.integration.retrieval.test_snapshots import ADAPLE, snapshot_after, writing
from tests.waiting import PATIENCE


def draft(number: int = 0, target: str = "") -> Draft:
    prompt, given = FACTS[number]
    return Draft(prompt, target or given, "", (f"Well. {prompt}",), (PROMPTS[3],), "a ticket")


async def previewed(writer: Writer, *drafts: Draft, lane: str = LANE) -> list[Preview]:
    _, made = await writer.preview(drafts, lane, PATIENCE)
    return made


async def set_probes(writer: Writer, *prompts: str) -> int:
    return await writer.set_probes(str(uuid.uuid4()), prompts, "test")


METHODS: dict[str, tuple[str, dict[str, Any] | None]] = {
    "elder": ("elder", CONFIGS["elder"]),
    "adaple": ("adaple", ADAPLE),
    "lemoe": ("lemoe", {**CONFIGS["lemoe"], "expert_edits": 2, "max_wait_seconds": 0.0}),
}


@pytest.mark.parametrize("method", METHODS)
async def test_a_preview_comes_true_and_leaves_nothing_behind(stack: Stack, method: str) -> None:
    name, config = METHODS[method]
    async with stack.writer(None, name, config=config) as writer:
        await submit(writer, FACTS[1])
        await set_probes(writer, PROMPTS[0], "Therefore it rains. You know")
        await previewed(writer, draft(2))  # the first one applies the log
        seq, digest = writer.ledger.seq, writer._applier.digest()
        (preview,) = await previewed(writer, draft())
        assert (writer.ledger.seq, writer._applier.digest()) == (seq, digest)
        assert preview.error is None
        assert [answer.prompt for answer in preview.answers] == [PROMPTS[0], f"Well. {PROMPTS[0]}"]
        assert [answer.prompt for answer in preview.probes] == [PROMPTS[3]]
        changed = [answer.prompt for answer in preview.probe_set if answer.changed]
        assert PROMPTS[0] in changed, "control: an edit changes something"

        _, (record,) = await writer.submit(str(uuid.uuid4()), [draft()], LANE, "test")
        settled = lambda: writer.ledger.get(record.edit.name).state.settled  # noqa: E731
        await writer.ledger.wait_until(settled)
        assert writer.ledger.get(record.edit.name).figures == preview.figures
        (again,) = await previewed(writer, draft())
        for foretold, true in zip(
            (*preview.answers, *preview.probes, *preview.probe_set),
            (*again.answers, *again.probes, *again.probe_set),
            strict=True,
        ):
            assert true.before == foretold.after
        assert again.figures is not None


async def test_what_would_be_superseded_is_named_at_once(stack: Stack) -> None:
    async with stack.writer(stack.lane_model()) as writer:
        (name,), _ = await submit(writer, FACTS[0])
        (preview,) = await previewed(writer, draft(target="Dutch"))
        assert [(each.kind, each.name) for each in preview.conflicts] == [(Kind.SUPERSEDES, name)]
        _, (record,) = await writer.submit(str(uuid.uuid4()), [draft(target="Dutch")], LANE, "test")
        (conflict,) = writer.ledger.conflicts_of([record.edit], LANE)
        assert conflict.name == name


async def test_what_would_fail_its_check_says_why(stack: Stack) -> None:
    limits = LIMITS.model_copy(update={"min_reliability": 1.0, "min_locality": 1.0})
    async with stack.writer(stack.lane_model(), limits=limits) as writer:
        # It claims everything, so no probe keeps its answer.
        (preview,) = await previewed(writer, draft())
        assert preview.error is not None
        assert preview.error.reason == "CHECK_FAILED"
        assert preview.figures is not None
        assert all(answer.after is None and not answer.changed for answer in preview.answers)


async def test_a_real_edit_goes_first(stack: Stack) -> None:
    async with stack.writer(stack.lane_model()) as writer:
        await submit(writer, FACTS[1])
        async with writer._edited.exclusive():
            asked = asyncio.create_task(writer.preview([draft()], LANE, PATIENCE))
            await asyncio.sleep(0.1)  # it waits for its turn before the edit exists
            _, (record,) = await writer.submit(
                str(uuid.uuid4()), [Draft(*FACTS[2], "", (), (), "")], LANE, "test"
            )
        seq, _ = await asked
        assert 0 < writer.ledger.get(record.edit.name).commit_seq <= seq


async def test_few_previews_wait(stack: Stack) -> None:
    limits = LIMITS.model_copy(update={"max_previews": 1, "max_batch_edits": 2})
    async with stack.writer(stack.lane_model(), limits=limits) as writer:
        async with writer._edited.exclusive():  # as a fit does
            with pytest.raises(UnavailableError, match="did not get its turn"):
                await writer.preview([draft()], LANE, 0.0)
            with pytest.raises(QueueFullError, match="submit the edit"):
                await writer.preview([draft()], LANE, PATIENCE)
            with pytest.raises(LimitExceededError, match="the limit is 2"):
                await writer.preview([draft(number) for number in range(3)], LANE, PATIENCE)
        await writer._detached.drain()
        assert len(await previewed(writer, draft(), draft(1))) == 2, "the one that left is gone"


async def test_a_lane_that_gathers_previews_alone(stack: Stack) -> None:
    config = {**CONFIGS["lemoe"], "expert_edits": 2, "max_wait_seconds": 10 * PATIENCE}
    async with stack.writer(None, "lemoe", config=config) as writer:
        _, (record,) = await writer.submit(
            str(uuid.uuid4()), [Draft(*FACTS[1], "", (), (), "")], LANE, "test"
        )
        (preview,) = await previewed(writer, draft())
        assert preview.error is None
        assert not writer.ledger.get(record.edit.name).state.settled, "it still waits for others"


async def test_the_probe_set_survives_restarts_and_snapshots(stack: Stack) -> None:
    prompts = ("Therefore it rains. You know", PROMPTS[2])
    async with writing(stack) as writer, stack.worker():
        seq = await set_probes(writer, *prompts)
        with pytest.raises(InvalidEditError, match=r"prompts\[1\] is empty"):
            await set_probes(writer, "a", " ")
        with pytest.raises(LimitExceededError, match="the limit is 200"):
            await set_probes(writer, *["a"] * 201)
        assert (writer.ledger.probes, writer.ledger.probes_seq) == (prompts, seq)
        await submit(writer, FACTS[0])
        await snapshot_after(stack, seq)
    async with writing(stack) as writer:
        assert (writer.ledger.probes, writer.ledger.probes_seq) == (prompts, seq)
        emptied = await set_probes(writer)
        assert (writer.ledger.probes, writer.ledger.probes_seq) == ((), emptied)
