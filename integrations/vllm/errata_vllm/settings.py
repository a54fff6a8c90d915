"""Options of vLLM as Errata runs it; all else of a worker is in Errata's own settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from errata.errors import InvalidRequestError


class VllmSettings(BaseModel):
    """How vLLM runs in a worker: the keys of `ERRATA_WORKER__ENGINE_OPTIONS`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kv_cache_gib: float = Field(1.0, gt=0, description="Size of the KV cache on CPUs, in GiB.")
    gpu_memory_utilization: float = Field(
        0.85, gt=0, le=1, description="Share of a GPU's memory for weights and KV cache."
    )
    tensor_parallel_size: int = Field(1, ge=1, description="Ranks that share each model.")
    compiled: bool = Field(
        False, description="Whether vLLM compiles the model; its start then takes longer."
    )
    artifact_mib: int = Field(
        256, ge=0, description="Artifacts without a request that stay in the workers, in MiB."
    )

    @classmethod
    def of(cls, options: Mapping[str, str]) -> Self:
        """The settings that a worker's `engine_options` give.

        Raises:
            InvalidRequestError: an option is unknown, or its value does not fit.
        """
        try:
            return cls.model_validate(dict(options))
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise InvalidRequestError(
                f"worker.engine_options (ERRATA_WORKER__ENGINE_OPTIONS): {name}: {first['msg']}. "
                f"vLLM's options are {', '.join(cls.model_fields)}.",
                field="engine_options",
            ) from error
