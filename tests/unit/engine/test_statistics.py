"""What the engine tells of itself: counts and times of what it did."""

from __future__ import annotations

import numpy as np

from errata.editing.model.causal_lm import CausalLM
from errata.engine.sequence import GenerationRequest
from errata.engine.statistics import Distribution
from tests.unit.engine.helpers import collect, running


def test_values_fall_into_the_bucket_whose_end_they_reach() -> None:
    found = Distribution([1.0, 2.0])
    found.add(np.asarray([0.5, 1.0, 1.5, 2.0, 9.0]))
    assert found.counts.tolist() == [2, 2, 1]
    assert found.total == 14.0


async def test_tokens_times_and_ends_are_counted(model: CausalLM) -> None:
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
