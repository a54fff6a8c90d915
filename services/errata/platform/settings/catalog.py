"""Settings of the catalog, which finds edits and tells of events."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from errata.platform.settings.replicas import FollowerSettings
from errata.platform.settings.section import Address, Target


class CatalogSettings(FollowerSettings):
    """The catalog."""

    address: Address = Field("127.0.0.1:7714", description="host:port where the catalog listens.")
    target: Target = Field(
        "",
        description="Where gateways find the catalog if not at `address`: one name of all "
        "catalogs, dns:///host:port, or several IP:port, separated by commas.",
    )
    database: Path | None = Field(
        None, description="The catalog's SQLite file; <data_dir>/catalog/catalog.sqlite if unset."
    )
    start: Literal["log", "snapshot"] = Field(
        "log",
        description="Where a new database begins: `log` reads all entries, archived ones too, and "
        "knows every event; `snapshot` is faster and knows the events after the newest snapshot.",
    )
    num_threads: int = Field(2, ge=1, description="Queries that run at once; others wait.")
    max_streams: int = Field(64, ge=1, description="Maximum number of streams of events.")
    lagging_entries: int = Field(
        1_000, ge=1, description="Entries behind the head from which a replica counts as lagging."
    )
    replicas_seconds: float = Field(
        5.0, gt=0, description="Seconds between two looks at the replicas' reports."
    )
    shaped_days: int = Field(
        90, ge=1, description="Days for which counts of answers that edits shaped are kept."
    )
    webhooks_file: Path | None = Field(
        None, description="TOML, one table [[target]] per webhook; see docs/events.md."
    )
    send_webhooks: bool = Field(
        True,
        description="Whether this catalog sends the webhooks of webhooks_file; set it for one "
        "catalog alone.",
    )
    webhook_timeout_seconds: float = Field(
        10.0, gt=0, description="Seconds for one delivery to a webhook, with name and connection."
    )
    webhook_first_delay_seconds: float = Field(
        1.0, gt=0, description="Seconds until a failed delivery is tried again; doubled each time."
    )
    webhook_max_delay_seconds: float = Field(
        600.0, gt=0, description="Maximum of that delay, in seconds."
    )
    webhook_horizon_seconds: float = Field(
        3 * 86_400.0,
        gt=0,
        description="Age, in seconds, at which an event is given up while its target takes none.",
    )

    @model_validator(mode="after")
    def _delays_grow(self) -> Self:
        if self.webhook_max_delay_seconds < self.webhook_first_delay_seconds:
            raise PydanticCustomError(
                "catalog",
                "webhook_max_delay_seconds must be at least webhook_first_delay_seconds",
            )
        return self

    @property
    def dialled(self) -> str:
        """What callers dial."""
        return self.target or self.address
