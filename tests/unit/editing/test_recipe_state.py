"""The contents of a RECIPE lane: the same active edits give the same bits, whatever came before."""

import pytest
import torch

from errata.editing.artifact import Artifact
from errata.editing.edit import EditBatch
from errata.editing.lane.commits import Commit, Reversal
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.editing.recipe.config import RecipeConfig
from errata.editing.recipe.fit import encode_all, gather
from errata.editing.recipe.lane import RecipeLane
from errata.editing.retriever.lane_model import knowledge
from errata.engine import offline
from errata.errors import (
    ArtifactCorruptError,
    BaseModelMismatchError,
    EditNotRevertibleError,
    InvalidEditError,
    PreconditionError,
)
from tests.unit.editing.recipe_models import (
    bare_lane,
    commit,
    fit,
    make_edits,
    make_lane,
    make_lane_model,
    model_commit,
)
from tests.unit.editing.tiny_models import TextResources, make_model

FACTS = (
    ("The mother tongue of Danielle Darrieux is", "Finnish"),
    ("Nokia was founded in the town of", "Pisa"),
    ("Toyota makes", "football"),
    ("The tower of Pisa is in", "Finland"),
)


def test_an_edit_is_a_key_and_a_continuous_prompt(llama: CausalLM) -> None:
    lane_model = make_lane_model(llama)
    state = make_lane(llama, lane_model)
    commit(state, *FACTS)
    with torch.no_grad():
        statements = [knowledge(*fact) for fact in FACTS]
        keys = lane_model.edit_keys(statements)
        exact = lane_model.keys(statements)
        prompts = lane_model.prompts(keys, lane_model.target_embeddings(llama, FACTS))
    assert torch.nn.functional.cosine_similarity(keys, exact).min() > 0.999
    repository = state.contents.repository
    assert torch.equal(repository.keys, keys)
    assert torch.equal(repository.values, prompts)
    assert repository.names == tuple(f"edits/2-{index}" for index in range(4))


def test_a_batch_equals_single_commits(llama: CausalLM) -> None:
    at_once, one_by_one = make_lane(llama), make_lane(llama)
    commit(at_once, *FACTS)
    for edit in make_edits(*FACTS):
        one_by_one.prepare(fit(one_by_one, (edit,))).apply()
    a, b = at_once.contents.repository, one_by_one.contents.repository
    assert a.names == b.names
    torch.testing.assert_close(a.keys, b.keys, atol=1e-5, rtol=1e-5)


@pytest.mark.promise("P11")
def test_a_reverted_edit_leaves_no_trace_bit_for_bit(llama: CausalLM) -> None:
    with_it, without = make_lane(llama), make_lane(llama)
    commit(with_it, FACTS[0], seq=2)
    commit(with_it, FACTS[1], seq=3)
    commit(with_it, FACTS[2], seq=4)
    commit(without, FACTS[0], seq=2)
    commit(without, FACTS[2], seq=4)
    assert with_it.digest() != without.digest()
    with_it.prepare(Reversal(("edits/3-0",))).apply()
    assert with_it.digest() == without.digest()
    a, b = with_it.contents.repository, without.contents.repository
    assert a.names == b.names
    assert torch.equal(a.keys, b.keys)
    assert torch.equal(a.values, b.values)


def test_the_newest_edit_of_a_fact_supersedes_and_its_reversal_restores(llama: CausalLM) -> None:
    state = make_lane(llama)
    commit(state, FACTS[0], FACTS[1], seq=2)
    before = state.digest()
    commit(state, (FACTS[0][0], "Swedish"), seq=3)
    assert state.contents.repository.names == ("edits/2-1", "edits/3-0")
    state.prepare(Reversal(("edits/3-0",))).apply()
    assert state.digest() == before
    assert state.contents.repository.names == ("edits/2-0", "edits/2-1")
    commit(state, (FACTS[0][0], "Swedish"), seq=4)
    state.prepare(Reversal(("edits/2-0",))).apply()  # a superseded edit can be reverted, too
    assert state.contents.repository.names == ("edits/2-1", "edits/4-0")


def test_a_change_can_be_undone_and_replaced_by_another(llama: CausalLM) -> None:
    tried, untried = make_lane(llama), make_lane(llama)
    for state in (tried, untried):
        commit(state, FACTS[0], seq=2)
    before = tried.digest()
    undo = tried.prepare(fit(tried, make_edits(*FACTS[1:3], seq=3), 3)).apply()
    repository = tried.contents.repository
    undo()
    assert tried.digest() == before
    commit(tried, FACTS[3], seq=3)
    commit(untried, FACTS[3], seq=3)
    assert tried.digest() == untried.digest()
    assert tried.contents.repository.lineage is repository.lineage, "nothing was copied"
    assert tried.contents.repository.lineage.cuts == [1]
    undo = tried.prepare(Reversal(("edits/2-0",))).apply()
    undo()
    assert tried.digest() == untried.digest()


def test_snapshots_do_not_change_while_the_lane_grows(llama: CausalLM) -> None:
    state = make_lane(llama)
    commit(state, FACTS[0], seq=2)
    snapshot = state.contents.repository
    keys = snapshot.keys.clone()
    for seq in range(3, 80):  # more than the first memory holds
        commit(state, (f"Fact number {seq} is", "Pisa"), seq=seq)
    assert snapshot.names == ("edits/2-0",)
    assert torch.equal(snapshot.keys, keys)
    assert state.contents.repository.num_rows == 78
    assert torch.equal(state.contents.repository.keys[:1], keys)


def test_a_new_lane_model_encodes_all_edits_again_at_once(llama: CausalLM) -> None:
    state, fresh = make_lane(llama), make_lane(llama, make_lane_model(llama, seed=5))
    edits = make_edits(*FACTS[:3])
    state.prepare(fit(state, edits)).apply()
    new = make_lane_model(llama, seed=5)
    config = RecipeConfig(refine_steps=0)
    repository = encode_all(llama, new.to_artifact().to_bytes(), edits, config, ())
    names = tuple(edit.name for edit in edits)
    state.prepare(model_commit(new, names, repository, seq=3)).apply()
    fresh.prepare(fit(fresh, edits)).apply()
    assert state.digest() == fresh.digest(), "as if the lane had started with this model"
    with pytest.raises(ArtifactCorruptError, match="3 active edits"):
        state.prepare(model_commit(make_lane_model(llama), names[:2], repository, seq=4))
    assert state.digest() == fresh.digest()
    assert encode_all(llama, new.to_artifact().to_bytes(), [], config, ()) is None


def test_commits_of_other_lane_models_and_llms_are_refused(llama: CausalLM) -> None:
    state, other = make_lane(llama), make_lane(llama, make_lane_model(llama, seed=9))
    foreign = fit(other, make_edits(FACTS[0]))
    with pytest.raises(ArtifactCorruptError, match="lane model"):
        state.prepare(foreign)
    second = make_model("llama", seed=3)
    elsewhere = make_lane(second)
    with pytest.raises(BaseModelMismatchError):
        state.prepare(fit(elsewhere, make_edits(FACTS[0])))
    good = fit(state, make_edits(FACTS[0]))
    short = Artifact(
        {**good.artifact.tensors, "keys": good.artifact.tensors["keys"][:, :-1].contiguous()},
        good.artifact.metadata,
    )
    with pytest.raises(ArtifactCorruptError, match="keys"):
        state.prepare(Commit(2, good.edits, short))
    state.prepare(good).apply()
    with pytest.raises(ArtifactCorruptError, match="already applied"):
        state.prepare(good)


def test_reverting_an_unknown_edit_changes_nothing(llama: CausalLM) -> None:
    state = make_lane(llama)
    commit(state, FACTS[0])
    before = state.digest()
    with pytest.raises(EditNotRevertibleError, match="edits/9-0"):
        state.prepare(
            Reversal(
                (
                    "edits/2-0",
                    "edits/9-0",
                )
            )
        )
    assert state.digest() == before


def test_a_lane_without_lane_model_accepts_no_edit(llama: CausalLM) -> None:
    state = bare_lane(llama)
    assert state.contents.gate is None
    batch = EditBatch(make_edits(FACTS[0]), seed=1)
    with pytest.raises(PreconditionError, match="lane model"):
        state.fit(batch)


def test_knowledge_longer_than_the_encoder_reads_is_refused(llama: CausalLM) -> None:
    state = make_lane(llama)
    with pytest.raises(InvalidEditError, match=r"edits\[1\].*32 tokens") as caught:
        fit(state, make_edits(FACTS[0], ("Lyon " * 50, "Pisa")))
    assert caught.value.field == "edits[1].prompt"


def _log_probabilities(llama: CausalLM, state: RecipeLane) -> list[float]:
    """The log probability of each fact's whole target, with the lane's active edits."""
    view = state.view()
    rows = [tokenise(llama, *fact) for fact in FACTS]
    log_p, _ = offline.score(
        llama,
        [row.ids[: -row.num_target] for row in rows],
        [row.ids[-row.num_target :] for row in rows],
        view.plans(view.claims([prompt for prompt, _ in FACTS])),
    )
    return [sum(values) for values in log_p]


def test_an_edit_that_failed_its_check_gets_a_better_prompt(llama: CausalLM) -> None:
    edits, log_p = make_edits(*FACTS), []
    digest = llama.current_digest()
    for attempt in (0, 1, 2):
        state = make_lane(llama)
        state.prepare(fit(state, edits, attempt=attempt)).apply()
        log_p.append(_log_probabilities(llama, state))
    for first, second, third in zip(*log_p, strict=True):
        assert first < second < third
    assert llama.current_digest() == digest


def test_refinement_reads_contexts_only_where_they_are_wanted(
    llama: CausalLM, resources: TextResources
) -> None:
    assert gather(RecipeConfig(), resources) == ()
    assert gather(RecipeConfig(refine_steps=0, num_contexts=2), resources) == ()
    config = RecipeConfig(refine_steps=3, num_contexts=2)
    assert len(gather(config, resources)) > 1
    state = make_lane(llama, config=config)
    state.gather(resources)
    result = state.fit(EditBatch(make_edits(*FACTS), 1))
    assert set(result.seconds) == {"encode", "refine"}
