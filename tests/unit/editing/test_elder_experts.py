"""ELDER's parameters: gates, codes, allocations, and what a mixture does to a forward pass."""

import math

import pytest
import torch
from pydantic import ValidationError

from errata.editing.effects.hooks import PlanHooks
from errata.editing.effects.mixture import GatedMixture
from errata.editing.effects.plan import RowPlan
from errata.editing.effects.table import PlanTable
from errata.editing.elder.allocation import allocate, capacity, pack_code, pack_codes
from errata.editing.elder.config import PAPER, ElderConfig
from errata.editing.elder.experts import Experts, Shape
from errata.editing.elder.packing import Packed
from errata.editing.elder.queries import queries_of
from errata.editing.elder.scope import hamming
from errata.editing.elder.training import mixing, steering
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import pad_right, positions, tokenise
from errata.errors import InvalidRequestError, LaneFullError
from tests.unit.editing.elder_models import SMALL, make_experts
from tests.unit.editing.tiny_models import make_model

PROMPTS = ["Toyota makes", "The tower of Pisa is in the town of", "Nokia made", "東京は"]


def test_the_papers_settings_are_one_configuration() -> None:
    config = ElderConfig.model_validate(PAPER)
    assert (config.num_layers, config.num_experts, config.top_k, config.rank) == (6, 4, 2, 8)
    assert (config.loss_weight, config.epsilon, config.learning_rate) == (0.01, 12, 1e-4)
    assert config.resolve_layers(32) == (21, 22, 23, 24, 25, 26)
    assert capacity(config.num_layers, config.num_experts, config.top_k) == 46_656


def test_replay_per_edit_does_not_depend_on_the_batch_size() -> None:
    config = ElderConfig(replay_ratio=2.5, replay_rows=24)
    assert [config.num_replayed(n) for n in (1, 4, 8, 9, 64)] == [3, 10, 20, 23, 24]
    assert config.num_replayed(0) == 24, "in a compaction"


def test_the_number_of_parameters_follows_the_papers_formula() -> None:
    """12·(1600·6400 of GPT2-XL's c_fc) gives 1.57 M, LLaMA2-7B's down_proj 3.16 M."""

    def count(d_in: int, d_out: int) -> int:
        layers = tuple(range(6))
        return Shape(layers, "down", "input", 4, 2, 8, d_in, d_out, d_in, 1.0).num_parameters

    assert count(1600, 6400) == pytest.approx(1.57e6, rel=0.01)
    assert count(11008, 4096) == pytest.approx(3.16e6, rel=0.01)


def test_the_number_of_parameters_is_exact(llama: CausalLM) -> None:
    experts = make_experts(llama)
    assert experts.shape.num_parameters == sum(p.numel() for p in experts.parameters())


def test_a_difference_is_off_by_at_most_half_a_step(llama: CausalLM) -> None:
    before, after = make_experts(llama, seed=1), make_experts(llama, seed=2)
    with torch.no_grad():
        after.lora_a[0, 0] = before.lora_a[0, 0]  # a row that does not change
    packed = Packed.difference("0" * 64, before, after)
    assert all(
        (tuple(packed.tensors[name].shape), packed.tensors[name].dtype) == (spec.shape, spec.dtype)
        for name, spec in packed.specs().items()
    )
    restored = packed.experts(before).tensors()
    for name, expected in after.tensors().items():
        along = -2 if name == "lora_b" else -1
        moved = (expected - before.tensors()[name]).abs().amax(along, keepdim=True)
        assert bool(((restored[name] - expected).abs() <= moved / 254 + 1e-6).all())
    assert torch.equal(restored["lora_a"][0, 0], before.lora_a[0, 0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"top_k": 4, "num_experts": 4}, "below num_experts"),
        ({"layers": (3, 2)}, "ascending"),
        ({"layers": (-1, 2)}, "not negative"),
        ({"epsilon": 12}, "belongs to scope 'codes'"),
        ({"epsilon": 0, "scope": "codes"}, "claims nothing"),
        ({"threshold": 0.5}, "belongs to scopes 'cosine' and 'idf'"),
        ({"gates": "row"}, "scopes 'codes' and 'cosine'"),
        ({"rank": 0}, "greater than or equal to 1"),
    ],
)
def test_inconsistent_values_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ElderConfig.model_validate(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": (2, 4)}, "layer 4 does not exist"),
        ({"rank": 33}, "rank 33 is above"),
        ({"scope": "codes", "epsilon": 5, "num_layers": 1}, "at most 4 bits"),
    ],
)
def test_values_that_do_not_fit_the_model_are_refused(
    llama: CausalLM, values: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        Shape.of(llama, ElderConfig.model_validate(values))


def test_gates_are_the_highest_softmax_values_without_rescaling(llama: CausalLM) -> None:
    experts = make_experts(llama)
    queries = torch.randn(5, experts.shape.d_q)
    gates = experts.gates(queries)
    for row, query in enumerate(queries):
        for layer in range(len(experts.shape.layers)):
            logits = experts.router_weight[layer] @ query + experts.router_bias[layer]
            shares = logits.softmax(-1)
            best = shares.topk(experts.shape.top_k).indices
            expected = torch.zeros_like(shares).index_copy(0, best, shares[best])
            torch.testing.assert_close(gates[row, layer], expected)


def test_equal_scores_go_to_the_first_experts(llama: CausalLM) -> None:
    experts = make_experts(llama)
    with torch.no_grad():
        experts.router_weight.zero_()
        experts.router_bias.zero_()
    code = experts.codes(torch.randn(1, experts.shape.d_q))[0]
    assert code[:, : experts.shape.top_k].all()
    assert not code[:, experts.shape.top_k :].any()


def test_codes_have_k_ones_in_each_layer_and_even_distances(llama: CausalLM) -> None:
    experts = make_experts(llama)
    codes = experts.codes(torch.randn(40, experts.shape.d_q))
    assert (codes.sum(-1) == experts.shape.top_k).all()
    distances = hamming(codes, codes)
    assert (distances % 2 == 0).all()
    shape = experts.shape
    max_distance = 2 * len(shape.layers) * min(shape.top_k, shape.num_experts - shape.top_k)
    assert 0 < int(distances.max()) <= max_distance
    packed = pack_codes(codes)
    bits = [
        [bin(a ^ b).count("1") for a, b in zip(x, y, strict=True)]
        for x in packed.tolist()
        for y in packed.tolist()
    ]
    assert [sum(row) for row in bits] == distances.flatten().tolist()


def test_the_steering_loss_at_uniform_scores(llama: CausalLM) -> None:
    """−log(1/N) for each of k experts in L layers; N·Σ f_i/N = 1 for each layer, whatever f is."""
    experts = make_experts(llama)
    with torch.no_grad():
        experts.router_weight.zero_()
        experts.router_bias.zero_()
    shape = experts.shape
    allocation = allocate("00", (), len(shape.layers), shape.num_experts, shape.top_k)
    queries = torch.randn(5, shape.d_q)
    for loss, expected in (
        ("guided", len(shape.layers) * shape.top_k * math.log(shape.num_experts)),
        ("balanced", 1.0),
        ("none", 0.0),
    ):
        config = SMALL.model_copy(update={"loss": loss})
        found = steering(experts, queries, allocation.expand(5, -1, -1), config)
        assert float(found) == pytest.approx(expected, rel=1e-5)


def test_uneven_use_raises_the_balanced_loss_and_allocated_experts_lower_the_guided_loss(
    llama: CausalLM,
) -> None:
    experts = make_experts(llama)
    shape = experts.shape
    with torch.no_grad():
        experts.router_weight.zero_()
        experts.router_bias.zero_()
        experts.router_bias[:, : shape.top_k] = 3.0
    queries, scores = torch.randn(2, shape.d_q), experts.scores(torch.zeros(1, shape.d_q)).exp()
    favourites = torch.zeros(2, len(shape.layers), shape.num_experts, dtype=torch.bool)
    favourites[..., : shape.top_k] = True
    balanced = steering(experts, queries, favourites, SMALL.model_copy(update={"loss": "balanced"}))
    # all rows use the same k experts: f = 1/k there, 0 elsewhere
    expected = shape.num_experts * float(scores[0, 0, : shape.top_k].mean())
    assert float(balanced) == pytest.approx(expected, rel=1e-5)
    guided = SMALL.model_copy(update={"loss": "guided"})
    assert steering(experts, queries, favourites, guided) < steering(
        experts, queries, ~favourites, guided
    )


def test_untrained_experts_change_no_bit(llama: CausalLM) -> None:
    experts = Experts.new(Shape.of(llama, SMALL), "code", seed=1)
    ids, mask = pad_right(llama, [tokenise(llama, text).ids for text in PROMPTS])
    call = {"input_ids": ids, "attention_mask": mask, "position_ids": positions(mask)}
    before = llama.body(**call).last_hidden_state
    gates = experts.gates(torch.randn(len(PROMPTS), experts.shape.d_q))
    with mixing(llama, experts, gates):
        assert torch.equal(llama.body(**call).last_hidden_state, before)
    assert torch.equal(llama.body(**call).last_hidden_state, before), "no hook is left behind"


def test_experts_are_initialised_like_the_authors_code_or_pefts_loras(llama: CausalLM) -> None:
    shape = Shape.of(llama, SMALL)
    inits = ("code", "peft", "gaussian")
    lora_a = {init: Experts.new(shape, init, 1).lora_a.detach() for init in inits}
    assert shape.d_in**-0.5 < float(lora_a["code"].abs().max()) <= shape.rank**-0.5
    assert float(lora_a["peft"].abs().max()) <= shape.d_in**-0.5
    assert float(lora_a["gaussian"].std()) == pytest.approx(1 / shape.rank, rel=0.1)


def test_the_mixture_is_the_sum_over_the_chosen_loras(llama: CausalLM) -> None:
    experts = make_experts(llama)
    shape = experts.shape
    rows = torch.randn(3, 5, shape.d_in)
    gates = experts.gates(torch.randn(3, shape.d_q))
    layer = shape.layers[1]
    plain = llama.down(layer)(rows)
    with mixing(llama, experts, gates):
        mixed = llama.down(layer)(rows)
    expected = plain.clone()
    for row in range(3):
        for expert in gates[row, 1].nonzero().flatten().tolist():
            low = rows[row] @ experts.lora_a[1, expert].T
            expected[row] += (
                gates[row, 1, expert] * shape.scale * (low @ experts.lora_b[1, expert].T)
            )
    torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-5)


def test_training_and_serving_compute_the_same_mixture(llama: CausalLM) -> None:
    experts = make_experts(llama)
    ids, mask = pad_right(llama, [tokenise(llama, text).ids for text in PROMPTS])
    call = {"input_ids": ids, "attention_mask": mask, "position_ids": positions(mask)}
    gates = experts.gates(torch.randn(len(PROMPTS), experts.shape.d_q))
    with mixing(llama, experts, gates):
        trained = llama.body(**call).last_hidden_state
    table = PlanTable(len(PROMPTS), llama.d, device=llama.device, dtype=llama.dtype)
    mixture = experts.mixture()
    for row in range(len(PROMPTS)):
        table.put(row, RowPlan((GatedMixture(mixture, gates[row]),)))
    hooks = PlanHooks.of(llama)
    with hooks.applied(table.view(0, len(PROMPTS))):
        served = llama.body(**call).last_hidden_state
    assert torch.equal(served, trained)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gptj"])
@pytest.mark.parametrize("query", ["hidden", "input"])
def test_a_prompts_query_does_not_depend_on_its_batch(family: str, query: str) -> None:
    model = make_model(family)
    config = SMALL.model_copy(update={"query": query})
    shape = Shape.of(model, config)
    together = queries_of(model, shape, PROMPTS)
    alone = torch.cat([queries_of(model, shape, [prompt]) for prompt in PROMPTS])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    experts = Experts.new(shape, "code", seed=3)
    assert torch.equal(experts.codes(together), experts.codes(alone))
    assert len({pack_code(code) for code in experts.codes(together)}) > 1


def test_hidden_queries_have_a_mean_square_of_one(llama: CausalLM) -> None:
    queries = queries_of(llama, Shape.of(llama, SMALL), PROMPTS)
    torch.testing.assert_close(queries.square().mean(-1), torch.ones(len(PROMPTS)))


def test_allocations_are_seeded_by_the_fact_and_distinct() -> None:
    taken: dict[bytes, str] = {}
    for number in range(30):
        fact = f"{number:064x}"
        allocation = allocate(fact, taken, 2, 4, 2)
        assert (allocation.sum(-1) == 2).all()
        assert pack_code(allocation) not in taken
        assert torch.equal(allocation, allocate(fact, taken, 2, 4, 2))
        taken[pack_code(allocation)] = fact
    assert len(taken) == 30, "of C(4, 2)² = 36"


def test_a_full_lane_is_reported() -> None:
    taken = {pack_code(allocate(f"{n:02x}", (), 1, 3, 1)) for n in range(200)}
    assert len(taken) == 3
    with pytest.raises(LaneFullError, match="open a new lane"):
        allocate("ff", taken, 1, 3, 1)
