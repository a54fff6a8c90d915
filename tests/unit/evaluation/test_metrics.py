"""Scores and metrics against plain computations and models whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch

from errata.editing.causal_lm import CausalLM
from errata.editing.prompts import tokenise
from errata.errors import InvalidRequestError
from errata.evaluation.counterfact import Record
from errata.evaluation.metrics import baseline, evaluate, harmonic_mean
from errata.evaluation.scoring import perplexity, score_targets

PAIRS = [
    ("The capital of Finland is", "Helsinki"),
    ("Lyon", "x"),
    ("Toyota makes", "football in Zürich"),
]


@torch.no_grad()
def _log_probs(model: CausalLM, ids: tuple[int, ...]) -> torch.Tensor:
    return model.model(torch.tensor([ids])).logits[0].log_softmax(-1)


def test_batched_scores_equal_single_forward_passes(llama: CausalLM) -> None:
    scores = score_targets(llama, PAIRS)
    for i, (prompt, target) in enumerate(PAIRS):
        row = tokenise(llama, prompt, target)
        table = _log_probs(llama, row.ids)
        spots = range(len(row.ids) - row.num_target, len(row.ids))
        values = [float(table[j - 1, row.ids[j]]) for j in spots]
        best = tuple(int(table[j - 1].argmax()) for j in spots)
        assert float(scores.log_prob[i]) == pytest.approx(sum(values) / len(values), abs=1e-4)
        assert scores.argmax[i] == best


def test_accuracy_is_the_share_of_likeliest_tokens(llama: CausalLM) -> None:
    row = tokenise(llama, "Lyon", "is")
    assert row.num_target == 1
    head = torch.nn.Linear(llama.d, len(llama.tokenizer))
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()[row.ids[-1]] = 1.0  # this model says " is" whatever it reads
    llama.head = head.requires_grad_(False)
    scores = score_targets(llama, [("Lyon", "is"), ("Lyon", "is is"), ("Lyon", "x")])
    assert scores.accuracy.tolist() == [1.0, 1.0, 0.0]


def test_perplexity_is_that_of_all_predicted_tokens(llama: CausalLM) -> None:
    texts = ["Lyon is twinned with Beirut", "Toyota makes cars and Nokia made phones"]
    nll, count = 0.0, 0
    for text in texts:
        ids = tuple(llama.tokenizer(text)["input_ids"])
        table = _log_probs(llama, ids)
        nll -= sum(float(table[i - 1, ids[i]]) for i in range(1, len(ids)))
        count += len(ids) - 1
    assert perplexity(llama, texts) == pytest.approx(math.exp(nll / count), rel=1e-4)
    assert perplexity(llama, texts[:1]) != pytest.approx(math.exp(nll / count), rel=1e-4)


def test_perplexity_of_nothing_is_refused(llama: CausalLM) -> None:
    with pytest.raises(InvalidRequestError, match="empty"):
        perplexity(llama, [])


def test_harmonic_mean() -> None:
    assert harmonic_mean([0.978, 0.964, 0.823]) == pytest.approx(0.916, abs=1e-3)
    assert harmonic_mean([1.0, 0.0, 1.0]) == 0.0


def _record(new: str, true: str, locality: tuple[tuple[str, str], ...]) -> Record:
    return Record(
        case_id=0,
        prompt="Lyon is in",
        subject="Lyon",
        target_new=new,
        target_true=true,
        rephrases=("You know. Lyon is in", "Lyon lies in"),
        locality=locality,
    )


def test_shares_are_per_record_and_follow_the_preferred_target(llama: CausalLM) -> None:
    def better(prompt: str, a: str, b: str) -> bool:
        scores = score_targets(llama, [(prompt, a), (prompt, b)])
        return bool(scores.log_prob[0] > scores.log_prob[1])

    near = (("Nokia is in", "Italy"), ("Toyota is in", "France"), ("Pisa is in", "French"))
    records = [_record("Finland", "Italy", near), _record("Italy", "Finland", near[:1])]
    figures = evaluate(llama, records, baseline(llama, records))
    efficacy = [better("Lyon is in", r.target_new, r.target_true) for r in records]
    general = [
        sum(better(p, r.target_new, r.target_true) for p in r.rephrases) / 2 for r in records
    ]
    special = [
        sum(better(p, true, r.target_new) for p, true in r.locality) / len(r.locality)
        for r in records
    ]
    assert figures.efficacy == pytest.approx(sum(efficacy) / 2) == 0.5  # the two are opposites
    assert figures.generalization == pytest.approx(sum(general) / 2)
    assert figures.specificity == pytest.approx(sum(special) / 2)
    assert figures.locality == 1.0


def test_locality_counts_changed_answers(llama: CausalLM) -> None:
    records = [_record("Finland", "Italy", (("Nokia is in", "the town"),))]
    before = baseline(llama, records)
    with torch.no_grad():
        for layer in range(llama.num_layers):
            llama.set_down_weight(layer, -3 * llama.down_weight(layer))
    assert evaluate(llama, records, before).locality < 1.0
