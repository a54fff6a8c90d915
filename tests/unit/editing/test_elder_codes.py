"""What makes ELDER's codes tell rephrases from neighbours: queries, allocations, calibration."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from errata.editing.artifact import Artifact
from errata.editing.edit import Edit, EditBatch
from errata.editing.elder.allocation import Allocator
from errata.editing.elder.experts import Experts, Shape
from errata.editing.elder.memory import EditTexts, pack_texts, unpack_texts
from errata.editing.elder.neighbours import PER_EDIT, names_in, neighbours_of
from errata.editing.elder.queries import queries_of
from errata.editing.elder.scope import HeldOut, hamming, limit_of
from errata.editing.elder.training import TrainingSet, own_queries, steering, train
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import TokenRow, tokenise
from tests.unit.editing.elder_models import CODES, SMALL, Lane, make_experts
from tests.unit.editing.tiny_models import TextResources

PROMPT, REPHRASES = "Toyota makes", ("What is made by Toyota? It is", "The product of Toyota is")


def _data(llm: CausalLM, shape: Shape) -> TrainingSet:
    """One edit with two rephrases."""
    texts = [tokenise(llm, prompt, "football") for prompt in (PROMPT, *REPHRASES)]
    allocation = Allocator(len(shape.layers), shape.num_experts, shape.top_k).take("00", "01")
    return TrainingSet([texts], queries_of(llm, shape, [PROMPT]), allocation[None], 1, [3])


def test_a_texts_own_query_is_that_of_its_prompt(llama: CausalLM) -> None:
    experts = make_experts(llama)
    texts = [tokenise(llama, prompt, "football") for prompt in (PROMPT, *REPHRASES)]
    found = own_queries(llama, experts, texts)
    torch.testing.assert_close(found, queries_of(llama, experts.shape, [PROMPT, *REPHRASES]))


@pytest.mark.parametrize(
    ("values", "is_steered"),
    [({"gates": "row"}, True), ({"gates": "edit"}, False)],
)
def test_routers_learn_the_queries_of_rephrases_that_decide_something(
    llama: CausalLM, values: dict[str, str], is_steered: bool
) -> None:
    """−log s of the allocated experts, at rephrases, after steps that train on them."""
    config = SMALL.model_copy(
        update={**values, "prompt_share": 0.01, "loss_weight": 10.0, "stop_loss": 0.0, "steps": 40}
    )
    shape = Shape.of(llama, config)
    data = _data(llama, shape)
    before, after = (Experts.new(shape, config.init, 1) for _ in range(2))
    train(llama, after, data, config, seed=1)
    queries = queries_of(llama, shape, REPHRASES)
    allocation = data.allocations.expand(len(REPHRASES), -1, -1)
    losses = [
        float(steering(e.requires_grad_(False), queries, allocation, config))
        for e in (before, after)
    ]
    least = len(shape.layers) * shape.top_k * torch.tensor(float(shape.top_k)).log()
    own = float(steering(after, data.queries, data.allocations, config))
    if is_steered:
        assert losses[1] < 0.5 * (losses[0] - float(least)) + float(least)
    else:
        assert own - float(least) < losses[1] - float(least), "only the prompt's query is steered"


def test_codes_of_rephrases_are_learned(llama: CausalLM, resources: TextResources) -> None:
    config = CODES.model_copy(update={"prompt_share": 0.4, "loss_weight": 1.0, "num_contexts": 0})
    lane = Lane(llama, config, resources)
    edit = Edit("edits/2-0", PROMPT, "football", "Toyota", REPHRASES)
    result = lane.lane.fit(EditBatch((edit,), 1))
    tensors = result.artifact.tensors
    experts = Experts(
        Shape.of(llama, config), {n: tensors[n] for n in Shape.of(llama, config).sizes()}
    )
    codes = experts.codes(queries_of(llama, experts.shape, [PROMPT, *REPHRASES]))
    (texts,) = unpack_texts(["edits/2-0"], Artifact.from_bytes(result.memory.to_bytes()))
    assert hamming(codes, texts.allocation[None]).flatten().tolist() == [0, 0, 0]


def test_edits_of_one_answer_share_their_allocation(
    llama: CausalLM, resources: TextResources
) -> None:
    """A rephrase that is an edit of its own belongs to the same fact, also in a later batch."""
    lane = Lane(llama, SMALL.model_copy(update={"steps": 1}), resources)
    edits = (
        Edit("edits/2-0", PROMPT, "football", "Toyota"),
        Edit("edits/2-1", REPHRASES[0], " football", "Toyota"),
        Edit("edits/2-2", "Toyota was founded in", "Pisa", "Toyota"),
        Edit("edits/2-3", "Nokia makes", "football", "Nokia"),
    )
    first = lane.lane.fit(EditBatch(edits, 1))
    memory = Artifact.from_bytes(first.memory.to_bytes())
    known = unpack_texts([edit.name for edit in edits], memory)
    codes = [texts.allocation for texts in known]
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codes[2]), "another answer"
    assert not torch.equal(codes[0], codes[3]), "another subject"
    allocator = Allocator(2, 4, 2)
    for texts in known:
        allocator.keep(texts.fact, texts.answer, texts.allocation)
    assert torch.equal(allocator.take("new fact", known[0].answer), codes[0])
    assert not torch.equal(allocator.take("new fact 2", "new answer"), codes[0])
    assert torch.equal(allocator.take(known[3].fact, "another answer"), codes[3]), "of its fact"


def test_memories_of_older_versions_share_nothing() -> None:
    row = torch.ones(2, 4, dtype=torch.bool)
    texts = EditTexts("edits/2-0", "00" * 32, "11" * 32, row, (TokenRow((1, 2), 1),))
    packed = pack_texts([texts])
    tensors = {name: t for name, t in packed.tensors.items() if name != "answers"}
    (old,) = unpack_texts(["edits/2-0"], Artifact(tensors, {}))
    assert old.answer == "00" * 32
    assert old.texts == texts.texts


def test_neighbours_ask_about_other_names() -> None:
    text = "In 1990 the painter Anna Maria Berg met Lee Chong in Paris. Later Lee Chong left."
    names = names_in([text, "no name here", "東京"])
    assert names == ("Anna Maria Berg", "Lee Chong")
    edit = Edit("edits/2-0", "The home of Lee Chong is", "Oslo", "Lee Chong")
    assert neighbours_of(edit, names) == ["The home of Anna Maria Berg is"]
    many = tuple(f"Name Number{n}" for n in range(20))
    chosen = neighbours_of(edit, many)
    assert len(set(chosen)) == PER_EDIT
    assert chosen == neighbours_of(replace(edit, name="edits/9-0"), many)
    assert neighbours_of(replace(edit, prompt="He lives in", subject="Lee Chong"), names) == []


def test_epsilon_is_calibrated_on_neighbours(llama: CausalLM) -> None:
    config = CODES.model_copy(update={"epsilon": None, "false_claims": 0.25})
    experts = make_experts(llama, config)
    rng = torch.Generator().manual_seed(0)
    stored = torch.randn(20, experts.shape.d_q, generator=rng)
    near = stored + 0.3 * torch.randn(stored.shape, generator=rng)
    far = torch.randn(200, experts.shape.d_q, generator=rng)
    held_out = HeldOut(far, (), torch.zeros(0), torch.zeros(0))
    unrelated = limit_of(config, held_out, experts, stored)
    withheld = limit_of(config, held_out, experts, stored, [near[:12], near[:0], near[12:]])
    assert withheld < unrelated, "neighbours are nearer than unrelated text"
    distances = hamming(experts.codes(near), experts.codes(stored)).amin(1)
    assert float((distances < withheld).float().mean()) <= 0.25 or withheld == 1


def test_neighbours_travel_with_the_writers_memory(
    llama: CausalLM, resources: TextResources
) -> None:
    config = CODES.model_copy(update={"epsilon": None, "steps": 2})
    lane = Lane(llama, config, resources)
    statistics = lane.lane._statistics
    assert statistics is not None
    names = ("Anna Berg", "Lee Chong")
    held_out = replace(statistics.held_out, names=names)
    lane.lane._statistics = replace(statistics, held_out=held_out)
    lane.edit(("Toyota makes", "football"), ("Nokia makes", "Finland"))
    memory = lane.lane.memory.value
    assert [len(found) for found in memory.neighbours()] == [2, 2]
    shape = Shape.of(llama, config)
    expected = queries_of(llama, shape, ["Anna Berg makes", "Lee Chong makes"])
    found = memory.neighbours()[0]
    assert {tuple(row) for row in found.round(decimals=3).tolist()} == {
        tuple(row) for row in expected.round(decimals=3).tolist()
    }
