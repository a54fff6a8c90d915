"""Scope tests by cosine: embeddings, their weights, and limits."""

from __future__ import annotations

import math

import pytest
import torch

from errata.editing.model.causal_lm import CausalLM
from errata.editing.scope import (
    calibrated_cosine,
    document_frequencies,
    held_out_prompts,
    mean_embeddings,
    unit,
)
from errata.errors import StartupError

PARAGRAPHS = ["Toyota makes cars", "Toyota was founded in Japan", "Nokia makes phones"]


def test_a_tokens_weight_is_its_inverse_document_frequency(llama: CausalLM) -> None:
    weights = document_frequencies(llama, PARAGRAPHS)
    ids = [set(llama.tokenizer(text)["input_ids"]) for text in PARAGRAPHS]
    assert any(len([own for own in ids if token in own]) == 3 for token in set.union(*ids))
    for token in range(len(weights)):
        count = sum(token in own for own in ids)
        assert float(weights[token]) == pytest.approx(math.log(4 / (1 + count)), abs=1e-6)


def test_embeddings_are_weighted_means(llama: CausalLM) -> None:
    special = set(llama.tokenizer.all_special_ids)
    ids = [t for t in llama.tokenizer(PARAGRAPHS[1])["input_ids"] if t not in special]
    embedded = llama.embeddings(torch.tensor(ids)).double()
    weights = document_frequencies(llama, PARAGRAPHS)
    w = weights[ids].double()[:, None]
    plain, weighted = (
        mean_embeddings(llama, PARAGRAPHS, given)[1].double() for given in (None, weights)
    )
    torch.testing.assert_close(plain, embedded.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(weighted, (w * embedded).sum(0) / w.sum(), atol=1e-6, rtol=0)
    assert not torch.allclose(plain, weighted)


def test_a_prompt_with_weights_of_zero_has_a_zero_vector(llama: CausalLM) -> None:
    weightless = torch.zeros(len(llama.embeddings.get_parameter("weight")))
    made = unit(mean_embeddings(llama, PARAGRAPHS, weightless))
    assert torch.equal(made, torch.zeros_like(made)), "zero instead of NaN: similar to no edit"


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5])
def test_a_calibrated_limit_claims_no_more_than_its_share(share: float) -> None:
    torch.manual_seed(0)
    held_out, stored = unit(torch.randn(200, 16)), unit(torch.randn(50, 16))
    limit = calibrated_cosine(held_out, stored, share)
    claimed = ((held_out @ stored.T).amax(1) > limit).float().mean()
    assert float(claimed) == pytest.approx(share), "exactly the share, because all cosines differ"


def test_text_without_usable_paragraphs_is_refused(llama: CausalLM) -> None:
    assert held_out_prompts(llama, ["one two", "one two three four five"]) == [
        "one two three four five"
    ]
    with pytest.raises(StartupError, match="Use other text, or set the threshold"):
        held_out_prompts(llama, ["one two"])
