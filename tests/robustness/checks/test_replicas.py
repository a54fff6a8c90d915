"""Replicas: never stale, never half, never astray; with the writer of a real stack."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest

from errata.artifacts.remote import RemoteArtifacts
from errata.errors import ArtifactCorruptError, EditNotRevertibleError
from errata.platform.failpoints import configure_failpoints
from errata.platform.server import open_channel
from errata.retrieval.deciding import RoutingQuery
from errata.retrieval.replica import RetrievalReplica
from tests.integration.retrieval.stack import FACTS, PROMPTS, Stack, answer_of, revert, submit
from tests.waiting import PATIENCE

_FITS_SECONDS = 60.0  # a writer whose model is not the log's ends, and then no fit ever does


async def _asked(replica: RetrievalReplica, min_seq: int) -> tuple[int, list[set[str]]]:
    """Under which position it answers, and which edits claim each prompt."""
    state, decisions = await replica.route(
        RoutingQuery(PROMPTS), at_seq=None, min_seq=min_seq, timeout_seconds=PATIENCE
    )
    return state.seq, [{claim.edit for claim in decision.claims.values()} for decision in decisions]


@pytest.mark.promise("P5", "P6")
async def test_answers_wait_for_what_was_applied_not_for_what_is_known(stack: Stack) -> None:
    async with stack.writer(stack.lane_model()) as writer, stack.retrieval() as replica:
        for fact in FACTS[:3]:
            configure_failpoints("replica.before_apply=delay:0.4")
            _, seq = await submit(writer, fact)
            at, claims = await _asked(replica, seq)
            assert at >= seq
            assert any(claims), "an edit in force claims its own prompt"
            configure_failpoints("")


@pytest.mark.promise("P7", "P9", "P11")
async def test_each_position_has_the_state_of_its_prefix(stack: Stack) -> None:
    """A batch is there wholly, a reversal takes what it names, and all replicas agree."""
    async with stack.writer(stack.lane_model()) as writer, stack.retrieval() as one:
        configure_failpoints("retrieval.before_position=delay:0.02")
        states: dict[int, tuple[int, str]] = {}

        async def watch() -> None:
            while True:
                state = one.latest
                found = (sum(state.num_edits.values()), state.state_digest)
                assert states.setdefault(state.seq, found) == found
                await asyncio.sleep(0.002)

        watching = asyncio.create_task(watch())
        names, first = await submit(writer, *FACTS[:3])
        reverted = await revert(writer, names[0])
        _, second = await submit(writer, FACTS[3])
        await _asked(one, second)
        await asyncio.sleep(0.05)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert not isinstance(watching.cancelled() or watching.exception(), AssertionError)
        counts = [states[seq][0] for seq in (first, reverted, second)]
        assert counts == [3, 2, 3]
        assert len({states[seq][1] for seq in (first, reverted, second)}) == 3
        _, claims = await _asked(one, second)
        assert names[0] not in set().union(*claims)
        configure_failpoints("")
        async with stack.retrieval() as other:
            assert other.latest.state_digest == one.latest.state_digest
            assert other.latest.num_edits == one.latest.num_edits
            assert await _asked(other, second) == await _asked(one, second)


@pytest.mark.promise("P11")
async def test_an_edit_is_reverted_once_whoever_asks(stack: Stack) -> None:
    async with stack.writer(stack.lane_model()) as writer:
        (name,), _ = await submit(writer, FACTS[0])
        key = str(uuid.uuid4())
        configure_failpoints("log.append.after_redis=error@1")  # the answer is lost, once
        seq, _ = await writer.revert(key, [name], "", "test", PATIENCE)
        again, _ = await writer.revert(key, [name], "", "test", PATIENCE)
        assert again == seq
        with pytest.raises(EditNotRevertibleError):
            await writer.revert(str(uuid.uuid4()), [name], "", "test", PATIENCE)


@pytest.mark.promise("P9")
async def test_a_fit_leaves_nothing_behind_on_the_writers_model(stack: Stack) -> None:
    """What the writer measures next must be the log's state, without its own trials."""
    async with stack.writer(stack.lane_model()) as writer, stack.worker() as worker:
        async with asyncio.timeout(_FITS_SECONDS):
            await submit(writer, *FACTS[:2])
            _, seq = await submit(writer, FACTS[2])
        await answer_of(worker, PROMPTS[0], seq)
        async with writer._edited.exclusive():
            await writer._edited.apply_all()
            assert writer._applier.digest() == worker.engine.version.state_digest


@pytest.mark.promise("P7", "P10")
async def test_a_flipped_bit_of_an_artifact_is_refused(stack: Stack, tmp_path: Path) -> None:
    async with stack.writer(stack.lane_model()) as writer:
        await submit(writer, *FACTS[:2])
    paths = sorted((tmp_path / "artifacts").glob("*/*.safetensors"))
    assert len(paths) >= 2
    async with open_channel(stack.address) as channel:
        source = RemoteArtifacts(channel)
        for path in paths:
            size = path.stat().st_size
            assert await source.get(path.stem, size)
            _flip(path, -2)
            with pytest.raises(ArtifactCorruptError):
                await source.get(path.stem, size)
            with pytest.raises(ArtifactCorruptError):
                await stack.store.get(path.stem)


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
