"""Settings of the edit log service."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from errata.platform.settings.section import Address, ServiceSettings, default_data_dir


class LogSettings(ServiceSettings):
    """The edit log service."""

    address: Address = Field("127.0.0.1:7711", description="Where the edit log listens.")
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="The log's Redis; where it is not set, `errata up` starts one of its own.",
    )
    redis_password_file: Path | None = Field(
        None, description="File with the password, if redis_url does not have it."
    )
    key_prefix: str = Field(
        "errata", min_length=1, description="Of all keys in Redis; another one is another log."
    )
    witness_path: Path = Field(
        default_factory=lambda: default_data_dir() / "witness",
        description="File that vouches for the log's head, kept apart from Redis; in data_dir if "
        "left out.",
    )
    allow_unsafe_redis: bool = Field(
        False, description="Start on a Redis that may lose acknowledged entries, with a warning."
    )
    adopt_unwitnessed: bool = Field(
        False, description="Accept a non-empty log whose witness is missing (after a restore)."
    )
    max_payload_bytes: int = Field(1_000_000, ge=1_000, description="Of one entry.")
    subscribe_batch: int = Field(
        500, ge=1, le=10_000, description="Entries that a subscriber gets at once, at most."
    )
    progress_interval_seconds: float = Field(
        1.0, gt=0, description="Between two messages to subscribers while nothing is appended."
    )
    replica_ttl_seconds: float = Field(
        30.0, gt=0, description="A replica that did not report for so long is no longer listed."
    )
    redis_timeout_seconds: float = Field(5.0, gt=0, description="For one command of Redis.")
