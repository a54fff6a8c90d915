"""Chooses the engine: the embedded one, or the one that `ERRATA_TEST_ENGINE` names."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from errata.editing.model.causal_lm import CausalLM
from errata.engine.contract import ServingEngine
from tests.engines.contract.harness import EmbeddedHarness, Harness, load, make_model


def _ways() -> list[str]:
    if os.environ.get("ERRATA_TEST_ENGINE", "errata") == "vllm":
        from tests.engines.vllm.harness import WAYS

        return list(WAYS)
    return ["embedded"]


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=_ways())
async def harness(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Harness]:
    folder = tmp_path_factory.mktemp("model")
    make_model(folder)
    made: Harness
    if request.param == "embedded":
        made = EmbeddedHarness(folder)
    else:
        from tests.engines.vllm.harness import WAYS, VllmHarness

        made = VllmHarness(folder, WAYS[request.param])
    yield made
    await made.close()


@pytest.fixture
def model(harness: Harness) -> CausalLM:
    return load(harness)


@pytest_asyncio.fixture(loop_scope="session")
async def engine(harness: Harness, model: CausalLM) -> AsyncIterator[ServingEngine]:
    async with harness.running(model) as engine:
        yield engine
