"""A whole ELDER lane: what it learns, what it claims, and that all replicas hold the same."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from errata.editing.artifact import Artifact
from errata.editing.elder.allocation import allocate
from errata.editing.elder.queries import queries_of
from errata.editing.elder.scope import HeldOut, hamming, limit_of
from errata.editing.lane.commits import Commit, Reversal
from errata.editing.model.causal_lm import CausalLM
from errata.errors import (
    ArtifactCorruptError,
    BaseModelMismatchError,
    EditNotRevertibleError,
    FitError,
    LaneFullError,
)
from tests.unit.editing.elder_models import CODES, SMALL, Lane, make_experts, new_lane
from tests.unit.editing.lanes import are_answered, check_mixed_batch, restored
from tests.unit.editing.tiny_models import TextResources, make_model

FACTS = (
    ("The mother tongue of Danielle Darrieux is", "Finnish"),
    ("Nokia was founded in the town of", "Pisa"),
    ("Toyota makes", "football"),
    ("The tower of Pisa is in", "Finland"),
)
OTHERS = ("Zürich liegt in der", "Therefore it rains. You know", "東京は日本の")


def _answered(lane: Lane, facts: Sequence[tuple[str, str]]) -> list[bool]:
    return are_answered(lane.llm, lane.lane.view(), facts)


def _claimed(lane: Lane, prompts: Sequence[str]) -> list[str]:
    view = lane.lane.view()
    return [claim.edit if claim.holds else "" for claim in view.claims(prompts)]


@pytest.mark.parametrize("gates", ["edit", "row"])
@pytest.mark.parametrize("loss", ["guided", "balanced", "none"])
def test_edits_are_learned_and_retained(
    llama: CausalLM, resources: TextResources, gates: str, loss: str
) -> None:
    lane = Lane(llama, SMALL.model_copy(update={"gates": gates, "loss": loss}), resources)
    digest = llama.current_digest()
    lane.edit(*FACTS[:2])
    lane.edit(*FACTS[2:])
    assert all(_answered(lane, FACTS))
    assert llama.current_digest() == digest, "the base model is unchanged"
    assert all(parameter.grad is None for parameter in llama.model.parameters())


@pytest.mark.promise("P8", "P12")
def test_each_row_of_a_mixed_batch_is_answered_as_in_a_batch_of_one(
    llama: CausalLM, resources: TextResources
) -> None:
    lane = Lane(llama, SMALL, resources)
    lane.edit(*FACTS)
    view = lane.lane.view()
    check_mixed_batch(llama, view, [prompt for prompt, _ in FACTS], OTHERS)


def test_a_lane_reports_its_capacity_and_warns_before_it_is_full(
    llama: CausalLM, resources: TextResources
) -> None:
    narrow = SMALL.model_copy(update={"num_layers": 1, "num_experts": 3, "top_k": 1, "steps": 1})
    lane = Lane(llama, narrow, resources)
    assert lane.lane.report().warnings == ()
    lane.edit(*FACTS[:2])
    report = lane.lane.report()
    assert (report.sizes["edits"], report.sizes["capacity"], report.warnings) == (2, 3, ())
    lane.edit(FACTS[2])
    (warning,) = lane.lane.report().warnings
    assert warning.startswith("100% of the 3 allocations are taken")
    before = lane.lane.digest()
    with pytest.raises(LaneFullError):
        lane.edit(FACTS[3])
    assert lane.lane.digest() == before
    lane.edit((FACTS[2][0], "Helsinki"))  # a known fact keeps its allocation
    roomier = Lane(llama, narrow.model_copy(update={"num_experts": 5}), resources)
    roomier.edit(*FACTS)
    assert roomier.lane.report().warnings[0].startswith("80% of the 5 allocations are taken")


def test_a_huge_capacity_is_capped(llama: CausalLM, resources: TextResources) -> None:
    wide = {"num_layers": 3, "num_experts": 64, "top_k": 32, "rank": 1, "steps": 1}
    lane = Lane(llama, SMALL.model_copy(update=wide), resources)
    lane.edit(FACTS[0])
    assert lane.lane.report().sizes["capacity"] == 2**63 - 1


def test_codes_are_those_of_the_current_routers(llama: CausalLM, resources: TextResources) -> None:
    lane = Lane(llama, CODES, resources)
    lane.edit(*FACTS[:2])
    before = lane.lane.contents.codes[""]
    commit = lane.fit(*FACTS[2:])
    tensors = dict(commit.artifact.tensors)
    rng = torch.Generator().manual_seed(7)
    tensors["router_weight.size"] = torch.ones_like(tensors["router_weight.size"])
    steps = torch.randint(-2, 3, tensors["router_weight.steps"].shape, generator=rng)
    tensors["router_weight.steps"] = steps.to(torch.int8)
    artifact = Artifact(tensors, commit.artifact.metadata)
    lane.lane.prepare(replace(commit, artifact=artifact)).apply()
    contents = lane.lane.contents
    assert not torch.equal(before, contents.codes[""][:2]), "otherwise the test shows nothing"
    # distance 0 to themselves, so below ε = 1
    assert _claimed(lane, [prompt for prompt, _ in FACTS]) == list(contents.inventory.names)


def test_a_claim_needs_a_distance_below_epsilon(llama: CausalLM, resources: TextResources) -> None:
    lane = Lane(llama, CODES, resources)
    lane.edit(*FACTS[:1])
    contents = lane.lane.contents
    assert contents.learned is not None
    view = lane.lane.view()
    (claim,) = view.claims(OTHERS[:1])
    assert claim.score < 0
    for limit, holds in ((-claim.score, False), (-claim.score + 1, True)):
        other = replace(
            view, contents=replace(contents, learned=replace(contents.learned, limit=limit))
        )
        assert other.claims(OTHERS[:1])[0].holds is holds


def test_replicas_that_apply_the_same_commits_hold_the_same(
    llama: CausalLM, resources: TextResources
) -> None:
    lane = Lane(llama, SMALL, resources)
    lane.edit(*FACTS[:2])
    lane.edit(*FACTS[2:])
    other = new_lane(make_model("llama"))
    for commit in lane.commits:
        other.prepare(commit).apply()
    assert other.digest() == lane.lane.digest()
    again = Lane(make_model("llama"), SMALL, resources)
    again.edit(*FACTS[:2])
    again.edit(*FACTS[2:])
    assert again.lane.digest() == lane.lane.digest(), "the same fit on the same machine"


def test_a_trial_is_undone_bit_for_bit(llama: CausalLM, resources: TextResources) -> None:
    lane = Lane(llama, SMALL, resources)
    lane.edit(*FACTS[:2])
    before = lane.lane.digest()
    commit = lane.fit(*FACTS[2:])
    undo = lane.lane.prepare(commit).apply()
    assert lane.lane.digest() != before
    undo()
    assert lane.lane.digest() == before
    lane.lane.prepare(commit).apply()
    assert _answered(lane, FACTS) == [True] * 4


def test_a_reverted_edit_claims_nothing(llama: CausalLM, resources: TextResources) -> None:
    lane = Lane(llama, SMALL, resources)
    lane.edit(*FACTS)
    lane.revert("edits/2-1")
    assert _claimed(lane, [FACTS[1][0]]) == [""]
    assert _answered(lane, [FACTS[0], *FACTS[2:]]) == [True] * 3
    assert {texts.edit for texts in lane.lane.memory.value.drawn((), 1)} == {
        f"edits/2-{n}" for n in (0, 2, 3)
    }
    with pytest.raises(EditNotRevertibleError, match="edits/2-1"):
        lane.lane.prepare(Reversal(("edits/2-1",)))
    lane.revert(*(f"edits/2-{n}" for n in (0, 2, 3)))
    assert _claimed(lane, [prompt for prompt, _ in FACTS]) == [""] * 4, "none is left"


def test_the_newest_edit_of_a_fact_is_active(llama: CausalLM, resources: TextResources) -> None:
    lane = Lane(llama, SMALL, resources)
    lane.edit(*FACTS[:2])
    lane.edit((FACTS[0][0], "German"))
    assert _answered(lane, [(FACTS[0][0], "German"), FACTS[1]]) == [True, True]
    first, second = lane.lane.memory.value.drawn((), 1)
    assert {first.edit, second.edit} == {"edits/2-1", "edits/3-0"}
    lane.revert("edits/3-0")
    assert _claimed(lane, [FACTS[0][0]]) == ["edits/2-0"]


def test_a_snapshot_holds_everything(llama: CausalLM, resources: TextResources) -> None:
    lane = Lane(llama, SMALL, resources)
    lane.edit(*FACTS[:2])
    lane.edit(*FACTS[2:])
    for reverted in (["edits/2-0", "edits/2-1"], ["edits/3-0", "edits/3-1"]):
        lane.revert(*reverted)
        other = new_lane(llama)
        restored(lane.lane, other)
        assert other.digest() == lane.lane.digest(), "with edits left, and with none"
    commit = lane.edit(*FACTS)
    other.prepare(commit).apply()
    assert other.digest() == lane.lane.digest(), "both continue from the snapshot"


@pytest.mark.parametrize("replay", ["none", "reservoir", "all"])
def test_replay_is_drawn_from_active_edits(
    llama: CausalLM, resources: TextResources, replay: str
) -> None:
    config = SMALL.model_copy(
        update={"replay": replay, "replay_budget": 2, "replay_pool": 3, "steps": 1}
    )
    lane = Lane(llama, config, resources)
    lane.edit(*FACTS)
    facts = {texts.fact for texts in lane.lane.memory.value.drawn((), 1)}
    assert len(facts) == {"none": 0, "reservoir": 2, "all": 3}[replay]
    if replay == "reservoir":
        assert {texts.fact for texts in lane.lane.memory.value.drawn((), 2)} == facts, (
            "for any seed"
        )
    for fact in facts:
        assert fact not in {texts.fact for texts in lane.lane.memory.value.drawn({fact}, 1)}


@pytest.mark.parametrize("scope", ["codes", "cosine", "idf"])
def test_limits_are_calibrated_on_held_out_prompts(
    llama: CausalLM, resources: TextResources, scope: str
) -> None:
    values = {"scope": scope, "false_claims": 0.25, "threshold": None, "num_experts": 8, "steps": 1}
    config = SMALL.model_copy(update=values)
    rng = torch.Generator().manual_seed(0)
    experts = make_experts(llama, config)
    d_q = experts.shape.d_q
    drawn = torch.randn(200, d_q, generator=rng)
    vectors = torch.nn.functional.normalize(drawn[:100], dim=-1)
    held_out = HeldOut(drawn[:100], (), torch.zeros(0), vectors)
    stored = drawn[100:]
    if scope != "codes":
        stored = torch.nn.functional.normalize(stored, dim=-1)
    limits = [limit_of(config, held_out, experts, stored[:n]) for n in (1, 10, 100)]
    if scope == "codes":
        assert limits[0] >= limits[1] >= limits[2] >= 0, "ε falls as codes fill the space"
        assert limits[0] > limits[2]
    else:
        assert limits[0] < limits[1] < limits[2] < 1, "τ rises as keys fill the space"
        for limit, n in zip(limits, (1, 10, 100), strict=True):
            claimed = ((vectors @ stored[:n].T).amax(1) > limit).float().mean()
            assert claimed == pytest.approx(0.25, abs=0.011)


def test_the_papers_rule_claims_nearly_everything() -> None:
    """ε = 12 among uniform codes: 30 stored codes claim nearly all queries."""
    codes = torch.stack([allocate(f"{n:03x}", (), 6, 4, 2) for n in range(400)])
    distances = hamming(codes[100:], codes[:30])
    assert (distances < 12).float().mean() == pytest.approx(0.358, abs=0.03)
    assert (distances[:, :10].amin(1) < 12).float().mean() > 0.97
    assert (distances.amin(1) < 12).float().mean() > 0.995


def test_a_fit_with_values_that_are_not_finite_is_refused(
    llama: CausalLM, resources: TextResources
) -> None:
    lane = Lane(llama, SMALL.model_copy(update={"learning_rate": 3e37}), resources)
    before = lane.lane.digest()
    with pytest.raises(FitError, match="smaller learning_rate"):
        lane.edit(*FACTS)
    assert lane.lane.digest() == before


@pytest.mark.parametrize("what", ["shape", "limit", "lora_a", "base", "method"])
def test_an_artifact_that_does_not_fit_changes_nothing(
    llama: CausalLM, resources: TextResources, what: str
) -> None:
    lane = Lane(llama, SMALL, resources)
    commit = lane.fit(*FACTS)
    tensors, metadata = dict(commit.artifact.tensors), dict(commit.artifact.metadata)
    if what == "shape":
        metadata["shape"] = metadata["shape"].replace('"rank": 4', '"rank": 5')
    elif what == "limit":
        metadata["limit"] = "much"
    elif what == "lora_a":
        tensors["lora_a"] = tensors["lora_a"][:, :, :-1].contiguous()
    elif what == "base":
        metadata["base_model"] = "0" * 64
    else:
        metadata["method"] = "recipe"
    before = lane.lane.digest()
    wrong = replace(commit, artifact=Artifact(tensors, metadata))
    error = BaseModelMismatchError if what == "base" else ArtifactCorruptError
    with pytest.raises(error):
        lane.lane.prepare(wrong)
    assert lane.lane.digest() == before


def test_a_commit_carries_a_difference_that_applies_only_to_its_base(
    llama: CausalLM, resources: TextResources
) -> None:
    lane, other = (Lane(llama, SMALL, resources) for _ in range(2))
    first, second = lane.edit(*FACTS[:2]), lane.edit(*FACTS[2:])

    def num_bytes(commit: Commit) -> int:
        prefixes = ("lora", "router")
        tensors = commit.artifact.tensors.items()
        return sum(tensor.nbytes for name, tensor in tensors if name.startswith(prefixes))

    assert num_bytes(second) < 0.35 * num_bytes(first), "even of narrow experts"
    before = other.lane.digest()
    with pytest.raises(ArtifactCorruptError, match="that the lane does not hold"):
        other.lane.prepare(second)
    assert other.lane.digest() == before
    for commit in (first, second):
        other.lane.prepare(commit).apply()
    assert other.lane.digest() == lane.lane.digest()
    repository = other.lane.dump()().contents
    assert repository is not None
    assert repository.artifact.metadata["since"] == "", "a snapshot holds full experts"


def test_queries_do_not_depend_on_edits(llama: CausalLM, resources: TextResources) -> None:
    lane = Lane(llama, SMALL, resources)
    lane.edit(*FACTS)
    contents = lane.lane.contents
    assert contents.learned is not None
    again = queries_of(llama, contents.learned.experts.shape, [prompt for prompt, _ in FACTS])
    torch.testing.assert_close(again, contents.repository.values)
