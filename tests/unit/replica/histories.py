"""Random histories of a log with lanes of all methods, fitted by the real methods."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from errata.artifacts.store import ArtifactStore
from errata.editing.canaries import OpenCanary
from errata.editing.edit import Edit, EditBatch
from errata.editing.lane.contract import FitResult
from errata.editing.model.causal_lm import BaseLLM, CausalLM
from errata.indices.faiss_indices import FaissIndices
from errata.log.canary_entries import CanaryEnded, CanarySet, Outcome
from errata.log.chain import ORIGIN, Position, extend
from errata.log.entries import (
    ArtifactRef,
    EditsCommitted,
    EditsRequested,
    EditsReverted,
    Entry,
    Figures,
    LaneCompacted,
    LaneConfigured,
    LaneModelCommitted,
    Payload,
    SnapshotTaken,
)
from errata.log.fold import LogFold
from errata.log.payload_convert import encode
from errata.replica.applier import Applier
from errata.replica.apply import apply
from errata.replica.snapshot import Manifest, Snapshot
from errata.replica.snapshot_parts import load_snapshot, make_manifest
from errata.writer.lanes import configure
from tests.unit.editing import elder_models, lemoe_models
from tests.unit.editing.recipe_models import make_lane_model
from tests.unit.editing.tiny_models import TextResources, make_model

FIGURES = Figures(1.0, None, 1.0, False)
PROMPTS = (
    "The mother tongue of Danielle Darrieux is",
    "Nokia was founded in the town of",
    "Toyota makes",
    "The tower of Pisa is in",
    "Lyon is twinned with",
    "The capital of Finland is",
)
TARGETS = ("Finnish", "Pisa", "football", "Finland", "blue", "Bordeaux")
_ADAPLE = {"layers": (1, 2), "num_prefixes": 0, "steps": 3, "covariance_samples": 20, "drop": 0.5}
CONFIGS = {
    "adaple": ("adaple", _ADAPLE),
    "weights": ("adaple", {**_ADAPLE, "layers": (2,), "fusion": "topk"}),
    "recipe": ("recipe", {"claim": "threshold", "threshold": -1.0}),
    "elder": ("elder", {**elder_models.SMALL.model_dump(mode="json"), "steps": 3}),
    "lemoe": ("lemoe", {**lemoe_models.SMALL.model_dump(mode="json"), "steps": 3}),
}
NAMESPACED = ("lanes/recipe", "lanes/lemoe")
LOG_ID = "log"


@dataclass
class Step:
    """An entry, and the log after it."""

    entry: Entry
    position: Position
    fold: LogFold


class History:
    """Entries as a writer would append them; each is applied to the writer's model at once."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.llm = make_model("llama")
        self.store = ArtifactStore(str(folder / "artifacts"))
        self.resources = TextResources(folder)
        self.random = random.Random(seed)
        self.steps: list[Step] = []
        self.fold, self.position = LogFold(), ORIGIN
        self.applier = Applier(self.llm, self.store, FaissIndices(), keep_memory=True)

    async def begin(self) -> None:
        for name, (method, values) in CONFIGS.items():
            configured = configure(name, method, values, self.llm.digest)
            self.applier.open_early(configured).gather(self.resources)
            await self.append(configured)
        await self.give_model(0)

    async def grow(self, num_steps: int) -> None:
        """Appends as many random requests with their commits, reversals and so on."""
        for _ in range(num_steps):
            lane = f"lanes/{self.random.choice(list(CONFIGS))}"
            drawn, active = self.random.random(), self.fold.active(lane)
            if lane in NAMESPACED and self.random.random() < 0.4:
                await self.set_or_end_canary(lane)
            elif drawn < 0.3 and active:
                names = self.random.sample(active, self.random.randint(1, min(2, len(active))))
                await self.append(EditsReverted(tuple(names), ""))
            elif drawn < 0.45 and active and self._can_compact(lane):
                await self.compact(lane)
            elif drawn < 0.45 and lane == "lanes/recipe":
                await self.give_model(self.random.randint(0, 3))
            else:
                await self.edit(lane, self.random.randint(1, 2))

    async def edit(self, lane: str, count: int) -> None:
        edits = [
            Edit(f"edits/{len(self.steps) + 1}-{n}", prompt, self.random.choice(TARGETS), "")
            for n, prompt in enumerate(self.random.sample(PROMPTS, count))
        ]
        # ELDER's lanes have a single bank here, and AdaPLE's change weights: one namespace.
        namespace = "team-a" if lane in NAMESPACED and self.random.random() < 0.4 else ""
        canary = self.canary_of(lane)
        if canary is not None and self.random.random() < 0.6:
            namespace = canary.place
        name = canary.name if canary is not None and namespace == canary.place else ""
        edits = [
            replace(
                e,
                subject=next(w for w in e.said.split() if w[0].isupper()),
                namespace=namespace,
                canary=name,
            )
            for e in edits
        ]
        found = (True,) * count
        await self.append(EditsRequested(lane, tuple(edits), ("test",) * count, found))
        result = fitted(self.applier, lane, edits)
        artifact = await self.put(result.artifact.to_bytes())
        memory = result.memory and await self.put(result.memory.to_bytes())
        config = self.fold.lanes[lane].config_digest
        names, figures = tuple(edit.name for edit in edits), (FIGURES,) * count
        await self.append(
            EditsCommitted(
                lane, names, figures, artifact, memory or None, 1, self.llm.digest, config
            )
        )

    def canary_of(self, lane: str) -> OpenCanary | None:
        return next((c for c in self.fold.canaries.open.values() if c.lane == lane), None)

    async def set_or_end_canary(self, lane: str) -> None:
        """Opens the lane's canary, or changes its audience, or ends it."""
        known = self.canary_of(lane)
        if known is not None and self.random.random() < 0.7:
            await self.end_canary(lane, self.random.choice(list(Outcome)))
            return
        name = known.name if known else f"canaries/c{len(self.steps)}"
        namespace = known.namespace if known else self.random.choice(["", "team-a"])
        share = self.random.choice([0, 100_000, 500_000])
        await self.append(CanarySet(name, lane, namespace, share, ("team-b",)))

    async def end_canary(self, lane: str, outcome: Outcome) -> None:
        known = self.canary_of(lane)
        if known is not None:
            places = self.fold.standings()
            active = self.fold.active(lane)
            own = [name for name in active if places[name].namespace == known.place]
            await self.append(CanaryEnded(known.name, outcome, tuple(own)))

    def _can_compact(self, lane: str) -> bool:
        is_topk = lane == "lanes/weights"  # whose commits cannot become one
        places = {self.fold.standings()[name].namespace for name in self.fold.active(lane)}
        return (
            not is_topk and len(places) == 1 and self.applier.lanes[lane].lane.compact is not None
        )

    async def compact(self, lane: str) -> None:
        edits = [self.edit_called(name) for name in self.fold.active(lane)]
        retrain = self.applier.lanes[lane].lane.compact
        assert retrain is not None
        artifact = await self.put(retrain(edits, num_experts=0, seed=3).to_bytes())
        names = tuple(edit.name for edit in edits)
        await self.append(LaneCompacted(lane, names, artifact, 3, self.llm.digest))

    async def give_model(self, seed: int) -> None:
        lane = "lanes/recipe"
        support = self.applier.lanes[lane].lane.lane_model
        assert support is not None
        data = make_lane_model(self.llm, seed=seed).to_artifact().to_bytes()
        edits = [self.edit_called(name) for name in self.fold.active(lane)]
        encoded = support.encode(data, edits)
        repository = await self.put(encoded.to_bytes()) if encoded is not None else None
        names = tuple(edit.name for edit in edits)
        model = await self.put(data)
        await self.append(LaneModelCommitted(lane, model, names, repository, self.llm.digest))

    def edit_called(self, name: str) -> Edit:
        payloads = (step.entry.payload for step in self.steps)
        requests = (p for p in payloads if isinstance(p, EditsRequested))
        return next(edit for request in requests for edit in request.edits if edit.name == name)

    async def put(self, data: bytes) -> ArtifactRef:
        return ArtifactRef(await self.store.put(data), len(data))

    async def append(self, payload: Payload) -> Entry:
        seq = len(self.steps) + 1
        entry = Entry(seq, f"id-{seq}", datetime.fromtimestamp(seq, UTC), "test", payload)
        self.fold.add(entry)
        await apply(self.applier, entry)
        self.position = extend(self.position, encode(payload, "test").SerializeToString())
        self.steps.append(Step(entry, self.position, self.fold.copy()))
        return entry

    async def replayed(self, applier: Applier, until: int) -> Applier:
        """Applies the entries up to `until`."""
        for step in self.steps[:until]:
            await apply(applier, step.entry)
        return applier

    def new_applier(self, llm: BaseLLM | None = None, **options: bool) -> Applier:
        return Applier(llm or make_model("llama"), self.store, FaissIndices(), **options)

    def gathered(self, **options: bool) -> Applier:
        """A new applier whose lanes have the statistics that fits need."""
        applier = self.new_applier(**options)
        for step in self.steps:
            if isinstance(step.entry.payload, LaneConfigured):
                applier.open_early(step.entry.payload).gather(self.resources)
        return applier

    def take(self, applier: Applier, seq: int) -> Manifest:
        """Stores a snapshot of an applier that has applied the entries up to `seq`."""
        step, copy = self.steps[seq - 1], applier.capture()

        def put(page: bytes) -> ArtifactRef:
            return ArtifactRef(self.store.save(page), len(page))

        return make_manifest(
            put, LOG_ID, step.position, self.llm.digest, copy(), step.fold, [b"[]"]
        )

    async def named(self, manifest: Manifest) -> SnapshotTaken:
        """The entry that names a stored snapshot."""
        return SnapshotTaken(
            manifest.position.seq,
            manifest.position.chain_digest,
            await self.put(manifest.to_bytes()),
            manifest.state_digest,
            manifest.base_model_digest,
            "worker-1",
        )

    async def load(self, named: SnapshotTaken, applier: Applier, memory: bool) -> Snapshot:
        return await load_snapshot(
            self.store, named, applier.model.digest, holds=applier.holds, with_memory=memory
        )


def fitted(applier: Applier, lane: str, edits: list[Edit]) -> FitResult:
    return applier.lanes[lane].lane.fit(EditBatch(tuple(edits), 1))


def weights_digest(llm: BaseLLM) -> str:
    assert isinstance(llm, CausalLM)
    return llm.current_digest()
