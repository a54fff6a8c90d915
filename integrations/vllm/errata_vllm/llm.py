"""vLLM's asynchronous engine with Errata's workers."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from importlib.metadata import version
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from vllm.config import CompilationConfig, CUDAGraphMode, VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import TokensPrompt
from vllm.outputs import RequestOutput
from vllm.platforms import current_platform
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import StatLoggerBase

from errata.errors import DataLossError, PreconditionError, UnavailableError
from errata_vllm.artifacts import PackedPart
from errata_vllm.settings import VllmSettings
from errata_vllm.versions import check_version

_POLL_SECONDS = 0.5
_WORKERS = "errata_vllm.worker.worker"


class Usage(StatLoggerBase):
    """Keeps the newest statistics of vLLM's scheduler.

    Attributes:
        cache: KV cache in use, as a fraction.
    """

    def __init__(self, vllm_config: VllmConfig | None = None, engine_index: int = 0) -> None:
        """Nothing is known yet."""
        self.cache = 0.0

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        """Takes the statistics of a step."""
        if scheduler_stats is not None:
            self.cache = scheduler_stats.kv_cache_usage

    def log_engine_initialized(self) -> None:
        """Nothing to log."""


def engine_arguments(
    model: str,
    dtype: str,
    *,
    max_rows: int,
    max_context: int,
    prefill_tokens: int,
    settings: VllmSettings,
) -> AsyncEngineArgs:
    """vLLM's arguments as Errata needs them; parameters are those of `Llm`."""
    named: Any = dtype  # vLLM checks the name itself
    return AsyncEngineArgs(
        model=model,
        dtype=named,
        max_model_len=max_context,
        max_num_seqs=max_rows,
        max_num_batched_tokens=max(prefill_tokens, max_rows),
        enable_chunked_prefill=True,
        enable_prefix_caching=True,
        enforce_eager=not settings.compiled,
        # Graphs would replay what an earlier step's rows got.
        compilation_config=CompilationConfig(cudagraph_mode=CUDAGraphMode.NONE),
        generation_config="vllm",  # requests say all that they want
        tensor_parallel_size=settings.tensor_parallel_size,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        kv_cache_memory_bytes=(
            int(settings.kv_cache_gib * 2**30) if current_platform.is_cpu() else None
        ),
        enable_log_requests=False,
    )


class Llm:
    """One vLLM engine: requests, and what its workers hold for them."""

    def __init__(
        self,
        model: str,
        dtype: str,
        *,
        max_rows: int,
        max_context: int,
        prefill_tokens: int,
        settings: VllmSettings,
    ) -> None:
        """Starts vLLM's processes and loads the model in them; takes many seconds.

        Args:
            model: folder or hub id.
            dtype: of the weights, such as `bfloat16`.
            max_rows: generations that run at once.
            max_context: longest sequence.
            prefill_tokens: prompt tokens that are read between two steps.
            settings: of vLLM.

        Raises:
            PreconditionError: this version of vLLM is not tested.
        """
        check_version()
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # rows are read from the V1 runner
        self.usage = Usage()
        arguments = engine_arguments(
            model,
            dtype,
            max_rows=max_rows,
            max_context=max_context,
            prefill_tokens=prefill_tokens,
            settings=settings,
        )
        kind = "EditedCpuWorker" if current_platform.is_cpu() else "EditedGpuWorker"
        arguments.worker_cls = f"{_WORKERS}.{kind}"
        # vLLM keeps compiled models on disk; this tells ours from others of the same model.
        arguments.additional_config = {"errata": version("errata-vllm")}
        self._llm = AsyncLLM.from_engine_args(arguments, stat_loggers=[self._usage])

    def _usage(self, config: VllmConfig, engine_index: int = 0) -> StatLoggerBase:
        return self.usage

    @property
    def alive(self) -> bool:
        """Whether vLLM's processes work."""
        return not self._llm.errored

    async def start(self) -> None:
        """Prepares the workers for edits.

        Raises:
            PreconditionError: the model cannot be edited in vLLM.
        """
        try:
            await self._call("errata_start")
        except UnavailableError:
            raise
        except Exception as error:  # vLLM raises a plain Exception with the worker's message
            raise PreconditionError(str(error)) from error

    async def generate(
        self, ids: Sequence[int], params: SamplingParams, salt: str, name: str
    ) -> AsyncGenerator[RequestOutput, None]:
        """Yields what vLLM makes of a prompt.

        Args:
            ids: the prompt's tokens, places of a continuous prompt included.
            params: of the request.
            salt: of the prefix cache; requests with equal salts share entries.
            name: unique.

        Raises:
            UnavailableError: vLLM's processes have ended.
        """
        prompt = TokensPrompt(prompt_token_ids=list(ids))
        if salt:
            prompt["cache_salt"] = salt
        try:
            async with aclosing(self._llm.generate(prompt, params, name)) as outputs:
                async for output in outputs:
                    yield output
        except EngineDeadError as error:
            raise _dead() from error

    async def put(self, parts: Sequence[PackedPart]) -> None:
        """Sends artifacts to the workers."""
        if parts:
            await self._call("errata_put", {part.digest: part.data for part in parts})

    async def drop(self, digests: Sequence[str]) -> None:
        """Lets the workers forget artifacts."""
        if digests:
            await self._call("errata_drop", list(digests))

    async def hits(self, keys: Sequence[str]) -> dict[str, list[list[int]]]:
        """What probes heard in requests: key → pairs (probe, edit); the workers forget it."""
        found: dict[str, list[list[int]]] = (await self._call("errata_hits", list(keys)))[0]
        return found

    async def replace_down(self, weights: Mapping[int, Tensor]) -> dict[int, str]:
        """Puts down projections into all ranks between two steps; no request may be running.

        Every rank stages its part first. Only if all have read the same bytes are they swapped in.

        Args:
            weights: layer → (d, d_ff).

        Returns:
            SHA-256, hex, of each matrix, by layer.

        Raises:
            DataLossError: a rank has read something else; nothing was swapped in.
        """
        own = {layer: weight.detach().cpu().contiguous() for layer, weight in weights.items()}
        data = await asyncio.to_thread(save, {str(n): weight for n, weight in own.items()})
        digest = hashlib.sha256(data).hexdigest()
        staged = await self._call("errata_stage", data)
        if set(staged) != {digest}:
            raise DataLossError(f"ranks staged {', '.join(sorted(set(staged)))}, not {digest}.")
        await self._call("errata_commit")
        return {
            layer: hashlib.sha256(weight.view(torch.uint8).numpy().tobytes()).hexdigest()
            for layer, weight in own.items()
        }

    async def enable(self, enabled: bool) -> None:
        """Whether effects act; comparisons turn them off."""
        await self._call("errata_enable", enabled)

    def close(self) -> None:
        """Ends vLLM's processes."""
        self._llm.shutdown()

    async def _call(self, method: str, *args: Any) -> list[Any]:
        call = asyncio.create_task(self._llm.collective_rpc(method, args=args))
        try:
            # vLLM never answers a call that was under way when its processes ended.
            while not call.done() and self.alive:
                await asyncio.wait({call}, timeout=_POLL_SECONDS)
            if not call.done():
                raise _dead()
            found: list[Any] = await call
        except EngineDeadError as error:
            raise _dead() from error
        finally:
            call.cancel()
        return found


def _dead() -> UnavailableError:
    return UnavailableError("vLLM's processes have ended; this replica restarts.")
