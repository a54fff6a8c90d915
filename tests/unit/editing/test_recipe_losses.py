"""RECIPE's losses against known values and against wrong definitions."""

import math

import pytest
import torch

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.editing.retriever.losses import (
    Texts,
    answer_logits,
    answer_loss,
    contrastive,
    locality_loss,
)
from tests.unit.editing.recipe_models import logits_behind


def test_equal_scores_give_the_logarithm_of_the_number_of_candidates() -> None:
    b = 6
    queries, candidates = torch.zeros(b, 4), torch.randn(b + 1, 4)
    own = torch.eye(b, b + 1, dtype=torch.bool)
    neighbour = contrastive(queries, candidates, torch.arange(b), scale=1.0)
    sentinel = contrastive(queries, candidates, torch.full((b,), b), scale=1.0, hidden=own)
    assert float(neighbour) == pytest.approx(math.log(b + 1))
    assert float(sentinel) == pytest.approx(math.log(b)), "the own key is excluded"


def test_the_scale_multiplies_scores_and_the_loss_prefers_the_right_candidate() -> None:
    queries, candidates = torch.tensor([[2.0]]), torch.tensor([[1.0], [0.0]])
    for scale in (1.0, 0.5):
        expected = math.log(1 + math.exp(-2 * scale))
        found = contrastive(queries, candidates, torch.tensor([0]), scale=scale)
        assert float(found) == pytest.approx(expected)


def test_the_hinge_excludes_terms_that_are_right_by_a_factor() -> None:
    logits = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
    labels = torch.tensor([0, 0, 0])
    wrong = math.log(1 + math.exp(3))
    assert float(answer_loss(logits, labels, 1.2)) == pytest.approx((math.log(2) + wrong) / 2)
    # excluded from a factor of 1.2 on, included at 1.19
    margins = torch.tensor([[math.log(1.21), 0.0], [math.log(1.19), 0.0]], requires_grad=True)
    answer_loss(margins, labels[:2], 1.2).backward()
    assert margins.grad is not None
    assert margins.grad[0].abs().max() == 0
    assert margins.grad[1].abs().max() > 0
    assert float(answer_loss(logits[1:2], labels[1:2], 1.2)) == 0, "every term is excluded: no NaN"


def test_locality_is_the_divergence_from_the_base() -> None:
    base, prompted = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    p, q = base.softmax(-1), prompted.softmax(-1)
    assert float(locality_loss(base, prompted)) == pytest.approx(float((p * (p / q).log()).sum()))
    assert float(locality_loss(base, prompted)) != pytest.approx(float((q * (q / p).log()).sum()))
    assert float(locality_loss(base, base)) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("deep", [(), (1, 2)])
@pytest.mark.parametrize("after", [0, 1])
def test_prompted_logits_are_those_of_the_hand_made_sequence(
    llama: CausalLM, after: int, deep: tuple[int, ...]
) -> None:
    rows = [
        tokenise(llama, "The tower of Pisa is in", "Finland"),
        tokenise(llama, "Toyota", "makes cars in the town"),
    ]
    prompts = 0.1 * torch.randn(2, 1 + len(deep), 3, llama.d)
    texts = Texts.of(llama, rows, after)
    found = answer_logits(llama, texts, prompts, deep)
    expected = []
    for row, prompt in zip(rows, prompts, strict=True):  # alone, so that nothing is padded
        hf = logits_behind(llama, row.ids, prompt, after, deep)
        first = len(row.ids) - row.num_target + 3 - 1
        expected.append(hf[first : first + row.num_target])
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-4, rtol=1e-4)
    assert texts.labels.tolist() == [i for row in rows for i in row.ids[-row.num_target :]]


def test_shares_are_computed_per_text(llama: CausalLM) -> None:
    texts = Texts.of(
        llama, [tokenise(llama, "Toyota", "makes"), tokenise(llama, "Nokia", "東京")], 0
    )
    values = torch.ones(len(texts.labels))
    values[-1] = 0
    counts = texts.rows.bincount()
    assert counts[0] != counts[1], "otherwise a mean over all places would pass"
    expected = [1.0, 1 - 1 / int(counts[1])]
    assert texts.per_text(values).tolist() == pytest.approx(expected)
