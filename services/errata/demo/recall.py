"""Measures how many of its facts the demo model answers."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from errata.demo.corpus import Corpus, load_corpus, prompts

_MAX_ANSWER_TOKENS = 12


@dataclass(frozen=True, slots=True)
class RecallReport:
    """Shares of facts answered.

    Attributes:
        by_phrasing: for each relation, the share of its facts answered in each phrasing.
        in_three_phrasings: share of all facts answered in at least three phrasings.
        overall: share of all (fact, phrasing) pairs answered.
    """

    by_phrasing: dict[str, tuple[float, ...]]
    in_three_phrasings: float
    overall: float


def recall(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, corpus: Corpus | None = None
) -> RecallReport:
    """Asks for every fact in every phrasing.

    A fact counts as answered if the greedy continuation is its object, followed by a full stop or
    the end of the text.

    Args:
        model: in any dtype, on any device.
        tokenizer: pads on the left.
        corpus: the package's own by default.
    """
    corpus = corpus or load_corpus()
    relations = corpus.relations()
    facts = corpus.facts()
    asked = [
        (fact, prompt)
        for fact in facts
        for prompt in prompts(relations[fact.relation], fact.subject)
    ]
    answers = greedy_answers(model, tokenizer, [prompt for _, prompt in asked])
    hits: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for (fact, _), given in zip(asked, answers, strict=True):
        hits[fact.subject, fact.relation].append(given == fact.object)
    by_relation: dict[str, list[list[bool]]] = defaultdict(list)
    for (_, relation), row in hits.items():
        by_relation[relation].append(row)
    return RecallReport(
        by_phrasing={
            relation: tuple(sum(column) / len(rows) for column in zip(*rows, strict=True))
            for relation, rows in by_relation.items()
        },
        in_three_phrasings=sum(sum(row) >= 3 for row in hits.values()) / len(facts),
        overall=sum(sum(row) for row in hits.values()) / len(asked),
    )


@torch.inference_mode()
def greedy_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: list[str],
    *,
    rows_per_batch: int = 256,
) -> list[str]:
    """Greedy continuations up to the first full stop or end of text, without surrounding spaces."""
    full_stop = tokenizer.convert_tokens_to_ids(".")
    answers: list[str] = []
    for first in range(0, len(questions), rows_per_batch):
        batch = tokenizer(
            questions[first : first + rows_per_batch], padding=True, return_tensors="pt"
        ).to(model.device)
        output = cast(Any, model).generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=_MAX_ANSWER_TOKENS,
            do_sample=False,
            eos_token_id=[tokenizer.eos_token_id, full_stop],
            pad_token_id=tokenizer.pad_token_id,
        )
        texts = tokenizer.batch_decode(
            output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
        answers.extend(text.partition(".")[0].strip() for text in texts)
    return answers
