"""The contract's fixtures, on vLLM."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from errata.editing.model.causal_lm import CausalLM
from tests.engine_contract.harness import load, make_model
from tests.vllm.harness import VllmHarness


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def harness(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmHarness]:
    folder = tmp_path_factory.mktemp("model")
    make_model(folder)
    made = VllmHarness(folder)
    yield made
    await made.close()


@pytest.fixture
def model(harness: VllmHarness) -> CausalLM:
    return load(harness)
