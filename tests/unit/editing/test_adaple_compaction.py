"""A compaction fits all edits anew: no trace of reverted ones, and every replica agrees."""

from __future__ import annotations

from dataclasses import replace

import pytest

from errata.editing.adaple.config import LASTING, AdapleConfig
from errata.editing.adaple.lane import AdapleLane
from errata.editing.artifact import Artifact
from errata.editing.edit import Edit
from errata.editing.lane.commits import Compaction
from errata.errors import ArtifactCorruptError, InvalidRequestError
from tests.unit.editing.lanes import Bench, adaple_bench, restored
from tests.unit.editing.tiny_models import TextResources, make_model, weights_of

TOP = AdapleConfig(
    layers=(1, 2), num_prefixes=1, prefix_tokens=3, steps=5, clamp=6.0, step_size=0.3, gain=20.0
)
LAYERS = AdapleConfig.model_validate(
    dict(LASTING) | {"layers": (1, 2), "num_prefixes": 1, "prefix_tokens": 3, "steps": 5}
)
LYON, NOKIA, PISA = ("Lyon is in", "x"), ("Nokia is in", "y"), ("Pisa is in", "x")
BOTH = pytest.mark.parametrize("config", [TOP, LAYERS], ids=["top", "layers"])


def _edit(name: str, fact: tuple[str, str]) -> Edit:
    return Edit(name, *fact, fact[0].split()[0])


def _compaction(bench: Bench[AdapleLane], facts: dict[str, tuple[str, str]]) -> Compaction:
    edits = [_edit(name, fact) for name, fact in facts.items()]
    data = bench.lane.compact(edits, num_experts=0, seed=3).to_bytes()
    return Compaction(9, tuple(facts), Artifact.from_bytes(data))


@pytest.mark.promise("P11")
@BOTH
def test_it_leaves_no_trace_of_a_reverted_edit(
    config: AdapleConfig, resources: TextResources
) -> None:
    whole, other = (adaple_bench(make_model("llama"), config, resources) for _ in range(2))
    first, second, third = (whole.edit(fact) for fact in (LYON, NOKIA, PISA))
    whole.revert(*second.edits)
    for commit in (first, third):
        other.lane.prepare(commit).apply()
    facts = {first.edits[0]: LYON, third.edits[0]: PISA}
    before = dict(weights_of(whole.llm))
    made = _compaction(whole, facts)
    assert all((before[name] == now).all() for name, now in weights_of(whole.llm)), "unchanged"
    assert made.artifact.to_bytes() == _compaction(other, facts).artifact.to_bytes()
    digest = whole.lane.digest()
    undo = whole.lane.prepare(made).apply()
    compacted = whole.lane.digest()
    assert compacted != digest, "the third edit was fitted on weights with the second"
    undo()
    assert whole.lane.digest() == digest
    whole.lane.prepare(made).apply()
    other.lane.prepare(made).apply()
    assert other.lane.digest() == compacted
    again = adaple_bench(make_model("llama"), config, resources)
    restored(whole.lane, again.lane)
    assert again.lane.digest() == compacted
    whole.revert(*facts)
    assert whole.lane.digest() == adaple_bench(make_model("llama"), config, resources).lane.digest()


@BOTH
def test_a_replaced_edit_still_waits_behind_the_newer_one(
    config: AdapleConfig, resources: TextResources
) -> None:
    bench = adaple_bench(make_model("llama"), config, resources)
    old, new = bench.edit(LYON), bench.edit((LYON[0], "y"), seed=2)
    facts = {old.edits[0]: LYON, new.edits[0]: (LYON[0], "y")}
    made = _compaction(bench, facts)
    bench.lane.prepare(made).apply()
    both = bench.lane.digest()
    undo = bench.revert(*old.edits)
    assert bench.lane.digest() == both, "the older one did not act"
    undo()
    bench.revert(*new.edits)
    assert bench.lane.digest() != both
    only_old = adaple_bench(make_model("llama"), config, resources)
    only_old.lane.prepare(old).apply()
    assert bench.lane.digest() == only_old.lane.digest(), "as it was fitted"


def test_later_fits_still_know_the_keys(resources: TextResources) -> None:
    bench = adaple_bench(make_model("llama"), TOP, resources)
    commit = bench.edit(LYON)
    bench.lane.prepare(_compaction(bench, {commit.edits[0]: LYON})).apply()
    assert bench.lane.memory.value.gram(1) is not None
    assert bench.lane.state.names == commit.edits


def test_what_cannot_be_compacted_is_refused(resources: TextResources) -> None:
    bench = adaple_bench(make_model("llama"), TOP, resources)
    commit = bench.edit(LYON)
    edits = [_edit(commit.edits[0], LYON)]
    with pytest.raises(InvalidRequestError, match="has no experts"):
        bench.lane.compact(edits, num_experts=2, seed=0)
    made = _compaction(bench, {commit.edits[0]: LYON})
    with pytest.raises(ArtifactCorruptError, match="does not carry the active edits"):
        bench.lane.prepare(replace(made, edits=("edits/7-0",)))
    topk = TOP.model_copy(update={"fusion": "topk", "drop": 0.5})
    with pytest.raises(InvalidRequestError, match="top-k"):
        adaple_bench(make_model("llama"), topk, resources).lane.compact(
            edits, num_experts=0, seed=0
        )
