"""Measures what Errata costs in vLLM: against plain vLLM, in the same run.

    python -m errata_vllm.bench --model build/smollm2 --out build/vllm

Rounds of five kinds alternate: plain vLLM without Errata; Errata without edits, with a quarter each
of prefix, mixture, expert and nothing, and with edited weights; and Errata's embedded engine.
"""

from __future__ import annotations

import asyncio
import itertools
import shlex
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from vllm.inputs import TokensPrompt
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.model.causal_lm import CausalLM
from errata.engine.engine import Engine
from errata.engine.limits import EngineLimits
from errata.engine.sequence import GenerationRequest, Request
from errata.engine.serving_state import FunctionRouter, ServingState
from errata.evaluation.report import circumstances, code_version, write
from errata.evaluation.serve.engine_bench import UNEDITED
from errata.evaluation.serve.synthetic import mixed_plans
from errata.evaluation.serve.workload import Timings, Workload, run_round
from errata.launch.terminal import console
from errata_vllm.engine import VllmEngine
from errata_vllm.llm import engine_arguments
from errata_vllm.settings import VllmSettings

_RESERVED = 4  # positions that prefixes take
_WARM_UP_ROUNDS = 2
_PREFILL_TOKENS = 1_024
_app = typer.Typer(add_completion=False)

Round = Callable[[], Awaitable[Timings]]


@_app.command()
def main(
    model: Annotated[str, typer.Option(help="Folder or hub id.")],
    out: Annotated[Path, typer.Option(help="Folder for result.json.")],
    rounds: Annotated[int, typer.Option(help="Alternations.", min=1)] = 5,
    requests: Annotated[int, typer.Option(help="Requests in one round.", min=1)] = 48,
    rows: Annotated[int, typer.Option(help="Requests in flight, and rows.", min=1)] = 16,
    max_context: Annotated[int, typer.Option(help="Longest sequence.", min=64)] = 512,
    compiled: Annotated[bool, typer.Option(help="Let vLLM compile the model, in both.")] = False,
) -> None:
    """Measures vLLM with Errata against vLLM without it; writes OUT/result.json."""
    workload = Workload(num_requests=requests, concurrency=rows, new_tokens=(4, 64))
    settings = VllmSettings(kv_cache_gib=0.5, compiled=compiled)
    found = asyncio.run(_measure(model, workload, rounds, max_context, settings))
    console().print(f"written to {write(found, out)}")


async def _measure(
    path: str, workload: Workload, rounds: int, max_context: int, settings: VllmSettings
) -> dict[str, Any]:
    model = CausalLM.load(path)
    rows = workload.concurrency
    limits = EngineLimits(
        max_rows=rows,
        max_queue=workload.num_requests,
        max_context=max_context,
        prefill_tokens=_PREFILL_TOKENS,
    )
    asked = workload.requests(len(model.tokenizer), max_context - _RESERVED)
    plain = await asyncio.to_thread(_plain_vllm, path, rows, max_context, settings)
    options = {name: str(value) for name, value in settings.model_dump().items()}
    ours = VllmEngine(model, UNEDITED, limits, options)
    await ours.start()
    embedded = Engine(CausalLM.load(path), UNEDITED, limits)
    await embedded.start()
    try:
        kinds = _rounds(plain, ours, embedded, model, asked, rows)
        rates = await _alternate(kinds, rounds)
    finally:
        await embedded.close()
        await ours.close()
        plain.shutdown()
    return _report(path, rates, workload, settings)


def _plain_vllm(path: str, rows: int, max_context: int, settings: VllmSettings) -> AsyncLLM:
    """vLLM as Errata configures it, without Errata's workers."""
    arguments = engine_arguments(
        path,
        "float32",
        max_rows=rows,
        max_context=max_context,
        prefill_tokens=_PREFILL_TOKENS,
        settings=settings,
    )
    return AsyncLLM.from_engine_args(arguments)


def _rounds(
    plain: AsyncLLM,
    ours: VllmEngine,
    embedded: Engine,
    model: CausalLM,
    asked: Sequence[GenerationRequest],
    rows: int,
) -> dict[str, Round]:
    plans = mixed_plans(model, [request.prompt_ids for request in asked])

    def route(requests: Sequence[Request]) -> list[RowPlan]:
        return [plans.get(request.prompt_ids, BASE) for request in requests]

    mixed = ServingState(UNEDITED.version, router=FunctionRouter(route))
    base = model.down_weights()
    edited = [1.001 * weight for weight in base]

    async def under(state: ServingState, weights: Sequence[Any]) -> Timings:
        def swap() -> ServingState:
            model.use_down_weights(list(weights))
            return state

        await ours.change(swap, alters_weights=True)
        return await run_round(ours, asked, rows, streaming=False)

    return {
        "plain": lambda: _plain_round(plain, asked, rows),
        "no edits": lambda: under(UNEDITED, base),
        "mixed": lambda: under(mixed, base),
        "edited weights": lambda: under(UNEDITED, edited),
        "embedded": lambda: run_round(embedded, asked, rows, streaming=False),
    }


async def _plain_round(llm: AsyncLLM, asked: Sequence[GenerationRequest], rows: int) -> Timings:
    room, numbers = asyncio.Semaphore(rows), itertools.count()
    loop = asyncio.get_running_loop()

    async def one(request: GenerationRequest) -> None:
        params = SamplingParams(
            temperature=0.0,
            max_tokens=request.max_tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = TokensPrompt(prompt_token_ids=list(request.prompt_ids))
        async with room:
            async for _ in llm.generate(prompt, params, f"plain-{id(request)}-{next(numbers)}"):
                pass

    begun = loop.time()
    await asyncio.gather(*[one(request) for request in asked])
    made = sum(request.max_tokens for request in asked)
    return Timings(elapsed=loop.time() - begun, num_tokens=made)


async def _alternate(kinds: Mapping[str, Round], rounds: int) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(_WARM_UP_ROUNDS + rounds):
        for name, one in kinds.items():
            timings = await one()
            if number >= _WARM_UP_ROUNDS:
                rates[name].append(timings.tokens_per_second)
        if number >= _WARM_UP_ROUNDS:
            newest = ", ".join(f"{name} {values[-1]:,.0f}" for name, values in rates.items())
            console().print(f"{number - _WARM_UP_ROUNDS + 1}/{rounds}: {newest} tokens/s")
    return rates


def _report(
    path: str,
    rates: Mapping[str, Sequence[float]],
    workload: Workload,
    settings: VllmSettings,
) -> dict[str, Any]:
    ratios = {}
    for name, values in rates.items():
        pairs = sorted(mine / other for mine, other in zip(values, rates["plain"], strict=True))
        ratios[name] = {"median": median(pairs), "min": pairs[0], "max": pairs[-1]}
    return {
        "suite": "vllm",
        "model": path.rstrip("/").rpartition("/")[2],
        "ratio_to_plain_vllm": ratios,
        "tokens_per_second": {name: median(values) for name, values in rates.items()},
        "compiled": settings.compiled,
        "requests_per_round": workload.num_requests,
        "rows": workload.concurrency,
        "code": code_version(),
        **circumstances(),
        "command": shlex.join(["python", "-m", "errata_vllm.bench", *sys.argv[1:]]),
    }


if __name__ == "__main__":
    _app()
