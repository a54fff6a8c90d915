"""Lanes and artifacts that the log's names cannot judge: whatever they hold, errors are typed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs

from errata.artifacts.store import ArtifactStore
from errata.editing.artifact import Artifact
from errata.editing.registry import methods
from errata.errors import DataLossError, ErrataError
from errata.indices.faiss_indices import FaissIndices
from errata.log.entries import (
    ArtifactRef,
    EditsCommitted,
    Entry,
    Figures,
    LaneConfigured,
    LaneModelCommitted,
    Payload,
)
from errata.replica.applier import Applier
from errata.replica.apply import apply
from errata.writer.lanes import configure
from tests.unit.editing.tiny_models import make_model

LANE = "lanes/main"
FIGURES = Figures(1.0, None, 1.0, False)


def _entry(seq: int, payload: Payload) -> Entry:
    return Entry(seq, f"id-{seq}", datetime.now(UTC), "test", payload)


def _commit(lane: LaneConfigured, artifact: ArtifactRef) -> EditsCommitted:
    return EditsCommitted(
        LANE,
        ("edits/2-0",),
        (FIGURES,),
        artifact,
        None,
        1,
        lane.base_model_digest,
        lane.config_digest,
    )


@pytest.mark.parametrize(
    ("method", "config"),
    [("magic", "{}"), ("adaple", '{"layers": [99]}'), ("adaple", '{"layers": "x"}'), ("elder", "")],
)
async def test_lane_that_cannot_be_opened_stops_only_what_needs_it(
    tmp_path: Path, method: str, config: str
) -> None:
    model, store = make_model("llama"), ArtifactStore(str(tmp_path))
    applier = Applier(model, store, FaissIndices())
    before = applier.digest()
    lane = LaneConfigured(LANE, method, config, "c", model.digest)
    with capture_logs() as events:
        await apply(applier, _entry(1, lane))
    assert [event["lane"] for event in events] == [LANE]
    await apply(applier, _entry(2, configure("b", "lemoe", {}, model.digest)))
    with pytest.raises(DataLossError, match="could not open"):
        await apply(applier, _entry(3, _commit(lane, ArtifactRef("ab" * 32, 1))))
    assert applier.num_edits == 0
    assert applier.digest() != before, "the other lane was opened"


@pytest.mark.parametrize("method", sorted(methods()))
async def test_artifact_of_another_form_is_a_typed_error_and_changes_nothing(
    tmp_path: Path, method: str
) -> None:
    model, store = make_model("llama"), ArtifactStore(str(tmp_path))
    applier = Applier(model, store, FaissIndices())
    lane = configure("main", method, {}, model.digest)
    assert await apply(applier, _entry(1, lane))
    before = applier.digest()
    origin = {"method": method, "base_model": model.digest, "lane_model": ""}
    names = ("keys", "facts", "queries", "prompts", "embeddings", "idf")
    foreign = [Artifact({}, {}), Artifact({}, origin)]
    foreign += [Artifact({name: torch.ones(3)}, origin) for name in names]
    foreign.append(Artifact({name: torch.ones(1, 3) for name in names}, origin))
    for artifact in foreign:
        data = artifact.to_bytes()
        ref = ArtifactRef(await store.put(data), len(data))
        model_commit = LaneModelCommitted(LANE, ref, (), None, model.digest)
        for payload in (_commit(lane, ref), model_commit):
            with pytest.raises(ErrataError):
                await apply(applier, _entry(2, payload))
            assert applier.digest() == before
    assert applier.num_edits == 0
