"""Lane models in the log: all replicas switch to the same one, with all edits encoded by it."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from errata.artifacts.store import ArtifactStore
from errata.editing.edit import Edit
from errata.editing.lane.swap import Change
from errata.editing.model.causal_lm import CausalLM
from errata.editing.recipe.config import RecipeConfig
from errata.editing.recipe.fit import encode_all
from errata.editing.registry import get_method
from errata.editing.retriever.lane_model import LaneModel
from errata.errors import BaseModelMismatchError, DataLossError
from errata.indices.faiss_indices import FaissIndices
from errata.log.entries import (
    ArtifactRef,
    EditsCommitted,
    EditsReverted,
    Entry,
    LaneConfigured,
    LaneModelCommitted,
    Payload,
)
from errata.log.payload_convert import decode, encode
from errata.platform.settings import WriterSettings
from errata.replica.applier import Applier
from errata.writer.fitting import fit_batch
from tests.unit.editing.recipe_models import NoText, make_edits, make_lane_model
from tests.unit.editing.tiny_models import make_model

LANE = "lanes/facts"
FACTS = (("Toyota makes", "football"), ("The tower of Pisa is in", "Finland"), ("Lyon is", "blue"))
ENCODING = RecipeConfig(refine_steps=0)
ANYTHING = WriterSettings(min_reliability=0.0, min_locality=0.0)


class Log:
    """Entries as a writer would append them; each is applied to its own model at once."""

    def __init__(self, llm: CausalLM, store: ArtifactStore) -> None:
        self.llm, self.store = llm, store
        self.entries: list[Entry] = []
        self.applier = Applier(llm, store, FaissIndices(), keep_memory=True)

    async def append(self, payload: Payload) -> Change | None:
        entry = Entry(len(self.entries) + 1, "id", datetime.now(UTC), "test", payload)
        change = await apply(self.applier, entry)
        self.entries.append(entry)
        if isinstance(payload, LaneConfigured) and payload.method == "recipe":
            self.applier.lanes[payload.lane].lane.gather(NoText())
        return change

    async def put(self, data: bytes) -> ArtifactRef:
        return ArtifactRef(await self.store.put(data), len(data))

    async def configure(self) -> None:
        config = ENCODING.model_dump_json()
        await self.append(LaneConfigured(LANE, "recipe", config, "c", self.llm.digest))

    async def model(self, lane_model: LaneModel, *edits: Edit) -> None:
        data = lane_model.to_artifact().to_bytes()
        encoded = encode_all(self.llm, data, edits, ENCODING, ())
        repository = await self.put(encoded.to_bytes()) if encoded is not None else None
        names = tuple(edit.name for edit in edits)
        await self.append(
            LaneModelCommitted(LANE, await self.put(data), names, repository, self.llm.digest)
        )

    async def commit(self, edits: tuple[Edit, ...]) -> Change | None:
        outcome = fit_batch(self.llm, self.applier.lanes[LANE], edits, ANYTHING)
        assert outcome.fitted is not None
        ref = await self.put(outcome.fitted.artifact)
        names = tuple(edit.name for edit in edits)
        return await self.append(
            EditsCommitted(LANE, names, outcome.fitted.figures, ref, None, 1, self.llm.digest, "c")
        )


async def apply(applier: Applier, entry: Entry) -> Change | None:
    change = await applier.prepare(entry)
    if change is not None:
        change.apply()
    return change


@pytest.fixture
def log(llama: CausalLM, tmp_path: Path) -> Log:
    return Log(llama, ArtifactStore(str(tmp_path)))


@pytest.fixture
def llama() -> CausalLM:
    return make_model("llama")


@pytest.mark.promise("P7")
async def test_replicas_agree_through_lane_models_edits_and_reverts(log: Log) -> None:
    edits = make_edits(*FACTS, seq=3)
    await log.configure()
    await log.model(make_lane_model(log.llm))
    await log.commit(edits)
    await log.append(EditsReverted((edits[1].name,), "wrong"))
    await log.model(make_lane_model(log.llm, seed=4), edits[0], edits[2])
    digests = []
    replica = Applier(make_model("llama"), log.store, FaissIndices())
    for entry in log.entries:
        await apply(replica, entry)
        digests.append(replica.digest())
    assert digests[-1] == log.applier.digest()
    assert len(set(digests)) == len(digests), "every entry changes the digest"
    routing, expected = replica.routing(), log.applier.routing()
    assert routing is not None
    assert expected is not None
    prompts = [prompt for prompt, _ in FACTS]
    assert routing.claims(prompts) == expected.claims(prompts)


async def test_nothing_is_routed_before_the_first_edit_and_after_the_last(log: Log) -> None:
    await log.configure()
    await log.model(make_lane_model(log.llm))
    assert log.applier.routing() is None
    await log.commit(make_edits(FACTS[0]))
    assert log.applier.routing() is not None
    assert log.applier.attribution() is None, (
        "routing already names the edits that shaped an answer"
    )
    await log.append(EditsReverted(("edits/2-0",), ""))
    assert log.applier.routing() is None


async def test_routed_commits_do_not_change_weights(log: Log) -> None:
    await log.configure()
    await log.model(make_lane_model(log.llm))
    change = await log.commit(make_edits(*FACTS))
    assert log.llm.current_digest() == log.llm.digest
    assert change is not None
    assert not change.alters_weights


def test_an_entry_survives_serialisation() -> None:
    kind = LaneModelCommitted(
        LANE, ArtifactRef("a" * 64, 5), ("edits/2-0",), ArtifactRef("b" * 64, 6), "base"
    )
    from errata.log.chain import ChainedEntry

    for each in (kind, LaneModelCommitted(LANE, kind.model, (), None, "base")):
        payload = encode(each, "me")
        payload.append_time.GetCurrentTime()
        entry = ChainedEntry(7, payload.SerializeToString(deterministic=True), bytes(32))
        assert decode(entry).payload == each


async def test_a_lane_model_of_another_llm_changes_nothing(log: Log) -> None:
    await log.configure()
    await log.model(make_lane_model(log.llm))
    before = log.applier.digest()
    other = make_model("llama", seed=8)
    data = make_lane_model(other).to_artifact().to_bytes()
    ref = await log.put(data)
    with pytest.raises(BaseModelMismatchError):
        await log.append(LaneModelCommitted(LANE, ref, (), None, log.llm.digest))
    with pytest.raises(BaseModelMismatchError):
        await log.append(LaneModelCommitted(LANE, ref, (), None, other.digest))
    assert log.applier.digest() == before


async def test_a_lane_model_for_a_method_without_one_is_data_loss(log: Log) -> None:
    config = get_method("adaple").config().model_dump_json()
    await log.append(LaneConfigured(LANE, "adaple", config, "c", log.llm.digest))
    ref = await log.put(make_lane_model(log.llm).to_artifact().to_bytes())
    with pytest.raises(DataLossError, match="has none"):
        await log.append(LaneModelCommitted(LANE, ref, (), None, log.llm.digest))


async def test_the_newest_edit_of_several_lanes_wins(log: Log) -> None:
    await log.configure()
    await log.model(make_lane_model(log.llm))
    await log.commit(make_edits(FACTS[0], seq=3))
    newer = "lanes/more"
    config = '{"claim":"threshold","threshold":-1.0}'
    await log.append(LaneConfigured(newer, "recipe", config, "d", log.llm.digest))
    data = make_lane_model(log.llm, seed=2).to_artifact().to_bytes()
    await log.append(LaneModelCommitted(newer, await log.put(data), (), None, log.llm.digest))
    edits = make_edits(FACTS[1], seq=6)
    outcome = await asyncio.to_thread(fit_batch, log.llm, log.applier.lanes[newer], edits, ANYTHING)
    assert outcome.fitted is not None
    ref = await log.put(outcome.fitted.artifact)
    kind = EditsCommitted(
        newer, (edits[0].name,), outcome.fitted.figures, ref, None, 1, log.llm.digest, "d"
    )
    await log.append(kind)
    routing = log.applier.routing()
    assert routing is not None
    assert list(routing.views) == [LANE, newer]
    (plan,) = routing.route([FACTS[0][0]])
    assert plan.edits == ("edits/6-0",)
