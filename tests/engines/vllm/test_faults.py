"""vLLM's processes die: nothing is half applied, and nobody waits for an answer."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from errata.editing.model.causal_lm import CausalLM
from errata.engine.limits import EngineLimits
from errata.engine.sequence import GenerationRequest, Piece
from errata.engine.serving_state import ServingState
from errata.errors import UnavailableError
from errata_vllm.engine import VllmEngine
from tests.engines.contract.harness import make_model
from tests.unit.engine.helpers import EDITION, VERSION, collect, random_prompts
from tests.waiting import PATIENCE


def _kill_vllm() -> None:
    for process in psutil.Process().children(recursive=True):
        if "EngineCore" in process.name() or "EngineCore" in " ".join(process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)


async def _read(stream: AsyncGenerator[Piece, None]) -> list[Piece]:
    return [piece async for piece in stream]


@pytest.mark.promise("P6")
async def test_an_engine_that_dies_in_the_middle_of_a_change_is_replaced_as_a_whole(
    tmp_path: Path,
) -> None:
    """The change fails, the version stays, and health reports it, so that Serve restarts it."""
    make_model(tmp_path)
    model = CausalLM.load(tmp_path)
    limits = EngineLimits(max_rows=2, max_context=256)
    engine = VllmEngine(model, EDITION, limits, {"kv_cache_gib": "0.25"})
    await engine.start()
    request = GenerationRequest(tuple(random_prompts(model, 1, seed=1)[0]), 4)

    def swap() -> ServingState:
        model.use_down_weights([2.0 * weight for weight in model.down_weights()])
        _kill_vllm()
        return ServingState(replace(VERSION, seq=1))

    try:
        assert await collect(engine, request)
        with pytest.raises(UnavailableError, match="did not take the new weights"):
            await asyncio.wait_for(engine.change(swap, alters_weights=True), PATIENCE)
        assert engine.version == VERSION
        assert not engine.alive
        with pytest.raises(UnavailableError):
            await collect(engine, request)
    finally:
        await engine.close()


async def test_requests_of_an_engine_that_dies_fail_at_once(tmp_path: Path) -> None:
    make_model(tmp_path)
    model = CausalLM.load(tmp_path)
    limits = EngineLimits(max_rows=2, max_context=512)
    engine = VllmEngine(model, EDITION, limits, {"kv_cache_gib": "0.25"})
    await engine.start()
    prompt = tuple(random_prompts(model, 1, seed=1)[0])
    request = GenerationRequest(prompt, 400, ignore_eos=True, streaming=True)
    try:
        stream = engine.generate(request)
        await anext(stream)
        _kill_vllm()
        rest = asyncio.create_task(_read(stream))
        with pytest.raises(UnavailableError, match="processes have ended"):
            await asyncio.wait_for(rest, PATIENCE)
        assert not engine.alive
    finally:
        await engine.close()
