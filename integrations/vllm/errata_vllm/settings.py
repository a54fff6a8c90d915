"""Settings of vLLM as Errata runs it; all else of a worker is in Errata's own settings."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class VllmSettings(BaseSettings):
    """How vLLM runs in a worker; environment variables `ERRATA_VLLM__…`."""

    model_config = SettingsConfigDict(env_prefix="ERRATA_VLLM__", extra="forbid", frozen=True)

    kv_cache_gib: float = Field(1.0, gt=0, description="Size of the KV cache on CPUs, in GiB.")
    gpu_memory_utilization: float = Field(
        0.85, gt=0, le=1, description="Share of a GPU's memory for weights and KV cache."
    )
    tensor_parallel_size: int = Field(1, ge=1, description="Ranks that share each model.")
    artifact_mib: int = Field(
        256, ge=0, description="Artifacts without a request that stay in the workers, in MiB."
    )
