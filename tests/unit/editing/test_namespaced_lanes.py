"""Lanes of all methods that route, with edits of several namespaces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from errata.editing.artifact import Artifact
from errata.editing.edit import Edit, EditBatch
from errata.editing.lane.commits import Commit, Promotion, Reversal
from errata.editing.lane.routed import RoutedLane
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.editing.namespaces import DEFAULT_ONLY, Reading
from errata.engine import offline
from errata.errors import InvalidEditError
from tests.unit.editing import elder_models, lemoe_models, recipe_models
from tests.unit.editing.lanes import restored
from tests.unit.editing.recipe_models import NoText, make_lane_model, model_commit
from tests.unit.editing.tiny_models import TextResources

PROMPT = "Toyota makes"
OTHER = "The tower of Pisa is in"
WORDS = ("", "Today", "They say that", "In fact", "Because", "Zürich")
A: Reading = ("team-a",)
B: Reading = ("team-b",)

Lane = RoutedLane[Any]
Make = Callable[[CausalLM], Lane]


def _recipe(llm: CausalLM) -> Lane:
    return recipe_models.bare_lane(llm)


def _elder(llm: CausalLM, **changes: object) -> Lane:
    return elder_models.new_lane(llm, elder_models.BANKS.model_copy(update=changes))


def _codes(llm: CausalLM) -> Lane:
    return elder_models.new_lane(llm, elder_models.CODES.model_copy(update={"bank_edits": 4}))


def _lemoe(llm: CausalLM) -> Lane:
    return lemoe_models.new_lane(llm)


def _gated(llm: CausalLM) -> Lane:
    changes = {"scope": "retriever", "threshold": None}
    return lemoe_models.new_lane(llm, lemoe_models.SMALL.model_copy(update=changes))


MAKERS: dict[str, Make] = {
    "recipe": _recipe,
    "elder": _elder,
    "codes": _codes,
    "lemoe": _lemoe,
    "gated": _gated,
}
NEED_MODEL = ("recipe", "gated")


def opened(llm: CausalLM, name: str, resources: TextResources) -> Lane:
    lane = MAKERS[name](llm)
    if name in NEED_MODEL:
        lane.prepare(model_commit(make_lane_model(llm))).apply()
    lane.gather(NoText() if name == "recipe" else resources)
    return lane


def fitted(lane: Lane, seq: int, namespace: str, *facts: tuple[str, str]) -> Commit:
    edits = tuple(
        Edit(f"edits/{seq}-{n}", prompt, target, prompt.split()[0], namespace=namespace)
        for n, (prompt, target) in enumerate(facts)
    )
    result = lane.fit(EditBatch(edits, seed=1))
    names = tuple(edit.name for edit in edits)
    memory = None if result.memory is None else Artifact.from_bytes(result.memory.to_bytes())
    outside = dict.fromkeys(names, namespace) if namespace else {}
    return Commit(seq, names, Artifact.from_bytes(result.artifact.to_bytes()), memory, outside)


def edit(lane: Lane, seq: int, namespace: str, *facts: tuple[str, str]) -> Commit:
    commit = fitted(lane, seq, namespace, *facts)
    lane.prepare(commit).apply()
    return commit


def claimed(lane: Lane, prompt: str, *readings: Reading) -> list[str]:
    """The edit that claims the prompt, for each reading, all in one batch."""
    view: Any = lane.view()
    found = view.claims([prompt] * len(readings), list(readings))
    return [claim.edit if claim.holds else "" for claim in found]


def scores(lane: Lane, prompt: str, target: str, *readings: Reading) -> list[tuple[float, ...]]:
    """log p of the target's tokens under each reading, in one batch."""
    view: Any = lane.view()
    plans = view.plans(view.claims([prompt] * len(readings), list(readings)))
    row = tokenise(lane.causal_lm, prompt, target)
    ids, wanted = row.ids[: -row.num_target], row.ids[-row.num_target :]
    made, _ = offline.score(lane.causal_lm, [ids] * len(plans), [wanted] * len(plans), plans)
    return [tuple(each) for each in made]


@pytest.mark.promise("P8")
@pytest.mark.parametrize("name", MAKERS)
def test_claims_and_answers_stay_in_their_namespace(
    llama: CausalLM, resources: TextResources, name: str
) -> None:
    lane = opened(llama, name, resources)
    edit(lane, 2, "team-a", (PROMPT, "football"))
    edit(lane, 3, "team-b", (PROMPT, "Finland"))
    edit(lane, 4, "team-d", (OTHER, "Finland"))
    readings = (A, B, DEFAULT_ONLY, ("team-a", "team-b"), ("", "team-c"))
    assert claimed(lane, PROMPT, *readings) == ["edits/2-0", "edits/3-0", "", "edits/3-0", ""]
    assert claimed(lane, OTHER, ("team-d",), DEFAULT_ONLY) == ["edits/4-0", ""]
    found = scores(lane, PROMPT, "football", *readings)
    base = offline.score(
        llama,
        [tokenise(llama, PROMPT).ids] * len(readings),
        [tokenise(llama, PROMPT, "football").ids[len(tokenise(llama, PROMPT).ids) :]]
        * len(readings),
        None,
    )[0]
    for row in (2, 4):  # RECIPE's prefixes give the batch another shape
        assert found[row] == pytest.approx(base[row], abs=1e-4), "as the base model answers"
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert found[a] != pytest.approx(found[b], abs=1e-3), "each namespace has its own answer"
    assert found[3] == pytest.approx(found[1], abs=1e-4), "rows of a batch differ by rounding"


@pytest.mark.parametrize("name", MAKERS)
def test_what_a_namespace_learns_changes_no_answer_of_another(
    llama: CausalLM, resources: TextResources, name: str
) -> None:
    lane = opened(llama, name, resources)
    edit(lane, 2, "team-a", (PROMPT, "football"))
    before = scores(lane, PROMPT, "football", A, A)[0]
    edit(lane, 3, "team-b", (OTHER, "Finland"), (PROMPT, "Finland"))
    edit(lane, 4, "", (PROMPT, "Pisa"))
    assert scores(lane, PROMPT, "football", A, A)[0] == pytest.approx(before, abs=1e-4)
    lane.prepare(Reversal(("edits/3-0", "edits/3-1", "edits/4-0"))).apply()
    assert scores(lane, PROMPT, "football", A, A)[0] == pytest.approx(before, abs=1e-4)


@pytest.mark.promise("P7", "P11")
@pytest.mark.parametrize("name", MAKERS)
def test_namespaces_are_in_digests_snapshots_and_reversals(
    llama: CausalLM, resources: TextResources, name: str
) -> None:
    lane = opened(llama, name, resources)
    edit(lane, 2, "team-d", (OTHER, "Finland"))
    digest = lane.digest()
    commit = fitted(lane, 3, "team-a", (PROMPT, "football"))
    undo = lane.prepare(replace(commit, namespaces={})).apply()
    elsewhere = lane.digest()
    undo()
    lane.prepare(commit).apply()
    assert len({digest, elsewhere, lane.digest()}) == 3
    other = MAKERS[name](llama)
    model = model_commit(make_lane_model(llama)).model if name in NEED_MODEL else None
    outside = {"edits/2-0": "team-d", "edits/3-0": "team-a"}
    restored(lane, other, model, outside)
    assert other.digest() == lane.digest()
    assert claimed(other, PROMPT, A, DEFAULT_ONLY) == ["edits/3-0", ""]
    lane.prepare(Reversal(("edits/3-0",))).apply()
    assert claimed(lane, PROMPT, A, DEFAULT_ONLY) == ["", ""]
    if name not in ("elder", "codes"):  # whose experts may remember; see its reversal
        assert lane.digest() == digest


@pytest.mark.promise("P7", "P8")
@pytest.mark.parametrize("name", MAKERS)
def test_a_canary_is_read_by_its_requests_alone_until_it_is_promoted(
    llama: CausalLM, resources: TextResources, name: str
) -> None:
    lane, place = opened(llama, name, resources), "team-a~spring"
    within: Reading = ("team-a", place)
    edit(lane, 2, "team-a", (PROMPT, "football"))
    edit(lane, 3, "team-d", (OTHER, "Finland"))
    before = lane.digest()
    edit(lane, 4, place, (PROMPT, "Finland"))
    assert claimed(lane, PROMPT, A, within, ("*",)) == ["edits/2-0", "edits/4-0", "edits/2-0"]
    tried, told = scores(lane, PROMPT, "Finland", within, within)[0], lane.digest()
    lane.prepare(Promotion(("edits/4-0",), "team-a")).apply()
    assert len({before, told, lane.digest()}) == 3
    assert claimed(lane, PROMPT, A, DEFAULT_ONLY, ("*",)) == ["edits/4-0", "", "edits/4-0"]
    assert scores(lane, PROMPT, "Finland", A, A)[0] == pytest.approx(tried, abs=1e-4)
    other = MAKERS[name](llama)
    model = model_commit(make_lane_model(llama)).model if name in NEED_MODEL else None
    outside = {"edits/2-0": "team-a", "edits/3-0": "team-d", "edits/4-0": "team-a"}
    restored(lane, other, model, outside)
    assert other.digest() == lane.digest()
    lane.prepare(Reversal(("edits/4-0",))).apply()
    assert claimed(lane, PROMPT, A) == ["edits/2-0"], "the earlier edit answers again"


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_tried_is_what_is_promoted(
    llama: CausalLM, resources: TextResources, name: str
) -> None:
    """Also for other wordings, which the older edit's key can be nearer to."""
    lane, within = opened(llama, name, resources), ("", "~spring")
    edit(lane, 2, "", (PROMPT, "football"), (OTHER, "Finland"))
    edit(lane, 3, "~spring", (PROMPT, "Finland"))
    prompts = [f"{start} {PROMPT}{end}" for start in WORDS for end in ("", " and", " not")]
    prompts += [PROMPT, OTHER]
    tried = [claimed(lane, prompt, within)[0] for prompt in prompts]
    rest = [claimed(lane, prompt, DEFAULT_ONLY)[0] for prompt in prompts]
    lane.prepare(Promotion(("edits/3-0",), "")).apply()
    assert tried == [claimed(lane, prompt, DEFAULT_ONLY)[0] for prompt in prompts]
    assert "edits/2-0" not in tried
    assert rest[-2] == "edits/2-0"
    if name in ("recipe", "gated"):
        assert rest.count("edits/2-0") > 1, "control: the older edit claims other wordings"


@pytest.mark.parametrize("name", MAKERS)
def test_a_promoted_edit_does_not_supersede_a_newer_one(
    llama: CausalLM, resources: TextResources, name: str
) -> None:
    lane = opened(llama, name, resources)
    edit(lane, 2, "~spring", (PROMPT, "Finland"))
    edit(lane, 3, "", (PROMPT, "football"))
    undo = lane.prepare(Promotion(("edits/2-0",), "")).apply()
    assert claimed(lane, PROMPT, DEFAULT_ONLY) == ["edits/3-0"]
    undo()
    assert claimed(lane, PROMPT, ("", "~spring")) == ["edits/3-0"]
    lane.prepare(Promotion(("edits/2-0",), "")).apply()
    edit(lane, 5, "", (OTHER, "Finland"))
    assert claimed(lane, OTHER, DEFAULT_ONLY) == ["edits/5-0"], "edits go on"


def test_a_lane_that_mixes_experts_takes_one_namespace(
    llama: CausalLM, resources: TextResources
) -> None:
    for lane in (
        _elder(llama, bank_edits=0),
        lemoe_models.new_lane(llama, lemoe_models.LITERAL),
    ):
        lane.gather(resources)
        edit(lane, 2, "team-a", (PROMPT, "football"))
        with pytest.raises(InvalidEditError, match="another") as caught:
            fitted(lane, 3, "", (OTHER, "Finland"))
        assert "team-a" not in caught.value.message, "who asks may not know that it exists"
        assert caught.value.field == "namespace"
        edit(lane, 3, "team-a", (OTHER, "Finland"))


def test_a_bank_learns_the_edits_of_one_namespace(
    llama: CausalLM, resources: TextResources
) -> None:
    lane = _elder(llama, bank_edits=8)
    lane.gather(resources)
    edit(lane, 2, "team-a", (PROMPT, "football"))
    edit(lane, 3, "team-a", (OTHER, "Finland"))
    assert len(lane.contents.frozen.banks) == 0, "one namespace shares a bank"
    edit(lane, 4, "team-b", (PROMPT, "Pisa"))
    (bank,) = lane.contents.frozen.banks
    assert bank.edits == ("edits/2-0", "edits/3-0")


@pytest.mark.parametrize("bank_edits", [0, 8])
def test_a_bank_without_edits_forgets_before_the_next_namespace_learns(
    llama: CausalLM, resources: TextResources, bank_edits: int
) -> None:
    used, new = (_elder(llama, bank_edits=bank_edits) for _ in range(2))
    for lane in (used, new):
        lane.gather(resources)
    edit(used, 2, "team-a", (PROMPT, "football"))
    used.prepare(Reversal(("edits/2-0",))).apply()
    commits = [fitted(lane, 3, "team-b", (OTHER, "Finland")) for lane in (used, new)]
    for commit, lane in zip(commits, (used, new), strict=True):
        lane.prepare(commit).apply()
    experts = [lane.contents.learned.experts.tensors() for lane in (used, new)]
    assert experts[0].keys() == experts[1].keys()
    assert all(torch.equal(experts[0][name], experts[1][name]) for name in experts[0])
