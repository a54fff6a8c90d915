"""A real log and store with writers, workers and retrieval replicas, and what tests ask of them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from errata.artifacts.store import ArtifactStore
from errata.editing.model.causal_lm import CausalLM
from errata.engine.sequence import Piece
from errata.log.subscriber import Subscriber
from errata.platform.server import GrpcServer, open_channel
from errata.platform.settings import RetrievalSettings, WorkerSettings, WriterSettings
from errata.retrieval.replica import RetrievalReplica
from errata.retrieval.service import RetrievalService
from errata.worker.admission import GenerationInput
from errata.worker.replica import Replica
from errata.writer.intake import Draft
from errata.writer.lanes import LaneSetup, configure
from errata.writer.log_client import LogClient
from errata.writer.resources import WriterResources
from errata.writer.signing import WriterKeys
from errata.writer.timetable import Clock, utc_now
from errata.writer.writer import Writer
from errata_client._gen.errata.v1 import retrieval_pb2_grpc
from tests.integration.log.harness import RedisServer
from tests.unit.editing.recipe_models import make_lane_model
from tests.unit.editing.tiny_models import make_model
from tests.waiting import PATIENCE

LANE = "lanes/facts"
FACTS = (
    ("The mother tongue of Danielle Darrieux is", "Finnish"),
    ("Nokia was founded in the town of", "Pisa"),
    ("Toyota makes", "football"),
    ("The tower of Pisa is in", "Finland"),
)
NO_KEYS = WriterKeys()
PROMPTS = [prompt for prompt, _ in FACTS]
LIMITS = WriterSettings(
    min_reliability=0.0, min_locality=0.0, default_lane=LANE, batch_window_seconds=0.0
)


class Stack:
    """A log, a store, and the writers that come and go."""

    def __init__(self, address: str, folder: Path, redis: RedisServer) -> None:
        self.address, self.folder, self.redis = address, folder, redis
        self.store = ArtifactStore(str(folder / "artifacts"))
        self.make_llm: Callable[[], CausalLM] = partial(make_model, "llama")

    @asynccontextmanager
    async def writer(
        self,
        model: Path | None,
        method: str = "recipe",
        threshold: float = -1.0,
        config: dict[str, Any] | None = None,
        adapters: tuple[Path, ...] = (),
        resources: WriterResources | None = None,
        keys: WriterKeys = NO_KEYS,
        others: Sequence[str] = (),
        limits: WriterSettings = LIMITS,
        requires_approval: bool = False,
        clock: Clock = utc_now,
    ) -> AsyncIterator[Writer]:
        """A writer with one lane; by default it claims whatever scores above the threshold.

        `others` names more lanes like it.
        """
        llm = self.make_llm()
        config = config or {"claim": "threshold", "threshold": threshold}
        setups = [
            LaneSetup(
                configure(name, method, config, llm.digest),
                model,
                adapters,
                requires_approval=requires_approval,
            )
            for name in ("facts", *others)
        ]
        async with open_channel(self.address) as channel:
            log = LogClient(channel, "test")
            resources = resources or WriterResources(None, self.folder)
            subscriber = Subscriber(self.address)
            writer = Writer(llm, log, subscriber, self.store, resources, limits, keys, clock)
            ready = asyncio.Event()

            async def take_over() -> int:
                await log.acquire_epoch()
                return (await log.state()).head.seq

            work = asyncio.create_task(writer.run(setups, take_over, ready.set))
            waiting = asyncio.create_task(ready.wait())
            await asyncio.wait((work, waiting), return_when=asyncio.FIRST_COMPLETED)
            try:
                if work.done():
                    await work
                yield writer
            finally:
                waiting.cancel()
                work.cancel()
                with suppress(asyncio.CancelledError):
                    await work

    @asynccontextmanager
    async def retrieval(self, **changes: Any) -> AsyncIterator[RetrievalReplica]:
        settings = RetrievalSettings(**changes)
        name = f"retrieval-{uuid.uuid4()}"
        replica = RetrievalReplica(name, self.store, self.address, settings)
        await replica.start()
        try:
            yield replica
        finally:
            await replica.close()

    @asynccontextmanager
    async def worker(self, **changes: Any) -> AsyncIterator[Replica]:
        settings = WorkerSettings(drain_seconds=0.0, **changes)
        replica = Replica("worker", self.make_llm(), self.store, self.address, settings)
        await replica.start()
        try:
            yield replica
        finally:
            await replica.close()

    def lane_model(self, seed: int = 0) -> Path:
        folder = self.folder / f"lane-{seed}"
        make_lane_model(self.make_llm(), seed=seed).save(folder)
        return folder


@asynccontextmanager
async def served(replica: RetrievalReplica) -> AsyncIterator[str]:
    """A gRPC server over a replica; its errors cross the wire as the real service's do."""
    server = GrpcServer("127.0.0.1:0", ["errata.v1.RetrievalService"])
    retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server(
        RetrievalService(replica), server.server
    )
    await server.start()
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.stop(0)


async def submit(
    writer: Writer, *facts: tuple[str, str], lane: str = LANE
) -> tuple[list[str], int]:
    """Names of the edits, and the position from which on they are in force."""
    drafts = [Draft(prompt, target, "", (), (), "") for prompt, target in facts]
    seq, records = await writer.submit(str(uuid.uuid4()), drafts, lane, "test")
    await writer.ledger.wait_until(
        lambda: all(record.state.settled for record in writer.ledger.of_request(seq))
    )
    settled = writer.ledger.of_request(seq)
    assert all(record.commit_seq for record in settled), [record.error for record in settled]
    return [record.edit.name for record in records], max(r.commit_seq for r in settled)


async def revert(writer: Writer, name: str) -> int:
    seq, _ = await writer.revert(str(uuid.uuid4()), [name], "", "test", PATIENCE)
    return seq


async def first_piece(worker: Replica, prompt: str, min_seq: int) -> Piece:
    asked = GenerationInput(prompt=prompt, max_tokens=6, min_seq=min_seq)
    async for piece in worker.generate(asked, streaming=False, timeout_seconds=PATIENCE):
        return piece
    raise AssertionError("no answer")


async def answer_of(worker: Replica, prompt: str, min_seq: int) -> tuple[str, tuple[str, ...]]:
    piece = await first_piece(worker, prompt, min_seq)
    return piece.text, piece.edits
