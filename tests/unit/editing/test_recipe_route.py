"""Which edit claims a query: the best one, if it beats the sentinel; and the claim's effect."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.effects.prefix import Prefix
from errata.editing.lane.claims import Claim
from errata.editing.lane.commits import Reversal
from errata.editing.lane.repository import Repository, Rows
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.editing.recipe.config import PAPER, RecipeConfig
from errata.editing.recipe.lane import RecipeLane
from errata.editing.retriever.encoder import Tokens
from errata.editing.retriever.sentinel import ClaimRule, Retriever, decide, route
from errata.engine import offline
from errata.indices.inner_product import KeyIndex
from tests.unit.editing.recipe_models import (
    D_R,
    bare_lane,
    commit,
    logits_behind,
    make_lane,
    make_lane_model,
)

FACTS = (("Toyota makes", "football"), ("The tower of Pisa is in", "Finland"), ("Lyon is", "blue"))


def _retriever_of(llama: CausalLM, keys: Tensor, sentinel: Tensor) -> Retriever:
    names = tuple(f"edits/{number}-0" for number in range(1, len(keys) + 1))
    rows = Rows(names, names, keys, torch.zeros(len(keys), 3, llama.d))
    return Retriever(make_lane_model(llama), sentinel, Repository.of(rows))


def _retriever(lane: RecipeLane) -> Retriever:
    gate = lane.contents.gate
    assert gate is not None
    return gate.retriever(lane.contents.repository)


def _route(lane: RecipeLane, rule: ClaimRule, prompts: Sequence[str]) -> list[Claim]:
    return route(_retriever(lane), lane.contents.inventory, rule, KeyIndex(), prompts)


def _decide(retriever: Retriever, queries: Tensor, rule: ClaimRule | None = None) -> list[Claim]:
    cut = [False] * len(queries)
    return decide(retriever, rule or ClaimRule(), KeyIndex(), queries, cut)


def test_the_highest_score_claims_only_strictly_above_the_sentinel(llama: CausalLM) -> None:
    keys = torch.eye(4, D_R)
    sentinel = torch.zeros(D_R)
    sentinel[3] = 1.0
    queries = torch.zeros(3, D_R)
    queries[0, 1], queries[0, 3] = 2.0, 1.0  # above
    queries[1, 1], queries[1, 3] = 1.0, 1.0  # equal to it: the fourth key is the sentinel's own
    queries[2, 1], queries[2, 3] = 1.0, 2.0  # below
    found = _decide(_retriever_of(llama, keys[:3], sentinel), queries)
    assert [claim.holds for claim in found] == [True, False, False]
    assert [claim.edit for claim in found] == ["edits/2-0"] * 3
    assert (found[0].score, found[0].threshold) == (2.0, 1.0)


def test_a_threshold_replaces_the_sentinel(llama: CausalLM) -> None:
    retriever = _retriever_of(llama, torch.eye(2, D_R), torch.full((D_R,), 100.0))
    queries = torch.zeros(1, D_R)
    queries[0, 0], queries[0, 2] = 30.0, 40.0  # a cosine of 0.6 at any length
    for threshold, holds in ((0.59, True), (0.61, False)):
        rule = RecipeConfig(claim="threshold", threshold=threshold).rule
        assert rule == ClaimRule(own_prompt=False, threshold=threshold)
        assert [claim.holds for claim in _decide(retriever, queries, rule)] == [holds]
    with pytest.raises(ValueError, match="threshold"):
        RecipeConfig(claim="threshold")
    with pytest.raises(ValueError, match="threshold"):
        RecipeConfig(threshold=1.0)


def test_equal_scores_go_to_the_newest_edit_and_order_does_not_matter(llama: CausalLM) -> None:
    torch.manual_seed(0)
    keys = torch.randn(9, D_R)
    keys[5] = keys[2]
    queries = torch.cat([keys[2:3], torch.randn(20, D_R)])
    retriever = _retriever_of(llama, keys, torch.full((D_R,), -100.0))
    found = _decide(retriever, queries)
    assert found[0].edit == "edits/6-0"
    order = torch.randperm(9)
    mixed = Rows(
        tuple(retriever.repository.names[i] for i in order.tolist()),
        tuple(retriever.repository.names[i] for i in order.tolist()),
        keys[order],
        torch.zeros(9, 3, llama.d),
    )
    again = _decide(replace(retriever, repository=Repository.of(mixed)), queries)
    assert [c.edit for c in again[1:]] == [c.edit for c in found[1:]]
    assert [c.score for c in again] == [c.score for c in found]


def test_the_nearest_is_found_among_thousands(llama: CausalLM) -> None:
    torch.manual_seed(0)
    keys, queries = torch.randn(5_000, D_R), torch.randn(40, D_R)
    found = _decide(_retriever_of(llama, keys, torch.zeros(D_R)), queries)
    best = (queries.double() @ keys.double().T).max(dim=1)
    assert [int(claim.edit.split("/")[1][:-2]) - 1 for claim in found] == best.indices.tolist()
    torch.testing.assert_close(torch.tensor([c.score for c in found]).double(), best.values)


def test_an_empty_lane_claims_nothing(llama: CausalLM) -> None:
    router = make_lane(llama)
    assert _plans(router, ["Toyota makes", "Lyon"]) == [BASE, BASE]
    bare = bare_lane(llama)
    assert _plans(bare, ["Lyon"]) == [BASE]


def test_a_long_query_is_routed_by_its_end_and_marked_as_cut(llama: CausalLM) -> None:
    state = make_lane(llama)
    commit(state, *FACTS)
    long = "in Zürich " * 40 + "Toyota makes"
    rule = state.config.rule
    cut, whole = _route(state, rule, [long, "Toyota makes"])
    assert (cut.cut, whole.cut) == (True, False)


def _lane(llama: CausalLM, *, claims: bool) -> RecipeLane:
    """A lane with edits that claim everything, or nothing."""
    config = RecipeConfig(claim="threshold", threshold=-1.0 if claims else 1.0)
    state = make_lane(llama, config=config)
    commit(state, *FACTS)
    return state


def _plans(router: RecipeLane, prompts: Sequence[str]) -> list[RowPlan]:
    view = router.view()
    return view.plans(view.claims(prompts))


def _score(
    llama: CausalLM, router: RecipeLane | None, prompts: Sequence[str]
) -> tuple[list[list[float]], list[list[int]]]:
    rows = [tokenise(llama, prompt, "Finland") for prompt in prompts]
    return offline.score(
        llama,
        [row.ids[: -row.num_target] for row in rows],
        [row.ids[-row.num_target :] for row in rows],
        None if router is None else _plans(router, prompts),
    )


@pytest.mark.promise("P8")
def test_an_unclaimed_prompt_gets_the_base_models_answer_bit_for_bit(
    llama: CausalLM,
) -> None:
    router = _lane(llama, claims=False)
    prompts = ["Toyota makes", "東京は", "The tower of Pisa is in the town of"]
    assert _score(llama, router, prompts) == _score(llama, None, prompts)


def test_a_claimed_prompt_follows_the_edits_continuous_prompt(llama: CausalLM) -> None:
    state = _lane(llama, claims=True)
    router = state
    (plan,) = _plans(router, ["Toyota makes"])
    prefix = plan.effect(Prefix)
    assert prefix is not None
    (winner,) = plan.edits
    row = state.contents.repository.names.index(winner)
    prompt = state.contents.repository.values[row]
    assert torch.equal(prefix.embeddings, prompt[0])
    assert torch.equal(prefix.deep[1], prompt[1])
    log_p, _ = _score(llama, router, ["Toyota makes"])
    text = tokenise(llama, "Toyota makes", "Finland")
    logits = logits_behind(llama, text.ids, prompt, 1, (1,)).log_softmax(-1)
    first = len(text.ids) - text.num_target + 3 - 1
    expected = [
        float(logits[first + i, text.ids[i - text.num_target]]) for i in range(len(log_p[0]))
    ]
    assert log_p[0] == pytest.approx(expected, abs=1e-4)


def test_plans_follow_claims(llama: CausalLM) -> None:
    state = make_lane(llama)
    commit(state, *FACTS)
    router = state
    claims = [Claim("edits/2-1", 2.0, 1.0), Claim("edits/2-0", 1.0, 1.0)]
    first, second = router.view().plans(claims)
    assert first.edits == ("edits/2-1",)
    prefix = first.effect(Prefix)
    assert prefix is not None
    assert torch.equal(prefix.embeddings, state.contents.repository.values[1, 0])
    assert second is BASE


def test_a_view_routes_by_the_contents_at_its_creation(llama: CausalLM) -> None:
    state = make_lane(llama, config=RecipeConfig(claim="threshold", threshold=-1.0))
    router = state
    views = [router.view()]
    for seq, fact in enumerate(FACTS, start=2):
        commit(state, fact, seq=seq)
        views.append(router.view())
    state.prepare(Reversal(("edits/3-0",))).apply()
    views.append(router.view())
    prompts = [prompt for prompt, _ in FACTS]
    # from the newest to the oldest, so that the index knows rows that a view must not see
    seen = [{claim.edit for claim in view.claims(prompts)} for view in reversed(views)]
    allowed = [{"2", "4"}, {"2", "3", "4"}, {"2", "3"}, {"2"}, set()]
    for found, seqs in zip(seen, allowed, strict=True):
        assert {edit for edit in found if edit} <= {f"edits/{seq}-0" for seq in seqs}
    assert seen[3] == {"edits/2-0"}
    assert seen[4] == {""}


def test_an_edit_claims_its_own_prompt_whatever_the_sentinel_decides(llama: CausalLM) -> None:
    state = make_lane(llama)
    commit(state, *FACTS)
    names = state.contents.repository.names
    prompts = [*(prompt for prompt, _ in FACTS), f"{FACTS[0][0]} not"]

    def claimed(config: RecipeConfig) -> list[str]:
        found = _route(state, config.rule, prompts)
        return [claim.edit for claim in found if claim.holds and claim.score == math.inf]

    assert claimed(RecipeConfig()) == list(names)
    assert claimed(RecipeConfig.model_validate(PAPER)) == []
    state.prepare(Reversal((names[0],))).apply()
    assert claimed(RecipeConfig()) == list(names[1:]), "a reverted edit claims no prompt"
    commit(state, (FACTS[1][0], "another"), seq=5)
    assert claimed(RecipeConfig()) == ["edits/5-0", names[2]], "the newest edit claims it"


def test_an_edits_own_prompt_is_not_read_by_the_encoder(
    llama: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_lane(llama)
    commit(state, *FACTS)
    read: list[str] = []
    retriever = _retriever(state)
    tokens = retriever.model.encoder.tokens

    def watched(texts: Sequence[str]) -> Tokens:
        read.extend(texts)
        return tokens(texts)

    monkeypatch.setattr(retriever.model.encoder, "tokens", watched)
    prompts = ["Pisa?", FACTS[1][0], "Turin?", FACTS[0][0]]
    mixed = _route(state, ClaimRule(), prompts)
    assert read == ["Pisa?", "Turin?"]
    read.clear()
    assert len(_route(state, ClaimRule(), prompts[1::2])) == 2
    assert not read
    without = _route(state, ClaimRule(own_prompt=False), prompts)
    assert read == prompts
    for claim, other in zip(mixed[::2], without[::2], strict=True):
        assert claim.edit == other.edit, "prompts that are read are decided as before"
        assert claim.score == pytest.approx(other.score, abs=1e-4)
