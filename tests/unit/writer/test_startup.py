"""The writer's start tells how far the statistics of the base model are."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import grpc
from structlog.testing import capture_logs

from errata.artifacts.store import ArtifactStore
from errata.editing.adaple.config import AdapleConfig
from errata.indices.faiss_indices import FaissIndices
from errata.log.entries import Entry, LaneConfigured
from errata.log.reader import EntryReader
from errata.log.subscriber import Subscriber
from errata.platform.addresses import free_port
from errata.replica.applier import Applier
from errata.writer.edited_model import EditedModel
from errata.writer.log_client import LogClient
from errata.writer.publish import Publisher
from errata.writer.signing import Signer, WriterKeys
from errata.writer.startup import Startup
from tests.unit.editing.tiny_models import TextResources, make_model


async def _none_voided() -> tuple[int, ...]:
    return ()


async def test_the_log_tells_how_far_the_statistics_are(tmp_path: Path) -> None:
    model, store = make_model("llama"), ArtifactStore(str(tmp_path / "artifacts"))
    address = f"127.0.0.1:{free_port()}"  # nothing is appended, so nobody needs to listen
    applier = Applier(model, store, FaissIndices(), keep_memory=True)
    edited = EditedModel(model, applier, Subscriber(address), EntryReader(_none_voided))
    config = AdapleConfig(covariance_samples=4).model_dump_json()
    lane = LaneConfigured("lanes/main", "adaple", config, "c", model.digest)
    await edited.ledger.fold([Entry(1, "id", datetime.now(UTC), "", lane)])
    async with grpc.aio.insecure_channel(address) as channel:
        signer = Signer(WriterKeys(), edited.gate)
        log = LogClient(channel, "writer")
        publisher = Publisher(log, store, edited.ledger, model.digest, signer)
        resources = TextResources(tmp_path / "cache")
        startup = Startup(edited, publisher, resources, ())
        with capture_logs() as events:
            await startup.gather()
            told = [event for event in events if "seconds_left" in event]
            assert told[-1]["lane"] == "lanes/main"
            assert told[-1]["tokens"] == told[-1]["total"] >= 4 * model.d_ff
            assert told[-1]["seconds_left"] == 0
            events.clear()
            await startup.gather()
            assert not [event for event in events if "seconds_left" in event], "from the cache"
