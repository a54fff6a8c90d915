"""Random sequences of entries, possible or not: the log and all its readers agree, and stop alike.

Steps are drawn as they are played, so that most of them name what exists.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from errata.artifacts import ArtifactStore
from errata.editing.model.causal_lm import KnownLLM
from errata.errors import ErrataError, ImpossibleEntryError, PreconditionError
from errata.indices.faiss_indices import FaissIndices
from errata.log.admission import missing_artifact
from errata.log.chain import ChainedEntry
from errata.log.convert import new_entry
from errata.log.entries import (
    ArtifactRef,
    EditsReverted,
    Entry,
    EntryVoided,
    LaneCompacted,
    LaneModelCommitted,
    Payload,
)
from errata.log.fold import LogFold
from errata.log.fold_json import fold_from_json, fold_to_json
from errata.log.payload_convert import decode_payload
from errata.log.reader import EntryReader
from errata.log.standing import Standing
from errata.log.store import RedisLog
from errata.log.trimmer import Trimmer
from errata.platform.settings import LogSettings
from errata.replica.applier import Applier
from errata.replica.apply import apply
from errata.writer.ledger import EditLedger
from errata_client._gen.errata.v1 import edit_log_pb2 as pb
from tests.integration.log.entries import (
    BYTES,
    REF,
    commit,
    lane,
    message,
    reject,
    request,
    revert,
    snapshot,
)
from tests.integration.log.harness import BASE_MODEL, RedisServer, log_settings, smuggle
from tests.integration.log.trimming import all_entries, trimming

# Processes without weights leave lanes of the first method out, so that their commits need no
# tensors; the second takes lane models and compactions.
LANES = {"lanes/a": "adaple", "lanes/b": "adaple", "lanes/e": "elder"}
NAMES = st.sampled_from(sorted(LANES))


def is_garbage(payload: bytes) -> bool:
    """Whether no version can read it, in contrast to an entry of a newer version."""
    try:
        decode_payload(ChainedEntry(1, payload, b""))
    except ImpossibleEntryError:
        return True
    except PreconditionError:
        return False
    return False


GARBAGE = st.binary(max_size=3).filter(is_garbage)


@dataclass
class Told:
    """What one reader made of the log.

    Attributes:
        fold: of all entries before its end.
        stopped_at: the entry that it cannot apply; None if it read all.
        edits: by name, lane and state as its own bookkeeping tells.
    """

    fold: LogFold
    stopped_at: int | None
    edits: dict[str, tuple[str, str]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("property"))
    server.start()
    yield server
    server.close()


def draw_edits(data: st.DataObject, fold: LogFold, name: str, standing: str) -> tuple[str, ...]:
    """Edits to name: mostly some of the lane in that state, else any, or one that is not there."""
    standings = fold.standings()
    fitting = [edit for edit, known in standings.items() if known[:2] == (name, standing)]
    if not fitting or not data.draw(st.integers(0, 4)):
        fitting = [*standings, "edits/99-0"]
    drawn = data.draw(st.lists(st.sampled_from(fitting), min_size=1, max_size=3, unique=True))
    odd: list[tuple[str, ...]] = [(), (*drawn, drawn[0])]
    return data.draw(st.sampled_from([tuple(drawn)] * 8 + odd))


def draw_payload(data: st.DataObject, fold: LogFold) -> Payload:
    """Content that names lanes and edits, most of which exist."""
    name = data.draw(NAMES)
    match data.draw(st.integers(0, 9)):
        case 0:
            return request(name, data.draw(st.integers(0, 3)))
        case 1 | 2:
            return commit(*draw_edits(data, fold, name, "requested"), name=name)
        case 3:
            return reject(*draw_edits(data, fold, name, "requested"), name=name)
        case 4:
            return revert(*draw_edits(data, fold, name, "committed"))
        case 5:
            methods = st.sampled_from([LANES[name], "elder", "", "magic"])
            return lane(name, method=data.draw(methods))
        case 6:
            return EntryVoided(data.draw(st.integers(-1, fold.seq + 1)), "why")
        case 7:
            model = data.draw(st.sampled_from([BASE_MODEL, BASE_MODEL, "cd" * 32]))
            return snapshot(data.draw(st.integers(-1, fold.seq + 1)), base_model_digest=model)
    name = "lanes/e" if data.draw(st.integers(0, 3)) else name
    whole = tuple(fold.active(name))
    if not data.draw(st.integers(0, 2)):
        whole = draw_edits(data, fold, name, "committed")
    if data.draw(st.booleans()):
        return LaneCompacted(name, whole, REF, 1, BASE_MODEL)
    repository = REF if whole or not data.draw(st.integers(0, 3)) else None
    return LaneModelCommitted(name, REF, whole, repository, BASE_MODEL)


class Game:
    """A log, and what is done to it."""

    def __init__(
        self, log: RedisLog, store: ArtifactStore, server: RedisServer, settings: LogSettings
    ) -> None:
        self.log, self.store, self.server, self.settings = log, store, server, settings
        self.epoch = 0

    @property
    def fold(self) -> LogFold:
        return self.log._tip.admission.fold

    async def append(self, payload: Payload) -> bool:
        """Whether the log took it; a refusal is typed and leaves the log as it was."""
        before = await self.log.state()
        entry = new_entry(
            pb.AppendRequest(
                request_id=str(uuid.uuid4()), epoch=self.epoch, payload=message(payload)
            )
        )
        try:
            await self.log.append(entry, await missing_artifact(entry, self.store))
        except ErrataError:
            assert await self.log.state() == before
            return False
        return True

    async def smuggle(self, payload: bytes) -> None:
        smuggle(self.server, payload, prefix=f"{{{self.settings.key_prefix}}}")
        await self.log.state()

    async def trim(self, seq: int) -> None:
        """Takes a snapshot there, if that can be, and moves what it covers to the archive."""
        parts = b'{"parts": {}, "lane_models": {}}'
        manifest = ArtifactRef(self.store.save(parts), len(parts))
        digest = (await self.log.read(seq, 1)).entries[0].chain_digest
        taken = snapshot(seq, chain_digest=digest, manifest=manifest)
        if await self.append(taken):
            await Trimmer(self.settings, self.log).step()
            assert (await self.log.state()).floor_seq == seq + 1

    async def reopen(self) -> None:
        """Restarts the log service, which begins with the fold of the archived entries."""
        before = fold_to_json(self.fold)
        await self.log.close()
        self.log = await RedisLog.open(self.settings, self.store)
        assert fold_to_json(self.fold) == before

    async def entries(self) -> Sequence[ChainedEntry]:
        await self.log.state()
        return await all_entries(self.log)

    def reader(self) -> EntryReader:
        async def voided() -> tuple[int, ...]:
            return (await self.log.state()).voided

        return EntryReader(voided)

    async def read_as_writer(self) -> Told:
        ledger, reader = EditLedger(), self.reader()
        stopped = await self._read(reader, lambda entry: ledger.fold([entry]))
        edits = {r.edit.name: (r.lane, r.state.value) for r in ledger.records()}
        assert set(ledger.lanes) == set(reader.fold.lanes)
        return Told(reader.fold, stopped, edits)

    async def read_as_replica(self) -> Told:
        """Without the lanes whose entries need tensors."""
        llm = KnownLLM(BASE_MODEL, torch.device("cpu"))
        applier, reader = Applier(llm, self.store, FaissIndices()), self.reader()

        async def act(entry: Entry) -> None:
            payload = entry.payload
            if isinstance(payload, EditsReverted):
                name = reader.fold.standings()[payload.edits[0]][0]
            else:
                name = getattr(payload, "lane", "")
            if LANES.get(name) != "elder":
                await apply(applier, entry)

        stopped = await self._read(reader, act)
        edits = {
            name: (at, standing.value)
            for name, (at, standing, _) in reader.fold.standings().items()
            if standing is not Standing.COMMITTED or LANES[at] == "elder"
        }
        edits |= {name: (at, "committed") for name, at in applier._edits.lane_of.items()}
        return Told(reader.fold, stopped, edits)

    async def _read(self, reader: EntryReader, act: object) -> int | None:
        assert callable(act)
        for stored in await self.entries():
            try:
                entry = await reader.read(stored)
            except ImpossibleEntryError as error:
                return int(error.metadata["seq"])
            if entry is not None:
                await act(entry)
        return None

    async def judge(self) -> None:
        """Fails unless all readers stop where the log says, and know what it knows there."""
        state = await self.log.state()
        expected = min(state.impossible, default=None)
        for told in (await self.read_as_writer(), await self.read_as_replica()):
            assert told.stopped_at == expected
            assert told.edits == {n: known[:2] for n, known in told.fold.standings().items()}
            if expected is None:
                assert fold_to_json(told.fold) == fold_to_json(self.fold)
            again = fold_from_json(fold_to_json(told.fold))
            assert fold_to_json(again) == fold_to_json(told.fold)

    async def repair(self) -> None:
        """Voids all that cannot be applied, in any order; then nothing stops a reader."""
        for seq in sorted((await self.log.state()).impossible, reverse=True):
            assert await self.append(EntryVoided(seq, "smuggled"))
        assert not (await self.log.state()).impossible


async def play(data: st.DataObject, server: RedisServer, folder: Path) -> None:
    prefix = uuid.uuid4().hex
    settings = trimming(log_settings(server, folder / prefix / "witness", key_prefix=prefix))
    store = ArtifactStore(str(folder / "artifacts"))
    await store.put(BYTES)
    log = await RedisLog.open(settings, store)
    game = Game(log, store, server, settings)
    try:
        game.epoch = await log.acquire_epoch("test")
        for name, method in LANES.items():
            assert await game.append(lane(name, method=method))
            assert await game.append(request(name, 3))
            seq = game.fold.seq
            assert await game.append(commit(f"edits/{seq}-0", f"edits/{seq}-1", name=name))
        for _ in range(data.draw(st.integers(4, 24), "steps")):
            step = data.draw(st.integers(0, 19), "step")
            if step == 19:  # hypothesis prefers small numbers
                await game.smuggle(message(draw_payload(data, game.fold)).SerializeToString())
            elif step == 18:
                await game.smuggle(data.draw(GARBAGE))
            elif step == 17:
                await game.repair()
            elif step == 16:
                await game.trim(data.draw(st.integers(1, game.fold.seq), "trimmed to"))
            elif step == 15:
                await game.reopen()
            else:
                await game.append(draw_payload(data, game.fold))
        await game.judge()
        await game.repair()
        await game.judge()
        await game.reopen()
        await game.judge()
        assert await game.append(request())
    finally:
        await game.log.close()


@pytest.mark.promise("P7")
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_log_and_readers_agree_on_every_sequence(
    server: RedisServer, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    asyncio.run(play(data, server, tmp_path_factory.getbasetemp() / "logs"))
