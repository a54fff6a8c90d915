"""The writer's parts without a model or a log service: reverts, start-up, fencing."""

import asyncio
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from errata.artifacts.store import ArtifactStore
from errata.editing.edit import Edit
from errata.editing.model.causal_lm import CausalLM
from errata.errors import EditNotRevertibleError, EpochLostError, UnavailableError
from errata.log.entries import (
    ArtifactRef,
    EditsCommitted,
    EditsRequested,
    Entry,
    Figures,
    LaneConfigured,
    Payload,
)
from errata.log.subscriber import Subscriber
from errata.platform.detached import Detached
from errata.replica.applier import Applier
from errata.writer.compaction import Order
from errata.writer.compaction_requests import CompactionRequests
from errata.writer.edited_model import EditedModel
from errata.writer.ledger import EditLedger, State
from errata.writer.log_client import LogClient
from errata.writer.publish import Publisher
from errata.writer.reversals import Reversals

LANE = "lanes/main"
TIME = datetime(2026, 1, 1, tzinfo=UTC)
REF = ArtifactRef("ab" * 32, 1)
NAMES = ("edits/2-0", "edits/2-1")


class _Log:
    """A log whose entries reach the ledger at once; it can be unavailable or fenced."""

    def __init__(self, ledger: EditLedger) -> None:
        self.entries: list[Entry] = []
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.is_fenced = False
        self._ledger = ledger

    async def append(self, request_id: str, payload: Payload, author: str) -> int:
        await self.is_open.wait()
        if self.is_fenced:
            raise EpochLostError("a newer writer took over.")
        known = self._ledger.seq_of_request(request_id)
        if known is not None:
            return known
        self.entries.append(Entry(len(self.entries) + 1, request_id, TIME, author, payload))
        await self._ledger.fold(self.entries[-1:])
        return len(self.entries)


class _Applier:
    """Counts the entries that it applies."""

    def __init__(self) -> None:
        self.lanes: dict[str, Any] = {}
        self.applied: list[int] = []

    async def prepare(self, entry: Entry) -> None:
        self.applied.append(entry.seq)


class _Model(EditedModel):
    """Answers the edits that a test names."""

    def __init__(self) -> None:
        self.applier = _Applier()
        super().__init__(
            cast("CausalLM", None), cast("Applier", self.applier), cast("Subscriber", None)
        )
        self.answers: list[bool] = []

    async def answered(self, edits: Sequence[Edit]) -> dict[str, bool]:
        return dict.fromkeys([edit.name for edit in edits], self.answers.pop(0))


class _Bench:
    """Two committed edits of one subject, of which the second depended on the first."""

    def __init__(self) -> None:
        self.edited = _Model()
        self.ledger = self.edited.ledger
        self.log = _Log(self.ledger)
        store = ArtifactStore(f"memory://{uuid.uuid4()}")
        self.publisher = Publisher(cast("LogClient", self.log), store, self.ledger, "base")
        self.detached = Detached()
        self.reversals = Reversals(self.edited, self.publisher, self.detached)

    async def fill(self) -> None:
        edits = tuple(Edit(name, f"prompt of {name}", "target", "subject") for name in NAMES)
        payloads: list[Payload] = [
            LaneConfigured(LANE, "adaple", "{}", "c", "base"),
            EditsRequested(LANE, edits, ("", ""), (False, False)),
        ]
        figures = (Figures(1, None, 1, False),)
        payloads += [EditsCommitted(LANE, (n,), figures, REF, None, 1, "base", "c") for n in NAMES]
        for payload in payloads:
            await self.publisher.append(str(uuid.uuid4()), payload, "test")
        self.edited._unapplied.extend(self.log.entries)


@pytest.fixture
async def bench() -> _Bench:
    bench = _Bench()
    await bench.fill()
    return bench


async def test_a_retry_joins_the_revert_that_is_running(bench: _Bench) -> None:
    """Or it would not learn which edits are no longer answered: the first caller has left."""
    bench.edited.begin()
    bench.edited.answers = [True, False]
    bench.log.is_open.clear()
    request = str(uuid.uuid4()), NAMES[:1], "", "test"
    with pytest.raises(UnavailableError, match="retry with the same request id"):
        await bench.reversals.revert(*request, 0.0)
    retry = asyncio.create_task(bench.reversals.revert(*request, 60.0))
    await asyncio.sleep(0)
    bench.log.is_open.set()
    seq, meanings = await retry
    assert seq == 5
    assert "No longer answered: edits/2-1" in meanings[-1]
    assert len(bench.log.entries) == 5, "one entry"
    assert await bench.reversals.revert(*request, 60.0) == (5, meanings[:1])
    with pytest.raises(EditNotRevertibleError):
        await bench.reversals.revert(str(uuid.uuid4()), NAMES[:1], "", "test", 60.0)


async def test_a_revert_ends_although_its_caller_leaves(bench: _Bench) -> None:
    bench.edited.begin()
    bench.edited.answers = [True, True]
    bench.log.is_open.clear()
    revert = bench.reversals.revert(str(uuid.uuid4()), NAMES[:1], "", "test", 60.0)
    caller = asyncio.create_task(revert)
    await asyncio.sleep(0.01)
    caller.cancel()
    bench.log.is_open.set()
    await bench.detached.drain()
    assert bench.ledger.get(NAMES[0]).state is State.REVERTED


async def test_the_model_has_its_base_weights_until_statistics_are_taken(bench: _Bench) -> None:
    """A revert or a compaction during start-up once applied the log beside the statistics."""
    _, meanings = await bench.reversals.revert(str(uuid.uuid4()), NAMES[:1], "", "test", 60.0)
    assert len(meanings) == 1, "what depended on it cannot be checked yet"
    compactions = CompactionRequests(bench.edited, bench.publisher, bench.detached)
    request = str(uuid.uuid4()), LANE, Order(), "test"
    with pytest.raises(UnavailableError, match="still running"):
        await compactions.compact(*request, 0.01)
    assert bench.edited.applier.applied == []
    bench.edited.close()
    with pytest.raises(UnavailableError, match="shutting down"):
        await compactions.compact(*request, 60.0)
    assert bench.edited.applier.applied == []


async def test_a_fenced_writer_learns_it_from_any_append(bench: _Bench) -> None:
    fenced = asyncio.create_task(bench.publisher.until_fenced())
    await asyncio.sleep(0)
    assert not fenced.done()
    bench.log.is_fenced = True
    with pytest.raises(EpochLostError):
        await bench.publisher.append_own("commit|edits/2-0", bench.log.entries[2].payload)
    with pytest.raises(EpochLostError):
        await fenced


async def test_a_repeated_act_of_the_writer_is_appended_once(bench: _Bench) -> None:
    payload = bench.log.entries[0].payload
    first = await bench.publisher.append_own("lane|lanes/main|c", payload)
    assert await bench.publisher.append_own("lane|lanes/main|c", payload) == first
    assert bench.log.entries[first - 1].request_id == "2380f46b-fef6-527e-a12a-16721f90d5dc", (
        "ids outlive the process"
    )
