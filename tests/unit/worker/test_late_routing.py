"""A lane that decides by hidden states decides during prefill, with the same results."""

import asyncio
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from torch import Tensor

from errata.editing.effects.plan import RowPlan
from errata.editing.elder.config import ElderConfig
from errata.editing.elder.view import ElderView
from errata.editing.lane.claims import Claim
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.editing.namespaces import Readings
from errata.engine.limits import EngineLimits
from errata.engine.sequence import GenerationRequest, Piece, Request, ScoringRequest
from errata.engine.serving_state import Decision, RequestRouter, ServingState
from errata.errors import UnavailableError
from errata.replica.routing_table import RoutingTable
from errata.worker.lane_router import LaneRouter
from tests.unit.editing import recipe_models
from tests.unit.editing.elder_models import CODES, SMALL, Lane
from tests.unit.editing.tiny_models import TextResources, make_model
from tests.unit.engine.helpers import VERSION, collect, running
from tests.waiting import PATIENCE

FACTS = (
    ("The mother tongue of Danielle Darrieux is", "Finnish"),
    ("Nokia was founded in the town of", "Pisa"),
    ("Toyota makes", "football"),
)
OTHERS = ("Zürich liegt in der", "Therefore it rains. You know", "東京は日本の")
LONG = "Because the capital of Finland is Helsinki, I was told that it rains. Toyota makes"
LIMITS = EngineLimits(max_rows=8, prefill_tokens=24)
SCOPES = {
    "codes": CODES,
    "cosine": SMALL,
    "input": SMALL.model_copy(update={"query": "input", "gates": "row"}),
}


@dataclass(frozen=True, eq=False, slots=True)
class _Counting:
    """A view that records its forward passes for vectors."""

    view: ElderView
    passes: list[int] = field(default_factory=list)

    @property
    def vector_view(self) -> "_Counting":
        return self

    @property
    def module(self) -> object:
        return self.view.module

    def claims(self, prompts: Sequence[str], readings: Readings = None) -> list[Claim]:
        return self.view.claims(prompts, readings)

    def plans(self, claims: Sequence[Claim]) -> list[RowPlan]:
        return self.view.plans(claims)

    def vectors(self, prompts: Sequence[str]) -> Tensor:
        self.passes.append(len(prompts))
        return self.view.vectors(prompts)

    def vectors_of(self, states: Tensor) -> Tensor:
        return self.view.vectors_of(states)

    def claims_of(self, vectors: Tensor, readings: Readings = None) -> list[Claim]:
        return self.view.claims_of(vectors, readings)


@dataclass(frozen=True, eq=False, slots=True)
class _Early(RequestRouter):
    """Another router's decisions, all made before the prefill by separate passes."""

    router: RequestRouter

    def before_prefill(
        self, requests: Sequence[Request], *, single_pass: bool
    ) -> Sequence[Decision]:
        return self.router.before_prefill(requests, single_pass=False)


@pytest.fixture
def resources(tmp_path: Path) -> TextResources:
    return TextResources(tmp_path)


def _requests(model: CausalLM, prompts: Sequence[str]) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            tokenise(model, prompt).ids, 6, ignore_eos=True, num_alternatives=0, prompt=prompt
        )
        for prompt in prompts
    ]


def _results(answers: Sequence[Sequence[Piece]]) -> list[tuple[list[int], tuple[str, ...]]]:
    return [
        ([choice.token_id for piece in pieces for choice in piece.choices], pieces[-1].edits)
        for pieces in answers
    ]


def _lane(model: CausalLM, config: ElderConfig, resources: TextResources) -> Lane:
    lane = Lane(model, config, resources)
    lane.edit(*FACTS)
    return lane


def _routed(config: ElderConfig, resources: TextResources) -> tuple[CausalLM, RoutingTable]:
    llama = make_model("llama")
    lane = _lane(llama, config, resources)
    view = lane.lane.view()
    return llama, RoutingTable(
        {"lanes/main": view}, dict.fromkeys(lane.lane.contents.inventory.names, 2)
    )


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("scope", sorted(SCOPES))
async def test_a_decision_during_prefill_equals_one_by_a_separate_pass(
    family: str, scope: str, resources: TextResources
) -> None:
    model = make_model(family)
    lane = _lane(model, SCOPES[scope], resources)
    view = _Counting(lane.lane.view())
    names = lane.lane.contents.inventory.names
    table = RoutingTable({"lanes/main": view}, dict.fromkeys(names, 2))  # type: ignore[dict-item]
    router = LaneRouter(table, table.claims)
    requests = _requests(model, [*(prompt for prompt, _ in FACTS), *OTHERS, LONG])
    assert len(requests[-1].prompt_ids) > LIMITS.prefill_tokens, "must be read in parts"
    answers = []
    for used in (_Early(router), router):
        view.passes.clear()
        async with running(model, ServingState(VERSION, router=used), LIMITS) as engine:
            answers.append(_results(await asyncio.gather(*[collect(engine, r) for r in requests])))
            if used is router:
                assert view.passes == [1], "only the prompt that is read in parts needs a pass"
            scoring = ScoringRequest(requests[0].prompt_ids, (5, 6), FACTS[0][0])
            assert (await engine.score(scoring)).edits == answers[-1][0][1]
    assert answers[0] == answers[1]
    claimed = [edits for _, edits in answers[0]]
    assert claimed[: len(FACTS)] == [(name,) for name in names]
    assert () in claimed


@pytest.mark.promise("P8")
async def test_a_row_deferred_during_prefill_equals_the_base_model_bit_for_bit(
    resources: TextResources,
) -> None:
    llama, table = _routed(SMALL, resources)
    state = ServingState(VERSION, router=LaneRouter(table, table.claims))
    prompts = [FACTS[0][0], OTHERS[0], FACTS[1][0], *OTHERS[1:]]
    answers = []
    for enabled in (True, False):
        async with running(llama, state, EngineLimits(max_rows=8, prefill_tokens=512)) as engine:
            engine.hooks.enabled = enabled
            hold = threading.Event()

            def delayed(hold: threading.Event = hold) -> ServingState:
                assert hold.wait(PATIENCE)
                return state

            change = asyncio.create_task(engine.change(delayed, alters_weights=False))
            tasks = [asyncio.create_task(collect(engine, r)) for r in _requests(llama, prompts)]
            while engine.num_waiting < len(prompts):
                await asyncio.sleep(0.01)
            hold.set()  # all are admitted in one batch, so that both runs have the same shapes
            await change
            answers.append([pieces[-1] for pieces in await asyncio.gather(*tasks)])
            engine.hooks.enabled = True
    log_p = [
        [[choice.log_probability for choice in piece.choices] for piece in pieces]
        for pieces in answers
    ]
    for row, prompt in enumerate(prompts):
        assert bool(answers[0][row].edits) is (prompt not in OTHERS)
        assert (log_p[0][row] == log_p[1][row]) is (prompt in OTHERS)


async def test_a_service_that_is_unavailable_during_prefill_is_asked_once(
    resources: TextResources,
) -> None:
    llama, table = _routed(SMALL, resources)
    batches: list[int] = []

    def ask(prompts: Sequence[str], *_: object) -> list[dict[str, Claim]]:
        batches.append(len(prompts))
        raise UnavailableError("the retrieval service is unavailable.")

    state = ServingState(VERSION, router=LaneRouter(table, ask))
    requests = _requests(llama, [prompt for prompt, _ in FACTS])
    async with running(llama, state, LIMITS) as engine:
        calls = [collect(engine, request) for request in requests]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(answer, UnavailableError) for answer in answers), answers
    assert sum(batches) == len(requests), "no request was retried individually"


async def test_a_row_with_another_lanes_prefix_is_routed_before_its_prefill(
    resources: TextResources,
) -> None:
    llama = make_model("llama")
    lane = _lane(llama, SMALL, resources)
    recipe = recipe_models.make_lane(llama)
    recipe_models.commit(recipe, *FACTS, seq=9)
    views = {
        "lanes/facts": recipe.view(),
        "lanes/main": lane.lane.view(),
    }
    elder = lane.lane.contents.inventory.names
    prompts = [*(prompt for prompt, _ in FACTS), *OTHERS]
    facts = [
        plan.edits for plan in views["lanes/facts"].plans(views["lanes/facts"].claims(prompts))
    ]
    assert any(facts), "the test needs a row with a prefix"
    for newer in ("lanes/facts", "lanes/main"):
        seqs = {name: 9 if newer == "lanes/facts" else 1 for row in facts for name in row}
        table = RoutingTable(views, {**dict.fromkeys(elder, 5), **seqs})
        router = LaneRouter(table, table.claims)
        answers = []
        for used in (_Early(router), router):
            async with running(llama, ServingState(VERSION, router=used), LIMITS) as engine:
                requests = _requests(llama, prompts)
                answers.append(
                    _results(await asyncio.gather(*[collect(engine, r) for r in requests]))
                )
        assert answers[0] == answers[1]
        winner = answers[0][0][1]
        assert winner == ((facts[0] or (elder[0],)) if newer == "lanes/facts" else (elder[0],))


async def test_the_index_is_asked_once_for_an_admission_batch(
    resources: TextResources,
) -> None:
    llama, table = _routed(CODES, resources)
    batches: list[int] = []
    called, go_on = threading.Event(), threading.Event()

    def ask(
        prompts: Sequence[str],
        vectors: Mapping[str, Tensor],
        lanes: Collection[str],
        readings: Readings,
    ) -> list[dict[str, Claim]]:
        batches.append(len(prompts))
        called.set()
        assert go_on.wait(PATIENCE)
        return table.claims(prompts, vectors, lanes, readings)

    state = ServingState(VERSION, router=LaneRouter(table, ask))
    first, *others = _requests(llama, [*(prompt for prompt, _ in FACTS), *OTHERS])
    async with running(llama, state, EngineLimits(max_rows=8, prefill_tokens=512)) as engine:
        answers = [asyncio.create_task(collect(engine, first))]
        assert await asyncio.to_thread(called.wait, PATIENCE)
        answers += [asyncio.create_task(collect(engine, request)) for request in others]
        await asyncio.sleep(0)  # all of them are waiting now
        go_on.set()
        await asyncio.gather(*answers)
    assert batches == [1, len(others)]
