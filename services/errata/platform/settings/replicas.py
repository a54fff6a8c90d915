"""Settings of what follows the log: workers, and the retrieval service."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from errata.platform.settings.section import Address, OptionalAddress, ServiceSettings


class ReplicaSettings(ServiceSettings):
    """What follows the log."""

    max_lag: int = Field(
        1_000, ge=1, description="Entries a replica may be behind before it reports unhealthy."
    )
    max_silence_seconds: float = Field(
        30.0, gt=0, description="How long a replica may not hear of the log."
    )


class WorkerSettings(ReplicaSettings):
    """The LLM worker pool."""

    ray_address: Address = Field(
        "127.0.0.1:6380", description="Where `errata serve workers` lets gateways join its Ray."
    )
    num_replicas: int = Field(2, ge=1, description="LLM workers, each with the whole model.")
    max_replicas: int = Field(
        0, ge=0, description="Scale with the load up to so many; 0 keeps num_replicas."
    )
    num_cpus: float = Field(0.5, ge=0, description="Ray CPUs of each replica.")
    num_gpus: float = Field(0.0, ge=0, description="Ray GPUs of each replica.")
    node_cpus: int = Field(
        0,
        ge=0,
        description="Ray CPUs of the node that Errata starts; 0 is enough for all replicas.",
    )
    num_threads: int = Field(1, ge=1, description="Torch threads of each replica, on CPU.")
    retrieval_address: OptionalAddress = Field(
        "", description="Retrieval service that decides claims; in each replica itself if empty."
    )
    retrieval_timeout_seconds: float = Field(
        2.0, gt=0, description="For the decisions on one batch; its requests fail after it."
    )
    max_batch_size: int = Field(16, ge=1, description="Generations that run at once.")
    max_queue: int = Field(256, ge=1, description="Requests that wait in a replica.")
    max_new_tokens: int = Field(512, ge=1, description="Of one continuation.")
    max_context: int = Field(
        0, ge=0, description="Longest prompt and continuation in tokens; 0 takes the model's."
    )
    prefill_tokens: int = Field(
        512, ge=16, description="Prompt tokens that are read between two steps of a batch."
    )
    weight_versions: int = Field(
        2,
        ge=1,
        description="Versions of edited weights that may serve rows at once; 1 lets a commit "
        "wait until the running rows are done.",
    )
    max_drain_seconds: float = Field(
        10.0, gt=0, description="How long a commit waits for rows before they begin anew."
    )
    drain_seconds: float = Field(
        10.0, ge=0, description="How long a replica that is told to end lets its rows go on."
    )

    @model_validator(mode="after")
    def _scales_up(self) -> WorkerSettings:
        if 0 < self.max_replicas < self.num_replicas:
            raise PydanticCustomError(
                "max_replicas",
                "max_replicas (ERRATA_WORKER__MAX_REPLICAS) must be 0 or at least num_replicas, "
                "which is {num_replicas}",
                {"num_replicas": self.num_replicas},
            )
        return self


class RetrievalSettings(ReplicaSettings):
    """The retrieval/routing service."""

    address: Address = Field("127.0.0.1:7713", description="Where the service listens.")
    device: str = Field("cpu", description="Where encoders run.")
    num_threads: int = Field(1, ge=1, description="Torch threads, on CPU.")
    max_prompts: int = Field(1_024, ge=1, description="Prompts of one request.")
    history: int = Field(
        256, ge=1, description="Positions as of which decisions stay possible, the newest ones."
    )
    snapshots: Path | None = Field(
        None, description="Folder for snapshots, from which a restart goes on; none if unset."
    )
    snapshot_every: int = Field(1_000, ge=1, description="Entries between two snapshots.")
