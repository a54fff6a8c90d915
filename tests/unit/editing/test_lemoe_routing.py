"""Projection, gates and order planning of LEMoE."""

import pytest
import torch

from errata.editing.edit import Edit
from errata.editing.lemoe.config import PAPER, LemoeConfig
from errata.editing.lemoe.experts import Shape, as_expert, new_expert
from errata.editing.lemoe.order import in_clusters, plan_order, similarity, vectors_of
from errata.editing.lemoe.projection import Projection, anchored_gates, literal_gates
from errata.editing.lemoe.training import (
    Earlier,
    TrainingSet,
    applied_experts,
    single_expert_rows,
    train,
)
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import pad_right, tokenise
from errata.editing.scope import mean_embeddings, unit
from tests.unit.editing.tiny_models import FAMILIES, make_model

SHAPE = Shape(layer=1, kind="ffn", rank=0, d=16, d_ff=24, d_p=4)


def _random(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["ffn", "lora"])
def test_a_new_expert_changes_no_bit(family: str, kind: str) -> None:
    llm = make_model(family)
    shape = Shape.of(llm, LemoeConfig(expert=kind, rank=4))
    expert = as_expert(llm, shape, new_expert(llm, shape, 1))
    ids, mask = pad_right(llm, [tokenise(llm, "Nokia made phones").ids])
    with torch.no_grad():
        before = llm.body(input_ids=ids, attention_mask=mask).last_hidden_state
        with applied_experts(llm, shape.layer, single_expert_rows(expert, 1, 1.0, llm.device)):
            after = llm.body(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.equal(before, after)
    assert shape.num_parameters == sum(p.numel() for p in new_expert(llm, shape, 1).values())


def test_v_is_the_printed_formula() -> None:
    e = _random(3, 16)
    plain = Projection.new(SHAPE, 1, is_residual=False)
    printed = torch.stack([plain.up @ torch.nn.functional.silu(plain.down @ row) for row in e])
    torch.testing.assert_close(plain(e), printed)
    residual = Projection.new(SHAPE, 1, is_residual=True)
    torch.testing.assert_close(residual(e), printed + e)
    torch.testing.assert_close(residual.anchor(e).norm(), torch.tensor(1.0))


def test_word_order_has_no_effect(llama: CausalLM) -> None:
    texts = [" in Pisa is", " is in Pisa"]
    e = mean_embeddings(llama, texts)
    ids = [tokenise(llama, text).ids for text in texts]
    assert ids[0] != ids[1]
    assert sorted(ids[0]) == sorted(ids[1])
    torch.testing.assert_close(e[0], e[1])
    projection = Projection.new(Shape.of(llama, LemoeConfig()), 1, is_residual=True)
    torch.testing.assert_close(projection(e)[0], projection(e)[1])
    assert llama.tokenizer.bos_token_id in ids[0], "the mean does not include it"
    without_bos = [token for token in ids[0] if token != llama.tokenizer.bos_token_id]
    expected = llama.embeddings(torch.tensor(without_bos)).float().mean(0)
    torch.testing.assert_close(e[0], expected)


def test_gates_of_k_keys() -> None:
    anchors, v = _random(5, 16, seed=1), _random(7, 16, seed=2)
    numbers, gates = literal_gates(anchors, v, 2)
    shares = (v @ anchors.T).softmax(-1)
    assert torch.equal(numbers, shares.argsort(descending=True)[:, :2])
    torch.testing.assert_close(gates, shares.gather(1, numbers))
    same, fixed = anchored_gates(anchors, v, 2)
    assert torch.equal(same, numbers)
    assert torch.equal(fixed, torch.full((7, 2), 0.5))
    assert literal_gates(anchors[:1], v, 2)[1].unique().tolist() == [1.0], "one key: exactly 1"


def test_a_new_key_dilutes_literal_gates_only() -> None:
    anchors, v = _random(3, 16, seed=1), _random(7, 16, seed=2)
    far = -10 * anchors[:1]
    more = torch.cat([anchors, far])
    for gates_of, is_kept in ((literal_gates, False), (anchored_gates, True)):
        before, after = gates_of(anchors, v, 1), gates_of(more, v, 1)
        same = before[0] == after[0]
        assert bool(same.any())
        assert torch.equal(before[1][same], after[1][same]) is is_kept


def test_the_first_literal_fit_does_not_train_key_and_projection(llama: CausalLM) -> None:
    """With one key, the softmax is exactly 1, so the router's gradients are exactly 0."""
    config = LemoeConfig.model_validate({**PAPER, "steps": 3, "learning_rate": 1e-2})
    shape = Shape.of(llama, config)
    projection = Projection.new(shape, 1, is_residual=False)
    texts = [tokenise(llama, "Toyota makes", "football")]
    e = mean_embeddings(llama, ["Toyota makes"])
    data = TrainingSet(texts, torch.tensor([0]), torch.tensor([True]), e)
    first = train(llama, shape, data, Earlier([], e[:0], projection), config, 1)
    decay = (1 - 1e-2 * 0.01) ** 3  # weight decay of AdamW, which needs no gradient
    torch.testing.assert_close(first.projection.up, projection.up * decay)
    expert = as_expert(llama, shape, first.tensors)
    earlier = Earlier([expert], first.anchor[None], projection)
    second = train(llama, shape, data, earlier, config, 2)
    assert not torch.allclose(second.projection.up, projection.up * decay, atol=1e-6)


def test_planning_makes_equal_batches_of_similar_edits() -> None:
    centres = 5 * _random(4, 16)
    vectors = unit(torch.cat([c + _random(30, 16, seed=i) for i, c in enumerate(centres)]))
    order = torch.randperm(120, generator=torch.Generator().manual_seed(3))
    vectors = vectors[order]
    for how in ("kmeans", "hierarchical"):
        batches = in_clusters(vectors, 4, how, seed=1)
        assert sorted(n for batch in batches for n in batch) == list(range(120))
        assert sorted(map(len, batches)) == [30, 30, 30, 30]
        assert batches == in_clusters(vectors, 4, how, seed=1)
        found = similarity(vectors, batches)
        plain = similarity(vectors, [list(range(i, i + 30)) for i in range(0, 120, 30)])
        assert found.within is not None
        assert plain.within is not None
        assert found.between is not None
        assert plain.between is not None
        assert found.within > plain.within + 0.3
        assert found.between < plain.between - 0.05


def test_a_window_that_fits_one_expert_is_one_batch(llama: CausalLM) -> None:
    edits = [Edit(f"edits/1-{n}", f"Nokia {n} is", "x", "Nokia") for n in range(5)]
    for order in ("kmeans", "hierarchical", "log"):
        config = LemoeConfig(order=order, expert_edits=5)
        assert plan_order(llama, config, edits, 1) == [[0, 1, 2, 3, 4]]
        assert sorted(map(len, plan_order(llama, config, edits, 1, 4))) == [1, 1, 1, 2]
        small = LemoeConfig(order=order, expert_edits=2)
        batches = plan_order(llama, small, edits, 1)
        assert sorted(map(len, batches)) == [1, 2, 2]
    assert plan_order(llama, LemoeConfig(order="log", expert_edits=2), edits, 1) == [
        [0, 1],
        [2, 3],
        [4],
    ]
    torch.testing.assert_close(vectors_of(llama, edits).norm(dim=1), torch.ones(5))


@pytest.mark.parametrize(
    "values",
    [
        {"top_k": 2},
        {"routing": "anchored", "scope": "off", "top_k": 9, "max_experts": 8},
        {"threshold": 0.5},
        {"layer": -1},
        {"scope": "codes"},
    ],
)
def test_inconsistent_values_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="LemoeConfig"):
        LemoeConfig.model_validate(values)


def test_similarity_without_pairs_is_none(llama: CausalLM) -> None:
    edits = [Edit(f"edits/1-{n}", f"Nokia {n} is", "x", "Nokia") for n in range(2)]
    together = similarity(vectors_of(llama, edits), [[0, 1]])
    apart = similarity(vectors_of(llama, edits), [[0], [1]])
    assert (together.between, apart.within) == (None, None)
    assert together.within == pytest.approx(apart.between)
