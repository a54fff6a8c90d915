"""All settings of all services in one object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from errata.platform.settings.catalog import CatalogSettings
from errata.platform.settings.client import ClientSettings
from errata.platform.settings.gateway import GatewaySettings
from errata.platform.settings.log import LogSettings
from errata.platform.settings.replicas import RetrievalSettings, WorkerSettings
from errata.platform.settings.section import Section, default_data_dir
from errata.platform.settings.security import SecuritySettings
from errata.platform.settings.shared import ArtifactSettings, ModelSettings, TracingSettings
from errata.platform.settings.sources import SourcedSettings
from errata.platform.settings.writer import WriterSettings


class Settings(SourcedSettings):
    """All settings of all services; each service reads its own section."""

    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="Folder for all data of a system on one machine.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level that the services log."
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="Log format: `console` for people, `json` for machines."
    )
    failpoints: str = Field(
        "",
        description="Faults on purpose, for tests, such as `artifacts.load=error`.",
    )
    tracing: TracingSettings = TracingSettings()
    security: SecuritySettings = SecuritySettings()
    model: ModelSettings = ModelSettings()
    log: LogSettings = Field(default_factory=LogSettings)
    artifacts: ArtifactSettings = ArtifactSettings()
    writer: WriterSettings = WriterSettings()
    worker: WorkerSettings = WorkerSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    catalog: CatalogSettings = CatalogSettings()
    gateway: GatewaySettings = GatewaySettings()
    client: ClientSettings = ClientSettings()

    @model_validator(mode="before")
    @classmethod
    def _put_witness_into_data_dir(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Puts the witness into data_dir, so that two systems on one machine have two."""
        log = values.get("log", {})
        if "data_dir" not in values or not isinstance(log, Mapping) or "witness_path" in log:
            return values
        return {**values, "log": {**log, "witness_path": Path(values["data_dir"]) / "witness"}}

    @property
    def artifacts_url(self) -> str:
        """The artifact store's URL, or its default."""
        return self.artifacts.url or str(self.data_dir / "artifacts")

    @property
    def catalog_file(self) -> Path:
        """The catalog's database, or its default."""
        return self.catalog.database or self.data_dir / "catalog" / "catalog.sqlite"

    @property
    def statistics_dir(self) -> Path:
        """Where the statistics of base models are cached, for services and benchmarks."""
        return self.data_dir / "statistics"

    def environment(self) -> dict[str, str]:
        """Environment variables that give a child process the same settings.

        They include defaults: a flag that equals a default must win over the child's file.
        """
        found: dict[str, str] = {}
        for name, value in self.model_dump(mode="json").items():
            if isinstance(value, Mapping):
                for key, inner in value.items():
                    if inner is not None:
                        is_table = isinstance(inner, Mapping)
                        text = json.dumps(inner) if is_table else str(inner)
                        found[f"ERRATA_{name}__{key}".upper()] = text
            elif value is not None:
                found[f"ERRATA_{name}".upper()] = str(value)
        return found


def sections() -> dict[str, type[Section]]:
    """The groups of settings, by name."""
    kinds = {name: field.annotation for name, field in Settings.model_fields.items()}
    return {
        name: kind
        for name, kind in kinds.items()
        if isinstance(kind, type) and issubclass(kind, Section)
    }
