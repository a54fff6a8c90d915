"""What lanes need, as `errata plan` says, is what real objects of the demo model take."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel

from errata import demo
from errata.editing.elder.packing import Packed, difference_bytes
from errata.editing.lane.contract import Lane, LaneConfig
from errata.editing.lane.inventory import Inventory, fact_of
from errata.editing.lane.needs import (
    BOOKKEEPING_BYTES,
    INT64,
    EditLoad,
    LaneNeeds,
    Need,
    Searched,
)
from errata.editing.lane.repository import Rows
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.replay import capture
from errata.editing.model.shape import ModelShape
from errata.editing.model.weights import EditedWeights
from errata.editing.registry import get_method, methods
from errata.editing.retriever.gate import Gate
from errata.editing.retriever.lane_model import LaneModel
from errata.editing.retriever.needs import GateNeeds
from errata.editing.retriever.start import new_lane_model
from errata.editing.retriever.training_config import TrainingConfig
from errata.engine.cache import KEPT_CAPACITY, SlotCache
from errata.engine.limits import EngineLimits
from errata.engine.needs import engine_needs
from errata.errors import InvalidRequestError
from errata.evaluation.memory.fill import Filling, filled_lane, quick_config
from errata.evaluation.serve.routed import MAKERS, SyntheticLane
from errata.indices.faiss_indices import FaissIndices
from errata.indices.inner_product import APPROXIMATE_FROM
from errata.indices.lists import Lists
from errata.indices.needs import index_needs
from errata.writer.resources import WriterResources

LANE_MODEL = demo.lanes_path().parent / "recipe"
ROUTED = ("recipe", "elder", "lemoe")
N, U = 66, 11  # more rows than a new repository has room for


@pytest.fixture(scope="module")
def llm() -> CausalLM:
    return CausalLM.load(demo.model_path())


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return ModelShape.read(demo.model_path())


@pytest.fixture(scope="module")
def lanes(llm: CausalLM) -> Mapping[str, Any]:
    """A filled lane of each method that routes; tests only read them."""
    return {method: filled(llm, method) for method in ROUTED}


def load_of(num_edits: int, batch: int) -> EditLoad:
    return EditLoad(num_edits, batch, lane_model=LANE_MODEL)


def needs_of(shape: ModelShape, method: str, load: EditLoad, **values: Any) -> LaneNeeds:
    return get_method(method).needs(shape, config_of(method, **values), load)


def config_of(method: str, **values: Any) -> LaneConfig:
    """Of a new lane; AdaPLE's with what it needs no Fisher matrices for."""
    found = get_method(method)
    return found.config.model_validate(values if method == "adaple" else found.values("", values))


def filled(llm: CausalLM, method: str, resources: WriterResources | None = None) -> Lane:
    found = get_method(method)
    config = quick_config(found, config_of(method))
    if "expert_edits" in type(config).model_fields:
        config = config.model_copy(update={"expert_edits": U})
    model = LANE_MODEL if config.needs_lane_model else None
    return filled_lane(llm, Filling(found, config, model, N, U, 24), resources)


def of(needs: Iterable[Need] | None, *names: str) -> int:
    assert needs is not None
    by_name = {need.name: need.num_bytes for need in needs}
    return sum(by_name[name] for name in names)


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of distinct storages."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def test_the_shape_is_the_models(llm: CausalLM, shape: ModelShape) -> None:
    assert (shape.num_layers, shape.d, shape.d_ff) == (llm.num_layers, llm.d, llm.d_ff)
    assert (shape.num_embeddings, shape.max_positions) == (llm.num_embeddings, llm.max_positions)
    assert shape.num_bytes == num_bytes(llm.model.parameters())
    halved = ModelShape.read(demo.model_path(), "bfloat16")
    assert 2 * halved.num_bytes == shape.num_bytes


def test_keys_and_values_are_the_caches(llm: CausalLM, shape: ModelShape) -> None:
    rows = 3
    cache = SlotCache(llm.num_layers, rows, llm.max_positions)
    cache.reserve(llm.max_positions)
    cache.window.num_rows, cache.window.length = 1, 1
    body: Any = llm.body
    ids = torch.zeros(1, 1, dtype=torch.int64)
    mask = llm.attention_mask(ids, 1)
    with torch.no_grad():
        body(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
    assert llm.max_positions <= KEPT_CAPACITY
    layers: list[Any] = list(cache.layers)
    taken = num_bytes(t for layer in layers for t in (layer.keys, layer.values))
    found = engine_needs(shape, EngineLimits(max_rows=rows))
    assert of(found, "keys and values that stay") == taken


def test_activations_are_close_to_those_that_a_block_keeps(
    llm: CausalLM, shape: ModelShape
) -> None:
    rows, tokens, first = 4, 24, llm.num_layers - 1
    ids = torch.ones(rows, tokens, dtype=torch.int64)
    replay = capture(llm, ids, torch.ones_like(ids), first=first)
    kept: list[Tensor] = []
    own = {parameter.data_ptr() for parameter in llm.model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept.append(tensor)
        return tensor

    hidden = replay.hidden.clone().requires_grad_(True)
    with (
        torch.enable_grad(),
        sdpa_kernel(SDPBackend.MATH),
        saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        output = replay.run(hidden, first, llm.num_layers)
    assert output.requires_grad
    assert shape.saved_bytes(rows, tokens, first) == pytest.approx(num_bytes(kept), rel=0.2)


def test_adaple_holds_matrices_factors_and_directions(shape: ModelShape) -> None:
    model = CausalLM.load(demo.model_path())  # its weights change
    lane: Any = filled(model, "adaple")
    found = needs_of(shape, "adaple", load_of(N, U)).replica
    state, weights = lane.state, lane.state._weights
    assert of(found, "base of edited matrices") == num_bytes(weights._base.values())
    assert of(found, "fp32 sums of edited matrices") == num_bytes(weights._sum.values())
    factors = [
        tensor
        for commit in state._commits.values()
        for tensor in (
            commit.gains,
            *(t for delta in commit.factors.values() for t in (delta.left, delta.right)),
        )
    ]
    assert of(found, "factors of commits") == num_bytes(factors)
    directions = state.directions()
    assert of(found, "directions for attribution") == num_bytes(
        [directions.exact, directions.norms]
    )


def test_adaples_writer_holds_statistics_and_keys(shape: ModelShape, tmp_path: Path) -> None:
    model = CausalLM.load(demo.model_path())
    lane: Any = filled(model, "adaple", WriterResources(None, tmp_path))
    found = needs_of(shape, "adaple", load_of(N, U)).writer
    assert of(found, "statistics E[kkᵀ]") == num_bytes(lane._statistics.second_moments.values())
    keys = [key for edit in lane.memory.value._keys.values() for key in edit.values()]
    assert of(found, "keys of earlier edits") == sum(key.nbytes for key in keys)


def test_a_new_adaple_lanes_writer_also_holds_roots_of_fisher_matrices(
    shape: ModelShape, tmp_path: Path
) -> None:
    found, values = get_method("adaple"), {"covariance_samples": 1, "metric_tokens": 64}
    config = found.config.model_validate(found.values("", values))
    model = CausalLM.load(demo.model_path())
    lane: Any = found.open(
        model, config, EditedWeights(model), name="lanes/main", indices=FaissIndices()
    )
    lane.gather(WriterResources(None, tmp_path))
    needs = found.needs(shape, config, load_of(N, U)).writer
    held = lane._statistics
    assert of(needs, "roots of Fisher matrices") == num_bytes(held.roots.values()) > 0
    assert of(needs, "statistics E[kkᵀ]") == num_bytes(held.second_moments.values())
    assert "roots of Fisher matrices" not in {
        need.name for need in needs_of(shape, "adaple", load_of(N, U)).writer or ()
    }


@pytest.mark.parametrize("method", ROUTED)
def test_keys_and_values_have_the_room_of_a_repository(
    lanes: Mapping[str, Any], shape: ModelShape, method: str
) -> None:
    lane = lanes[method]
    memory = lane.contents.repository._memory
    assert lane.contents.repository.num_rows == N
    values = {"expert_edits": U} if method == "lemoe" else {}
    found = needs_of(shape, method, load_of(N, U), **values)
    for needs in (found.replica, found.retrieval):
        assert of(needs, "keys and values") == num_bytes([memory.keys, memory.values])
    assert (found.searched.num_keys, found.searched.key_width) == (N, memory.keys.shape[1])


def test_elders_experts_are_counted_once(lanes: Mapping[str, Any], shape: ModelShape) -> None:
    lane = lanes["elder"]
    held = [lane.contents.learned, *lane.contents.frozen.banks]
    assert len(held) == N // U, "two batches do not fit into one bank"
    loras = [
        tensor
        for bank in held
        for part in bank.mixture.banks.values()
        for tensor in (part.a, part.b)
    ]
    parameters = [parameter for bank in held for parameter in bank.experts.parameters()]
    found = needs_of(shape, "elder", load_of(N, U))
    needed = ("experts and routers", "frozen banks", "LoRAs of frozen banks")
    assert of(found.replica, *needed) == num_bytes([*parameters, *loras])


def test_extra_steps_of_a_single_edit_hold_its_bank(shape: ModelShape) -> None:
    """A planned step of one edit has three replayed ones; an extra one has the bank's prompts."""
    activations = "training's activations"

    def kept(num_edits: int, **values: int) -> int:
        load = replace(load_of(num_edits, 1), num_rephrases=0)
        return of(needs_of(shape, "elder", load, **values).writer, activations)

    assert kept(4) == kept(4, extra_steps=0) == kept(16, extra_steps=0)
    assert 3 < kept(16) / kept(4) <= 4, "sixteen rows of the same length instead of four"
    assert kept(400) == kept(16), "later edits are of other banks"
    assert kept(16, replay_rows=6) < kept(16)


@pytest.mark.parametrize("method", ["elder", "lemoe"])
def test_extra_steps_are_work_that_a_fit_can_have(shape: ModelShape, method: str) -> None:
    def work(**values: int) -> int:
        done = needs_of(shape, method, load_of(N, U), **values).work
        (training,) = (item.operations for item in done if item.name.startswith("training"))
        return training

    none, one, two = (work(extra_steps=number) for number in (0, 1, 2))
    assert none < one < two
    assert two - one == one - none


def test_elders_codes_are_counted_where_they_decide(llm: CausalLM, shape: ModelShape) -> None:
    method = get_method("elder")
    values = {"scope": "codes", "epsilon": 2}
    config = config_of("elder", **values)
    lane: Any = filled_lane(llm, Filling(method, config, None, N, U, 24))
    found = needs_of(shape, "elder", load_of(N, U), **values)
    assert of(found.replica, "codes") == lane.contents.codes[""].nbytes > 0
    assert len(lane.contents.frozen.banks) == 0
    with pytest.raises(KeyError):
        of(needs_of(shape, "elder", load_of(N, U)).replica, "codes")


def test_lemoes_experts_are_those_on_the_host(lanes: Mapping[str, Any], shape: ModelShape) -> None:
    lane = lanes["lemoe"]
    held = sum(expert.num_bytes for expert in lane.contents.experts)
    found = needs_of(shape, "lemoe", load_of(N, U), expert_edits=U)
    assert of(found.replica, "experts and anchors") == held
    projection = lane.contents.routing.projection
    assert of(found.replica, "projection") == num_bytes([projection.down, projection.up])
    full = needs_of(shape, "lemoe", load_of(641, 10), expert_edits=10)
    assert "full after 640 edits" in full.warnings[0]


def artifact_of(llm: CausalLM, method: str, size: int) -> Mapping[str, Tensor]:
    gate = Gate.of_bytes((LANE_MODEL / "lane_model.safetensors").read_bytes(), llm)
    names = tuple(f"edits/2-{number}" for number in range(size))
    lane = SyntheticLane(method, {}, LANE_MODEL, size, num_experts=1)
    config, rng = config_of(method), torch.Generator().manual_seed(0)
    made = MAKERS[method](llm, config, gate, names, lane, rng)
    return made.tensors


@pytest.mark.parametrize("method", ROUTED)
def test_files_hold_the_tensors_of_a_commit(llm: CausalLM, shape: ModelShape, method: str) -> None:
    found = needs_of(shape, method, load_of(U, U)).store
    exact = [n.num_bytes for n in found if not n.is_estimate]
    assert sum(exact) == sum(t.nbytes for t in artifact_of(llm, method, U).values())


def test_later_commits_of_elder_hold_differences(
    lanes: Mapping[str, Any], shape: ModelShape
) -> None:
    lane = lanes["elder"]
    experts = lane.contents.learned.experts
    packed = Packed.difference("digest", experts, experts)
    size = sum(tensor.nbytes for tensor in packed.tensors.values())
    assert difference_bytes(experts.shape) == size
    found = needs_of(shape, "elder", load_of(3 * U, U), bank_edits=0)
    assert of(found.store, "differences of experts") == 2 * size
    found = needs_of(shape, "elder", load_of(5 * U, U), bank_edits=2 * U + 1)
    assert of(found.store, "differences of experts") == 2 * size, "of three banks"


def test_the_lane_model_is_the_one_in_the_folder_or_a_new_one(
    llm: CausalLM, shape: ModelShape
) -> None:
    stored = LaneModel.load(LANE_MODEL, llm)
    new = new_lane_model(llm, None, TrainingConfig())
    for model, folder in ((stored, LANE_MODEL), (new, None)):
        found = GateNeeds.of(shape, folder)
        assert found.num_bytes == sum(t.nbytes for t in model.state_dict().values())
        assert found.lane_model().prompt_size == model.shape.prompt_size


def test_few_keys_are_searched_where_they_are_and_many_have_codes() -> None:
    few, many = (Searched(n, 256, 0) for n in (APPROXIMATE_FROM - 1, APPROXIMATE_FROM))
    assert index_needs(few, "cpu") == []
    assert index_needs(many, "cuda") == []
    (need,) = index_needs(many, "cpu")
    keys = torch.randn(6_000, 256)
    lists = Lists(keys)
    lists.add(keys)
    index, centres = lists._index, lists._centres
    own = index.ntotal * (index.code_size + INT64) + centres.ntotal * centres.code_size
    assert need.num_bytes == pytest.approx(own * APPROXIMATE_FROM / len(keys), rel=0.01)


def test_names_and_facts_take_about_what_the_plan_says() -> None:
    number = 4_000
    rows = Rows(
        tuple(f"edits/{n}-0" for n in range(number)),
        tuple(fact_of(str(n)) for n in range(number)),
        torch.zeros(number, 1),
        torch.zeros(number, 1),
    )
    tracemalloc.start()
    held = Inventory.of(replace(rows, names=tuple(map(str.upper, rows.names))))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(held.names) == number
    facts = 113 * number  # made before the measurement
    assert 0.4 * BOOKKEEPING_BYTES < (taken + facts) / number < 1.2 * BOOKKEEPING_BYTES


def test_every_method_plans_and_no_edit_needs_no_room(shape: ModelShape) -> None:
    for name in methods():
        found = needs_of(shape, name, load_of(0, 10))
        assert not [n for n in found.store if "rows" in n.name and n.num_bytes]


def test_a_method_without_a_planner_is_refused(shape: ModelShape) -> None:
    silent = replace(get_method("recipe"), planner=None)  # type: ignore[type-var]
    with pytest.raises(InvalidRequestError, match="does not say what its lanes need"):
        silent.needs(shape, silent.config(), load_of(1, 1))
