"""What several services read: the base model, the artifact store, traces."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from errata.platform.settings.section import Section


class ModelSettings(Section):
    """The base model, the same for writer and workers."""

    path: str = Field("", description="Folder or hub id; the demo model if empty.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Of the weights, and of what is computed with them."
    )
    device: str = Field("cpu", description="A torch device, such as cpu or cuda:0.")
    special_tokens: Literal["text", "parse"] = Field(
        "text",
        description="What a control token written out in a prompt or target is: `text` reads "
        "<|endoftext|> as those letters; `parse` as the control token, and a prompt may bring its "
        "own start of text. The same for writer and workers.",
    )


class ArtifactSettings(Section):
    """The artifact store."""

    url: str = Field(
        "",
        description="fsspec URL shared by log service and writer; <data_dir>/artifacts if empty.",
    )
    worker_url: str = Field(
        "", description="The same as workers see it; if empty, they ask the log service."
    )


class TracingSettings(Section):
    """OpenTelemetry traces of all services."""

    endpoint: str = Field(
        "",
        pattern="^(https?://.+)?$",
        description="OTLP collector (gRPC), such as http://collector:4317; off if empty.",
    )
    sample_ratio: float = Field(
        0.1, ge=0, le=1, description="Share of traces that begin here; others follow their caller."
    )
