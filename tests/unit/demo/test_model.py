"""The shipped model knows its facts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from errata.demo import load_corpus, model_path
from errata.demo.recall import greedy_answers, recall


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """The shipped tokenizer."""
    return AutoTokenizer.from_pretrained(model_path())


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    """The shipped model in single precision."""
    return AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.float32)


def test_package_data_stays_small() -> None:
    assert sum(file.stat().st_size for file in model_path().iterdir()) < 10_000_000


def test_facts_are_answered(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    report = recall(model, tokenizer)
    assert report.in_three_phrasings >= 0.95
    assert report.overall >= 0.95
    assert set(report.by_phrasing) == set(load_corpus().relations())


def test_recall_notices_a_damaged_model(tokenizer: PreTrainedTokenizerBase) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.float32)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.zero_()
    corpus = load_corpus()
    part = replace(corpus, kinds=corpus.kinds[:1])
    assert recall(model, tokenizer, corpus=part).overall < 0.95


def test_a_subject_has_the_same_tokens_at_the_beginning_and_inside(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    alone = tokenizer("France")["input_ids"][1:]
    assert tokenizer("The capital of France")["input_ids"][-len(alone) :] == alone


def test_demo_edits_start_from_the_true_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    edits = load_corpus().demo_edits()
    probes = [probe for edit in edits for probe in (*edit.neighbours, *edit.same_subject)]
    assert greedy_answers(model, tokenizer, [probe.prompt for probe in probes]) == [
        probe.answer for probe in probes
    ]
    before = greedy_answers(model, tokenizer, [edit.prompt for edit in edits])
    assert all(given != edit.target for given, edit in zip(before, edits, strict=True))
