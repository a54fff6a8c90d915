"""Counts and latencies that the engine reports."""

from __future__ import annotations

import numpy as np

from errata.editing.model.causal_lm import CausalLM
from errata.engine.sequence import GenerationRequest
from errata.engine.statistics import Distribution
from tests.unit.engine.helpers import collect, running


def test_a_value_counts_in_the_first_bucket_that_is_large_enough() -> None:
    found = Distribution([1.0, 2.0])
    found.add(np.asarray([0.5, 1.0, 1.5, 2.0, 9.0]))
    assert found.counts.tolist() == [2, 2, 1]
    assert found.total == 14.0


async def test_tokens_latencies_and_finishes_are_counted(model: CausalLM) -> None:
    requests = [
        GenerationRequest((5, 6, 7), num_tokens, ignore_eos=True) for num_tokens in (1, 4, 6)
    ]
    async with running(model) as engine:
        for request in requests:
            await collect(engine, request)
        done = engine.statistics
        assert engine.cache_usage == 0
    assert done.finished == {"length": 3}
    assert (done.prompt_tokens, done.generated_tokens) == (9, 11)
    assert done.first_token.counts.sum() == done.whole.counts.sum() == 3
    assert done.between_tokens.counts.sum() == 11 - 3
    assert 0 < done.first_token.total < done.whole.total
