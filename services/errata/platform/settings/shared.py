"""Settings that several services share: the base model, the artifact store, traces."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

from pydantic import Field

from errata.platform.settings.section import Section


class ModelSettings(Section):
    """The base model; the same for writer and workers."""

    path: str = Field("", description="Folder or hub id; the demo model if empty.")
    name: str = Field(
        "", description="Name under which it is served; if empty, the last part of its path."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Data type of the weights and of the computation."
    )
    device: str = Field("cpu", description="A torch device, such as cpu or cuda:0.")
    special_tokens: Literal["text", "parse"] = Field(
        "text",
        description="How a control token that is written out in a prompt or target is read: `text` "
        "reads <|endoftext|> as those letters; `parse` reads the control token, and a prompt can "
        "contain its own start of text. Must be the same for writer and workers.",
    )

    @property
    def served_name(self) -> str:
        """The name by which clients know the model."""
        return self.name or PurePosixPath(self.path).name or "errata-demo"


class ArtifactSettings(Section):
    """The artifact store."""

    url: str = Field(
        "",
        description="fsspec URL that log service and writer share; <data_dir>/artifacts if empty.",
    )
    worker_url: str = Field(
        "", description="The store's URL for workers; if empty, they ask the log service."
    )
    max_bytes: int = Field(
        4 * 1024**3, ge=1_024, description="Maximum size of one artifact; larger ones are refused."
    )


class TracingSettings(Section):
    """OpenTelemetry traces of all services."""

    endpoint: str = Field(
        "",
        pattern="^(https?://.+)?$",
        description="URL of an OTLP collector (gRPC), such as http://collector:4317; no tracing if "
        "empty.",
    )
    sample_ratio: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of traces to sample among those that start here; others follow their "
        "caller's decision.",
    )
