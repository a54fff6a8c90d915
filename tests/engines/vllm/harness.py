"""Runs vLLM engines: one vLLM, which takes long to start, for all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from errata.editing.model.causal_lm import CausalLM
from errata.engine.contract import ServingEngine
from errata.engine.limits import EngineLimits
from errata.engine.serving_state import ServingState
from errata_vllm.engine import VllmEngine
from errata_vllm.llm import Llm
from errata_vllm.settings import VllmSettings
from tests.engines.contract.harness import LIMITS
from tests.unit.engine.helpers import EDITION

WAYS = {
    "eager": VllmSettings(kv_cache_gib=0.5),
    "compiled": VllmSettings(kv_cache_gib=0.5, compiled=True),
    "ranks": VllmSettings(kv_cache_gib=0.5, tensor_parallel_size=2),
    "compiled-ranks": VllmSettings(kv_cache_gib=0.5, tensor_parallel_size=2, compiled=True),
}


class _Shared(Llm):
    """A vLLM that is prepared once and outlives its engines."""

    _is_started = False

    async def start(self) -> None:
        if not self._is_started:
            await super().start()
            self._is_started = True

    def close(self) -> None: ...

    def end(self) -> None:
        super().close()


class VllmHarness:
    """Runs engines on one vLLM, whose base weights it restores behind each of them."""

    def __init__(self, folder: Path, settings: VllmSettings) -> None:
        self.folder = folder
        with pytest.MonkeyPatch.context() as patch:
            # vLLM wants a NUMA node for each rank on CPUs; this makes them share one.
            patch.setenv("VLLM_CPU_SIM_MULTI_NUMA", "1")
            self._llm = _Shared(
                str(folder),
                "float32",
                max_rows=8,
                max_context=512,
                prefill_tokens=256,
                settings=settings,
            )

    @property
    def llm(self) -> Llm:
        """The vLLM that all engines share."""
        return self._llm

    @asynccontextmanager
    async def running(
        self, model: CausalLM, state: ServingState = EDITION, limits: EngineLimits = LIMITS
    ) -> AsyncIterator[ServingEngine]:
        base = dict(enumerate(model.down_weights()))
        engine = VllmEngine(model, state, limits, open_llm=lambda: self._llm)
        await engine.start()
        try:
            yield engine
        finally:
            await engine.close()
            await self._llm.replace_down(base)

    async def close(self) -> None:
        self._llm.end()
