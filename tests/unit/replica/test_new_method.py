"""A fifth method, with its own effect, in the services' code.

Its code is in one folder (`tests/unit/editing/toy_method`); only the registry refers to it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from errata.artifacts.store import ArtifactStore
from errata.editing import registry
from errata.editing.edit import Edit
from errata.editing.lane.commits import Restoration
from errata.editing.model.causal_lm import CausalLM, KnownLLM
from errata.editing.model.prompts import tokenise
from errata.engine.sequence import GenerationRequest, Version
from errata.engine.serving_state import ServingState
from errata.indices.faiss_indices import FaissIndices
from errata.log.entries import ArtifactRef, EditsCommitted, EditsReverted, Entry, Payload
from errata.platform.settings import WriterSettings
from errata.replica.applier import Applier
from errata.replica.apply import apply
from errata.worker.lane_router import LaneRouter
from errata.writer.fitting import fit_batch
from errata.writer.lanes import configure
from tests.unit.editing import toy_method
from tests.unit.editing.tiny_models import make_model
from tests.unit.engine.helpers import collect, running, text_of

LANE = "lanes/toy"
FACTS = (("Toyota makes", "Pisa"), ("The tower of Pisa is in", "Helsinki"))
OTHER = "Nokia was founded in the town of"
LIMITS = WriterSettings(min_locality=0.0)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_METHODS", (*registry._METHODS, toy_method.METHOD))


def _edits(model: CausalLM) -> list[Edit]:
    """Targets of one token each, because a bias changes only the first token."""
    edits = []
    for number, (prompt, target) in enumerate(FACTS):
        row = tokenise(model, prompt, target)
        first = row.ids[len(row.ids) - row.num_target]
        text = model.tokenizer.decode([first]).strip()
        edits.append(Edit(f"edits/2-{number}", prompt, text, prompt.split()[0]))
    return edits


async def _append(applier: Applier, seq: int, payload: Payload) -> None:
    assert await apply(applier, Entry(seq, "id", datetime.now(UTC), "test", payload))


async def _answers(model: CausalLM, applier: Applier, prompts: list[str]) -> list[str]:
    table = applier.routing()
    version = Version(1, bytes(32), applier.digest(), applier.num_edits)
    router = None if table is None else LaneRouter(table, table.claims)
    async with running(model, ServingState(version, router=router)) as engine:
        requests = [GenerationRequest(tokenise(model, p).ids, 1, prompt=p) for p in prompts]
        return [text_of(await collect(engine, request)).strip() for request in requests]


async def test_a_method_needs_only_its_folder_and_the_registry(tmp_path: Path) -> None:
    model, store = make_model("llama"), ArtifactStore(str(tmp_path))
    applier = Applier(model, store, FaissIndices(), keep_memory=True)
    edits, prompts = _edits(model), [*(prompt for prompt, _ in FACTS), OTHER]
    unedited = await _answers(model, applier, prompts)
    configured = replace(configure("toy", "toy", {}, model.digest), lane=LANE)
    await _append(applier, 1, configured)
    fitted = fit_batch(model, applier.lanes[LANE], edits, LIMITS).fitted
    assert fitted is not None, "the writer's check passed"
    reference = ArtifactRef(await store.put(fitted.artifact), len(fitted.artifact))
    names = tuple(edit.name for edit in edits)
    commit = EditsCommitted(
        LANE, names, fitted.figures, reference, None, fitted.seed, model.digest, "c"
    )
    await _append(applier, 2, commit)
    targets = [edit.target for edit in edits]
    assert await _answers(model, applier, prompts) == [*targets, unedited[2]]
    assert targets != unedited[:2], "control: the edits change the answers"

    elsewhere = Applier(KnownLLM(model.digest, model.device), store, FaissIndices())
    await _append(elsewhere, 1, configured)
    await _append(elsewhere, 2, commit)
    assert elsewhere.digest() == applier.digest(), "a process without the LLM"
    held = elsewhere.capture()().lanes[LANE]
    restored = applier.lanes[LANE].lane.prepare(Restoration(2, held, None)).apply()
    assert elsewhere.digest() == applier.digest(), "what it dumps is what the writer has"
    restored()

    await _append(applier, 3, EditsReverted(names[:1], ""))
    assert await _answers(model, applier, prompts) == [unedited[0], targets[1], unedited[2]]
