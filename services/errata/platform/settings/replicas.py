"""Settings of the services that follow the log: workers and the retrieval service."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from errata.platform.settings.section import Address, OptionalAddress, ServiceSettings
from errata.platform.settings.security import SecuritySettings

IndexKind = Literal["auto", "exact", "lists", "graph", "gpu"]
INDEX_HELP = (
    "What searches the keys of lanes that route, from 100,000 edits on: exact searches all, lists "
    "and graph search codes first, gpu needs faiss-gpu; auto is gpu where there is one, else "
    "lists. Must be the same for writer, workers and retrieval."
)


class FollowerSettings(ServiceSettings):
    """Settings of what follows the log."""

    max_lag: int = Field(
        1_000, ge=1, description="Maximum lag in entries; beyond it, a replica is unhealthy."
    )
    max_silence_seconds: float = Field(
        30.0,
        gt=0,
        description="Seconds without a message from the log after which a replica is unhealthy.",
    )
    trusted_keys_file: Path | None = Field(
        None,
        description="File with the ids or fingerprints of the keys with which the log's trust may "
        "begin; if unset, the log's first trust entry is believed.",
    )
    unsigned_until_seq: int = Field(
        0,
        ge=0,
        description="Last position whose commits may be unsigned although trusted_keys_file is "
        "set: that of a log which is older than its signatures.",
    )


class ReplicaSettings(FollowerSettings):
    """Settings of a replica that holds lanes."""

    index: IndexKind = Field("auto", description=INDEX_HELP)


class WorkerSettings(ReplicaSettings):
    """The LLM worker pool."""

    ray_address: Address = Field(
        "127.0.0.1:6380", description="host:port where gateways join `errata serve workers`."
    )
    engine: str = Field(
        "errata",
        min_length=1,
        description="Engine of the workers: errata, or one that an installed package brings.",
    )
    engine_options: dict[str, str] = Field(
        default_factory=dict,
        description="Options of an engine that a package brings, as JSON; see its documentation.",
    )
    tls_cert_file: Path | None = Field(
        None, description="PEM: the replicas' own certificate; security.tls_cert_file if unset."
    )
    tls_key_file: Path | None = Field(None, description="PEM: the key of that certificate.")
    num_replicas: int = Field(2, ge=1, description="LLM workers, each with the whole model.")
    max_replicas: int = Field(
        0, ge=0, description="Maximum replicas when scaling with the load; 0 keeps num_replicas."
    )
    num_cpus: float = Field(0.5, ge=0, description="Ray CPUs of each replica.")
    num_gpus: float = Field(0.0, ge=0, description="Ray GPUs of each replica.")
    node_cpus: int = Field(
        0,
        ge=0,
        description="Ray CPUs of the node that Errata starts; 0 uses what the replicas need.",
    )
    num_threads: int = Field(1, ge=1, description="Torch threads of each replica, on CPU.")
    retrieval_address: OptionalAddress = Field(
        "",
        description="Retrieval service that decides claims; if empty, each replica decides.",
    )
    retrieval_timeout_seconds: float = Field(
        2.0,
        gt=0,
        description="Timeout of the decisions on one batch, after which its requests fail.",
    )
    max_batch_size: int = Field(
        16, ge=1, description="Maximum number of generations that run at once."
    )
    max_queue: int = Field(
        256, ge=1, description="Maximum number of waiting requests in a replica."
    )
    max_new_tokens: int = Field(512, ge=1, description="Maximum tokens of one continuation.")
    max_context: int = Field(
        0, ge=0, description="Maximum tokens of prompt plus continuation; 0: the model's."
    )
    prefill_tokens: int = Field(
        512, ge=16, description="Maximum prompt tokens read between two steps of a batch."
    )
    weight_versions: int = Field(
        2,
        ge=1,
        description="Maximum versions of edited weights in use at once; with 1, a commit "
        "waits until the running rows are done.",
    )
    max_drain_seconds: float = Field(
        10.0, gt=0, description="Seconds that a commit waits for rows before they restart."
    )
    drain_seconds: float = Field(
        10.0, ge=0, description="Seconds for running rows to finish when a replica stops."
    )

    def own_certificate(self, security: SecuritySettings) -> SecuritySettings:
        """The settings of security with the replicas' certificate, if they have one."""
        if self.tls_cert_file is None:
            return security
        own = {"tls_cert_file": self.tls_cert_file, "tls_key_file": self.tls_key_file}
        return security.model_copy(update=own)

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

    address: Address = Field("127.0.0.1:7713", description="host:port where the service listens.")
    device: str = Field("cpu", description="Torch device of the encoders.")
    num_threads: int = Field(1, ge=1, description="Torch threads, on CPU.")
    max_prompts: int = Field(1_024, ge=1, description="Maximum prompts in one request.")
    history: int = Field(
        256, ge=1, description="Number of recent log positions for which it can decide."
    )
