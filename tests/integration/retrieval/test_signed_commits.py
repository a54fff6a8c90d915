"""A running writer signs; running replicas refuse what it did not sign; keys are replaced."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from errata.artifacts.store import ArtifactStore
from errata.cli import app
from errata.errors import (
    CommitNotTrustedError,
    ErrataError,
    ImpossibleEntryError,
    LimitExceededError,
    StartupError,
)
from errata.log.entries import (
    EditsCommitted,
    Entry,
    EntryVoided,
    LaneCompacted,
    Payload,
    Signed,
)
from errata.log.payload_convert import decode, encode
from errata.log.signing.keys import SigningKey
from errata.log.signing.trust import TrustState
from errata.log.subscriber import Subscriber
from errata.platform.server import open_channel
from errata.writer.intake import Draft
from errata.writer.log_client import LogClient
from errata.writer.record import State
from errata.writer.signing import WriterKeys
from tests.integration.log.harness import eventually, smuggle
from tests.integration.retrieval.stack import FACTS, LANE, PROMPTS, Stack, answer_of, revert, submit
from tests.unit.editing import lemoe_models

KEY, NEW, STRANGER = SigningKey.generate(), SigningKey.generate(), SigningKey.generate()


async def _entries(stack: Stack) -> list[Entry]:
    async with open_channel(stack.address) as channel:
        head = (await LogClient(channel, "test").state()).head.seq
    found: list[Entry] = []
    async for batch in Subscriber(stack.address).batches():
        found += map(decode, batch.entries)
        if found[-1].seq >= head:
            return found
    raise AssertionError("the log ended")


async def _append(stack: Stack, payload: Payload) -> int:
    """Puts an entry into Redis, past the log service, which refuses it."""
    async with open_channel(stack.address) as channel:
        log = LogClient(channel, "intruder")
        await log.acquire_epoch()
        with pytest.raises(ErrataError):
            await log.append(str(uuid.uuid4()), payload, "intruder")
    data = encode(payload, "intruder").SerializeToString()
    return await asyncio.to_thread(smuggle, stack.redis, data)


async def _trust(stack: Stack) -> TrustState:
    trust = TrustState()
    for entry in await _entries(stack):
        trust = trust.after(entry)
    return trust


def _failure(check: Callable[[], None]) -> ErrataError | None:
    try:
        check()
    except ErrataError as error:
        return error
    return None


async def test_a_writer_with_a_key_signs_and_its_successor_can_replace_the_key(
    stack: Stack,
) -> None:
    model = stack.lane_model()
    async with stack.writer(model, keys=WriterKeys(KEY)) as writer:
        names, _ = await submit(writer, *FACTS[:2])
    assert set((await _trust(stack)).keys) == {KEY.key_id}
    entries = await _entries(stack)
    assert [type(entry.payload).__name__ for entry in entries[:3]] == [
        "KeysTrusted",
        "LaneConfigured",
        "LaneModelCommitted",
    ]
    async with stack.writer(model, keys=WriterKeys(KEY)) as writer:
        assert len(await _entries(stack)) == len(entries), "a restart appends nothing"
    async with stack.writer(model, keys=WriterKeys(NEW, previous=KEY)) as writer:
        await revert(writer, names[0])
        (newest,), at = await submit(writer, FACTS[2])
        assert set((await _trust(stack)).keys) == {NEW.key_id}
        async with stack.worker() as worker, stack.retrieval() as service:
            answers = await asyncio.gather(*[answer_of(worker, p, at) for p in PROMPTS])
            assert {edits for _, edits in answers} <= {(names[1],), (newest,)}
            worker.check_health()
            service.check_health()
    async with stack.writer(model, keys=WriterKeys(NEW, previous=KEY)):
        pass  # the setting may stay
    for keys, message in (
        (WriterKeys(KEY), "does not trust the writer's key"),
        (WriterKeys(STRANGER, previous=KEY), "does not trust the writer's key"),
        (WriterKeys(), "must be signed, and the writer has no key"),
    ):
        with pytest.raises(ExceptionGroup) as refused:
            async with stack.writer(model, keys=keys):
                pass
        assert refused.group_contains(StartupError, match=message)


async def test_a_log_from_before_goes_on_and_is_signed_from_the_first_key_on(stack: Stack) -> None:
    model = stack.lane_model()
    async with stack.worker() as worker, stack.retrieval() as service:
        async with stack.writer(model) as writer:
            _, before = await submit(writer, FACTS[0])
            await answer_of(worker, PROMPTS[0], before)
        assert not (await _trust(stack)).has_begun
        async with stack.writer(model, keys=WriterKeys(KEY)) as writer:
            _, at = await submit(writer, FACTS[1])
            answers = [await answer_of(worker, prompt, at) for prompt in PROMPTS[:2]]
            assert all(edits for _, edits in answers)
            trust = await _trust(stack)
            assert trust.since > before
            assert worker.engine.version.state_digest
            service.check_health()


@pytest.mark.parametrize("kind", ["unsigned", "stranger", "repeated"])
async def test_replicas_stop_before_a_commit_that_the_writer_did_not_sign(
    stack: Stack, kind: str
) -> None:
    async with stack.writer(stack.lane_model(), keys=WriterKeys(KEY)) as writer:
        _, at = await submit(writer, FACTS[0])
    async with stack.worker() as worker, stack.retrieval() as service:
        commit = next(e.payload for e in await _entries(stack) if e.seq == at)
        assert isinstance(commit, Signed)
        trust = await _trust(stack)
        payload: dict[str, Payload] = {
            "unsigned": replace(commit, signature=None),
            "stranger": replace(commit, signature=trust.signature(commit, STRANGER)),
            "repeated": commit,
        }
        seq = await _append(stack, payload[kind])
        for check in (worker.check_health, service.check_health):
            failure = await eventually(lambda check=check: _failure(check), "it leaves rotation")
            assert isinstance(failure, ImpossibleEntryError), failure
            assert failure.metadata["seq"] == str(seq)
        assert worker.engine.version.seq == service.latest.seq == seq - 1
    with pytest.raises(ExceptionGroup) as refused:
        async with stack.writer(stack.lane_model(), keys=WriterKeys(KEY)):
            pass
    assert refused.group_contains(ImpossibleEntryError)


async def test_pinned_replicas_accept_no_other_beginning(stack: Stack, tmp_path: Path) -> None:
    async with stack.writer(stack.lane_model(), keys=WriterKeys(KEY)) as writer:
        _, at = await submit(writer, FACTS[0])
    pins = tmp_path / "pins"
    pins.write_text(KEY.key_id)
    async with stack.worker(trusted_keys_file=pins) as worker:
        assert (await answer_of(worker, PROMPTS[0], at))[1]
    pins.write_text(NEW.key_id)
    with pytest.raises(CommitNotTrustedError, match="does not name"):
        async with stack.worker(trusted_keys_file=pins):
            pass
    with pytest.raises(CommitNotTrustedError, match="does not name"):
        async with stack.retrieval(trusted_keys_file=pins):
            pass


async def test_an_artifact_above_the_limit_is_rejected_by_the_writer(stack: Stack) -> None:
    stack.store = ArtifactStore(str(stack.folder / "artifacts"), max_bytes=1_024)
    config = lemoe_models.SMALL.model_dump(mode="json")
    async with stack.writer(None, "lemoe", config=config, keys=WriterKeys(KEY)) as writer:
        drafts = [Draft(*FACTS[0], "", (), (), "")]
        seq, _ = await writer.submit(str(uuid.uuid4()), drafts, LANE, "test")
        await writer.ledger.wait_until(
            lambda: all(record.state.settled for record in writer.ledger.of_request(seq))
        )
        (record,) = writer.ledger.of_request(seq)
        assert record.state is State.REJECTED
        assert isinstance(record.error, LimitExceededError)


async def test_verify_reads_a_redis_and_finds_an_intruders_entry(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stack.writer(stack.lane_model(), keys=WriterKeys(KEY)) as writer:
        await submit(writer, FACTS[0])
    monkeypatch.setenv("ERRATA_LOG__WITNESS_PATH", str(tmp_path / "witness"))
    store, export = str(tmp_path / "artifacts"), tmp_path / "export"
    command = ["verify", "--redis-url", stack.redis.url, "--artifacts", store, "--json"]

    def run(*more: str) -> tuple[int, dict[str, object]]:
        done = CliRunner().invoke(app, [*command, *more], catch_exceptions=False)
        return done.exit_code, json.loads(done.output)

    code, found = await asyncio.to_thread(run, "--export", str(export))
    assert (code, found["ok"]) == (0, True), found
    assert len(export.read_text().splitlines()) == found["head_seq"]
    payloads = [entry.payload for entry in await _entries(stack)]
    artifact = next(each.artifact for each in payloads if isinstance(each, EditsCommitted))
    seq = await _append(stack, LaneCompacted(LANE, (), artifact, 0, "model"))
    code, found = await asyncio.to_thread(run)
    assert code == 1
    problems = found["problems"]
    assert isinstance(problems, list)
    assert [(each["seq"], each["check"]) for each in problems] == [(seq, "signatures")]
    async with open_channel(stack.address) as channel:
        log = LogClient(channel, "operator")
        await log.acquire_epoch()
        await log.append(str(uuid.uuid4()), EntryVoided(seq, "an intruder"), "operator")
    code, found = await asyncio.to_thread(run)
    assert (code, found["problems"]) == (0, []), "readers skip what is voided"
