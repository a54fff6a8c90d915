"""Settings of the edit log service."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from errata.platform.settings.section import (
    Address,
    OptionalAddresses,
    ServiceSettings,
    Target,
    default_data_dir,
)


class LogSettings(ServiceSettings):
    """The edit log service."""

    address: Address = Field("127.0.0.1:7711", description="host:port where the edit log listens.")
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="The log's Redis; if it is not set, `errata up` starts its own.",
    )
    target: Target = Field(
        "",
        description="Where callers find the edit log if not at `address`: one name of all log "
        "services, dns:///host:port, or several IP:port, separated by commas.",
    )
    redis_sentinels: OptionalAddresses = Field(
        "",
        description="host:port of Sentinels, separated by commas, that name the log's Redis; of "
        "redis_url, only user, password and database then count.",
    )
    redis_service: str = Field(
        "errata", min_length=1, description="Name under which the Sentinels know the log's Redis."
    )
    redis_sentinel_user: str = Field("", description="User of the Sentinels, if not the default.")
    redis_sentinel_password_file: Path | None = Field(
        None, description="File with the password of the Sentinels, if they ask for one."
    )
    min_replica_acks: int = Field(
        0,
        ge=0,
        description="Replicas of Redis that must have an entry before it is acknowledged; with a "
        "failover of Redis, 1 or more.",
    )
    replica_ack_timeout_seconds: float = Field(
        1.0, gt=0, description="Seconds to wait for them; then the append is UNAVAILABLE."
    )
    redis_password_file: Path | None = Field(
        None, description="File with the password, if redis_url does not contain it."
    )
    key_prefix: str = Field(
        "errata",
        min_length=1,
        description="Prefix of all keys in Redis; another prefix is another log.",
    )
    witness_path: Path = Field(
        default_factory=lambda: default_data_dir() / "witness",
        description="File that witnesses the log's head, kept apart from Redis; in data_dir by "
        "default.",
    )
    allow_unsafe_redis: bool = Field(
        False,
        description="Start, with a warning, on a Redis that can lose acknowledged entries.",
    )
    adopt_unwitnessed: bool = Field(
        False,
        description="Accept a non-empty log whose witness is missing, such as after a restore.",
    )
    read_only_at: int | None = Field(
        None,
        ge=1,
        description="Serve the log as it was at this position and refuse every change; the whole "
        "log if unset.",
    )
    max_payload_bytes: int = Field(1_000_000, ge=1_000, description="Largest size of one entry.")
    memory_reserve_bytes: int = Field(
        16 * 1024 * 1024,
        ge=0,
        description="Bytes below Redis' maxmemory that requested edits cannot use, so that reverts "
        "and a new writer get through; at most a quarter of maxmemory.",
    )
    trim: bool = Field(
        True,
        description="Move entries that a snapshot covers from Redis to the artifact store.",
    )
    trim_grace_seconds: float = Field(
        86_400.0,
        ge=0,
        description="Seconds between the entry that names a snapshot and the trim up to it.",
    )
    trim_keep_entries: int = Field(
        10_000, ge=0, description="Minimum number of newest entries that a trim leaves in Redis."
    )
    trim_interval_seconds: float = Field(
        60.0, gt=0, description="Seconds between two looks at what can be trimmed."
    )
    request_id_horizon_seconds: float = Field(
        7 * 86_400.0,
        ge=0,
        description="Seconds for which the request id of a trimmed entry is remembered.",
    )
    subscribe_batch: int = Field(
        500, ge=1, le=10_000, description="Maximum entries in one message to a subscriber."
    )
    max_subscriptions: int = Field(
        256, ge=1, description="Maximum number of streams of the log, of all connections."
    )
    max_subscriptions_per_connection: int = Field(
        64,
        ge=1,
        description="Maximum number of streams of the log on one connection, such as a gateway's.",
    )
    progress_interval_seconds: float = Field(
        1.0, gt=0, description="Seconds between progress messages while nothing is appended."
    )
    replica_ttl_seconds: float = Field(
        30.0, gt=0, description="Seconds without a report after which a replica is not listed."
    )
    redis_timeout_seconds: float = Field(5.0, gt=0, description="Timeout of one Redis command.")

    @model_validator(mode="after")
    def _waits_shorter_than_a_command(self) -> Self:
        if self.min_replica_acks and self.replica_ack_timeout_seconds >= self.redis_timeout_seconds:
            raise PydanticCustomError(
                "log", "replica_ack_timeout_seconds must be shorter than redis_timeout_seconds"
            )
        return self

    @property
    def dialled(self) -> str:
        """What callers dial."""
        return self.target or self.address
