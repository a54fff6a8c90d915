"""Banks of ELDER's experts: what later fits leave alone, and how a lane with several is stored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError
from torch import Tensor

from errata.editing.artifact import Artifact
from errata.editing.edit import Edit, EditBatch
from errata.editing.elder.config import ElderConfig
from errata.editing.lane.commits import Commit, Compaction
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.engine import offline
from errata.errors import ArtifactCorruptError
from tests.unit.editing.elder_models import BANKS, SMALL, Lane, new_lane
from tests.unit.editing.lanes import are_answered, check_mixed_batch, restored
from tests.unit.editing.recipe_models import make_lane_model, model_commit
from tests.unit.editing.tiny_models import TextResources

FACTS = (
    ("The mother tongue of Danielle Darrieux is", "Finnish"),
    ("Nokia was founded in the town of", "Pisa"),
    ("Toyota makes", "football"),
    ("The tower of Pisa is in", "Finland"),
    ("Danielle Darrieux plays", "football"),
)
OTHERS = ("Zürich liegt in der", "Therefore it rains. You know", "東京は日本の")


def _scores(lane: Lane, facts: tuple[tuple[str, str], ...]) -> list[tuple[float, ...]]:
    """log p of each target's tokens, in one batch."""
    view = lane.lane.view()
    rows = [tokenise(lane.llm, *fact) for fact in facts]
    plans = view.plans(view.claims([prompt for prompt, _ in facts]))
    prompts = [row.ids[: -row.num_target] for row in rows]
    targets = [row.ids[-row.num_target :] for row in rows]
    return [tuple(found) for found in offline.score(lane.llm, prompts, targets, plans)[0]]


def _answered(lane: Lane, facts: Sequence[tuple[str, str]]) -> list[bool]:
    return are_answered(lane.llm, lane.lane.view(), facts)


def _banks(lane: Lane) -> list[tuple[str, ...]]:
    """The edits of each bank, the one that learns last."""
    contents = lane.lane.contents
    rest = [name for name in contents.inventory.names if name not in contents.frozen.bank_of]
    return [*(bank.edits for bank in contents.frozen.banks), tuple(rest)]


def _experts(commit: Commit) -> dict[str, Tensor]:
    tensors = commit.artifact.tensors
    return {n: t for n, t in tensors.items() if n.startswith(("lora", "router"))}


def test_later_fits_change_no_bit_of_an_answer_from_a_frozen_bank(
    llama: CausalLM, resources: TextResources
) -> None:
    changed = {}
    for config in (BANKS, SMALL):
        lane = Lane(llama, config, resources)
        lane.edit(*FACTS[:2])
        before = _scores(lane, FACTS[:2])
        lane.edit(*FACTS[2:4])
        lane.edit(FACTS[4])
        changed[config.bank_edits] = _scores(lane, FACTS[:2]) != before
    assert changed == {2: False, 0: True}, "with one bank, later fits do change them"


def test_edits_of_all_banks_are_answered(llama: CausalLM, resources: TextResources) -> None:
    lane = Lane(llama, BANKS, resources)
    lane.edit(*FACTS[:2])
    lane.edit(FACTS[2])
    lane.edit(FACTS[3])
    lane.edit(FACTS[4])
    assert all(_answered(lane, FACTS))
    assert [len(edits) for edits in _banks(lane)] == [2, 2, 1]
    assert lane.lane.report().sizes["banks"] == 3
    shape = lane.lane.contents.learned.experts.shape
    assert lane.lane.report().sizes["parameters"] == 3 * shape.num_parameters


@pytest.mark.promise("P8", "P12")
def test_rows_of_different_banks_share_a_batch(llama: CausalLM, resources: TextResources) -> None:
    lane = Lane(llama, BANKS, resources)
    lane.edit(*FACTS[:2])
    lane.edit(*FACTS[2:4])
    check_mixed_batch(llama, lane.lane.view(), [prompt for prompt, _ in FACTS[:4]], OTHERS)


def test_a_commit_that_starts_a_bank_is_whole_and_the_next_one_a_difference(
    llama: CausalLM, resources: TextResources
) -> None:
    lane = Lane(llama, BANKS, resources)
    commits = [lane.edit(*FACTS[:2]), lane.edit(FACTS[2]), lane.edit(FACTS[3])]
    assert [bool(commit.artifact.metadata["since"]) for commit in commits] == [False, False, True]
    replica = new_lane(llama, BANKS)
    for commit in commits:
        replica.prepare(commit).apply()
    assert replica.digest() == lane.lane.digest()
    other = new_lane(llama, BANKS)
    other.prepare(commits[0]).apply()
    with pytest.raises(ArtifactCorruptError, match="that the lane does not hold"):
        other.prepare(commits[2])


def test_a_batch_that_is_larger_than_a_bank_fills_several(
    llama: CausalLM, resources: TextResources
) -> None:
    lane = Lane(llama, BANKS, resources)
    lane.edit(FACTS[0])
    commit = lane.edit(*FACTS[1:])
    assert [len(edits) for edits in _banks(lane)] == [1, 2, 2]
    assert all(_answered(lane, FACTS))
    first = Lane(llama, BANKS, resources)
    first.edit(*FACTS)
    assert [len(edits) for edits in _banks(first)] == [2, 2, 1]
    replica = new_lane(llama, BANKS)
    for one in lane.commits:
        replica.prepare(one).apply()
    assert replica.digest() == lane.lane.digest()
    assert commit.artifact.tensors["bank_of"].tolist() == [0, 0, -1, -1]


def test_two_edits_of_one_fact_in_different_banks_of_a_batch(
    llama: CausalLM, resources: TextResources
) -> None:
    lane = Lane(llama, BANKS, resources)
    lane.edit(*FACTS[:3], (FACTS[0][0], "German"))
    assert _banks(lane) == [("edits/2-0", "edits/2-1"), ("edits/2-2", "edits/2-3")]
    assert all(_answered(lane, ((FACTS[0][0], "German"), *FACTS[1:3])))
    lane.revert("edits/2-3")
    assert all(_answered(lane, FACTS[:3]))


def test_a_bank_without_edits_left_is_not_continued_by_a_batch_of_several(
    llama: CausalLM, resources: TextResources
) -> None:
    lane = Lane(llama, BANKS.model_copy(update={"steps": 1}), resources)
    lane.edit(FACTS[0])
    lane.revert("edits/2-0")
    commit = lane.edit(*FACTS)
    assert commit.artifact.metadata["since"] == ""
    assert [len(edits) for edits in _banks(lane)] == [2, 2, 1]


def test_a_bank_holds_no_more_edits_than_it_has_allocations(
    llama: CausalLM, resources: TextResources
) -> None:
    narrow = {"num_layers": 1, "num_experts": 3, "top_k": 1, "steps": 1, "bank_edits": 8}
    lane = Lane(llama, SMALL.model_copy(update=narrow), resources)
    lane.edit(*FACTS)
    assert [len(edits) for edits in _banks(lane)] == [3, 2]
    assert lane.lane.report().warnings == ()


def test_a_snapshot_holds_all_banks(llama: CausalLM, resources: TextResources) -> None:
    lane = Lane(llama, BANKS, resources)
    for fact in FACTS:
        lane.edit(fact)
    lane.edit((FACTS[0][0], "Pisa"))
    other = new_lane(llama, BANKS)
    restored(lane.lane, other)
    assert other.digest() == lane.lane.digest()
    commit = lane.edit(("Nokia makes", "Finland"))
    other.prepare(commit).apply()
    assert other.digest() == lane.lane.digest(), "both continue from the snapshot"
    kept = [lane.lane.dump()().contents for _ in range(2)]
    assert all(table is not None for table in kept)


def test_a_snapshot_of_banks_has_the_digest_of_the_lane_in_any_order_of_edits(
    llama: CausalLM, resources: TextResources
) -> None:
    """A new lane model's commit lists edits in the order in which they were submitted."""
    config = BANKS.model_copy(update={"scope": "retriever", "threshold": None, "steps": 1})
    lane, other = Lane(llama, config, resources), new_lane(llama, config)
    model = make_lane_model(llama)
    lane.lane.prepare(model_commit(model)).apply()
    names = ("edits/9-0", "edits/3-0", "edits/12-0")
    edits = [
        Edit(name, *fact, fact[0].split()[0]) for name, fact in zip(names, FACTS, strict=False)
    ]
    for number, edit in enumerate(edits, start=12):
        fitted = lane.lane.fit(EditBatch((edit,), 1, 0))
        lane.lane.prepare(Commit(number, (edit.name,), fitted.artifact, fitted.memory)).apply()
    submitted = [edits[1], edits[0], edits[2]]
    model = make_lane_model(llama, seed=4)
    rows = lane.lane.encode(model.to_artifact().to_bytes(), submitted)
    listed = tuple(edit.name for edit in submitted)
    lane.lane.prepare(model_commit(model, listed, rows, seq=20)).apply()
    assert lane.lane.contents.frozen.banks[0].edits == names[:2]
    assert lane.lane.contents.inventory.names == listed
    restored(lane.lane, other, model.to_artifact())
    assert other.digest() == lane.lane.digest()


def test_reverted_edits_take_their_bank_with_them(
    llama: CausalLM, resources: TextResources
) -> None:
    lane = Lane(llama, BANKS, resources)
    lane.edit(*FACTS[:2])
    lane.edit(*FACTS[2:4])
    full = lane.lane.digest()
    undo = lane.revert("edits/2-0")
    assert [len(edits) for edits in _banks(lane)] == [1, 2]
    undo()
    assert lane.lane.digest() == full
    lane.revert("edits/2-0", "edits/2-1")
    assert [len(edits) for edits in _banks(lane)] == [2]
    assert all(_answered(lane, FACTS[2:4]))
    lane.edit(FACTS[4])
    assert [len(edits) for edits in _banks(lane)] == [2, 1]


def test_a_newer_edit_of_a_fact_is_answered_from_its_own_bank(
    llama: CausalLM, resources: TextResources
) -> None:
    lane = Lane(llama, BANKS, resources)
    lane.edit(*FACTS[:2])
    lane.edit((FACTS[0][0], "German"))
    assert _answered(lane, ((FACTS[0][0], "German"), FACTS[1])) == [True, True]
    lane.revert("edits/3-0")
    assert _answered(lane, FACTS[:2]) == [True, True]


def test_only_edits_of_the_bank_that_learns_are_replayed(
    llama: CausalLM, resources: TextResources
) -> None:
    lane = Lane(llama, BANKS.model_copy(update={"steps": 1}), resources)
    lane.edit(*FACTS[:2])
    lane.edit(FACTS[2])
    others = lane.lane.contents.frozen.bank_of
    drawn = lane.lane.memory.value.drawn((), 1, others)
    assert [texts.edit for texts in drawn] == ["edits/3-0"]


@pytest.mark.parametrize("replay_rows", [48, 1])
def test_a_compaction_trains_new_banks(
    llama: CausalLM, resources: TextResources, replay_rows: int
) -> None:
    """Also where no step sees a whole bank."""
    lane = Lane(llama, BANKS.model_copy(update={"replay_rows": replay_rows}), resources)
    for fact in FACTS:
        lane.edit(fact)
    lane.revert("edits/3-0")
    names = lane.lane.contents.inventory.names
    left = (FACTS[0], *FACTS[2:])
    edits = [
        Edit(name, prompt, target, prompt.split()[0])
        for name, (prompt, target) in zip(names, left, strict=True)
    ]
    artifact = lane.lane.compact(edits, num_experts=0, seed=3)
    stored = Artifact.from_bytes(artifact.to_bytes())
    lane.lane.prepare(Compaction(20, names, stored)).apply()
    assert [len(edits) for edits in _banks(lane)] == [2, 2]
    assert all(_answered(lane, left))


def test_adapters_of_each_bank_are_exported(
    llama: CausalLM, resources: TextResources, tmp_path: Path
) -> None:
    lane = Lane(llama, BANKS.model_copy(update={"steps": 1}), resources)
    lane.edit(*FACTS[:2])
    lane.edit(FACTS[2])
    found = lane.lane.export(llama, tmp_path, "base")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        f"bank-{bank}/expert-{expert}" for bank in range(2) for expert in range(4)
    ]


def test_commits_of_versions_without_banks_change_the_only_bank(
    llama: CausalLM, resources: TextResources
) -> None:
    """They name no bank, and the oldest of them hold all parameters each time."""
    lane = Lane(llama, SMALL, resources)
    commits = [lane.edit(*FACTS[:2]), lane.edit(*FACTS[2:4])]
    whole = lane.lane.dump()().contents
    assert whole is not None
    tensors = {**commits[1].artifact.tensors}
    tensors = {n: t for n, t in tensors.items() if n not in _experts(commits[1])}
    parameters = {n: whole.artifact.tensors[n] for n in _experts(commits[0])}
    metadata = {**commits[1].artifact.metadata}
    del metadata["since"]
    old = replace(commits[1], artifact=Artifact({**tensors, **parameters}, metadata))
    replica = new_lane(llama, SMALL)
    for commit in (commits[0], old):
        replica.prepare(commit).apply()
    assert replica.digest() == lane.lane.digest()
    assert replica.contents.frozen.banks == ()


def test_a_configuration_in_the_log_without_banks_has_one() -> None:
    written = json.loads(ElderConfig().model_dump_json())
    del written["bank_edits"]
    assert ElderConfig.model_validate_json(json.dumps(written)).bank_edits == 0
    assert ElderConfig.model_validate_json(ElderConfig().model_dump_json()) == ElderConfig()
    with pytest.raises(ValidationError, match="codes of one bank"):
        ElderConfig(scope="codes", bank_edits=16)


def test_an_artifact_with_banks_that_do_not_fit_is_refused(
    llama: CausalLM, resources: TextResources
) -> None:
    lane = Lane(llama, BANKS.model_copy(update={"steps": 1}), resources)
    commit = lane.fit(*FACTS)
    tensors = dict(commit.artifact.tensors)
    numbers = tensors["bank_of"].clone()
    numbers[0] = 9
    missing = {name: t for name, t in tensors.items() if name != "bank.1.lora_b"}
    gap = {name.replace("bank.1.", "bank.7."): t for name, t in tensors.items()}
    for wrong in ({**tensors, "bank_of": numbers}, missing, gap):
        artifact = Artifact(wrong, commit.artifact.metadata)
        with pytest.raises(ArtifactCorruptError):
            lane.lane.prepare(replace(commit, artifact=artifact))


def test_a_fit_is_the_same_each_time_and_stops_when_all_is_learned(
    llama: CausalLM, resources: TextResources, steps: list[int]
) -> None:
    config = BANKS.model_copy(update={"steps": 300, "stop_loss": 2.0})
    lane = Lane(llama, config, resources)
    commits = []
    for _ in range(2):
        steps.append(0)
        commits.append(lane.fit(*FACTS[:2]))
    assert steps[0] == steps[1] < 300
    first, second = (commit.artifact for commit in commits)
    assert first.to_bytes() == second.to_bytes()


@pytest.mark.parametrize("at_once", [True, False])
def test_a_fit_goes_on_until_all_edits_of_its_bank_are_said(
    sure_llama: CausalLM, resources: TextResources, steps: list[int], at_once: bool
) -> None:
    batches = [FACTS[:2]] if at_once else [FACTS[:1], FACTS[1:2]]
    said = []
    for extra_steps in (0, 400):
        values = {"steps": 1, "stop_loss": 0.0, "extra_steps": extra_steps}
        lane = Lane(sure_llama, BANKS.model_copy(update=values), resources)
        steps.append(0)
        for batch in batches:
            lane.edit(*batch)
        said.append(_answered(lane, FACTS[:2]))
    assert not any(said[0])
    assert all(said[1])
    assert steps[0] == len(batches) < steps[1] < 400, "it ends as soon as all edits are said"
