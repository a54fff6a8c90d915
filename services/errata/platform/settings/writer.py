"""Settings of the edit-writer."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from errata.platform.settings.section import Address, ServiceSettings


class WriterSettings(ServiceSettings):
    """The edit-writer."""

    address: Address = Field("127.0.0.1:7712", description="Where the edit-writer listens.")
    lanes_file: Path | None = Field(None, description="TOML, one table per lane; see docs.")
    default_lane: str = Field("lanes/main", description="Takes edits that name no lane.")
    statistics_text: Path | None = Field(
        None, description="Plain text, a paragraph a line; the demo corpus if unset."
    )
    num_threads: int = Field(0, ge=0, description="Torch threads for fits; 0 takes all cores.")
    max_edits_per_request: int = Field(100, ge=1, description="More are refused.")
    max_prompt_chars: int = Field(
        4_000, ge=1, description="Of each text of an edit: prompt, target, rephrase, probe."
    )
    max_target_tokens: int = Field(64, ge=1, description="Of an edit's target.")
    max_prompt_tokens: int = Field(256, ge=1, description="Of each prompt of an edit.")
    max_probes: int = Field(32, ge=0, description="Rephrases, and locality probes, of an edit.")
    max_batch_edits: int = Field(10, ge=1, description="Edits that are fitted together.")
    max_pending_edits: int = Field(
        10_000, ge=1, description="Edits that wait to be fitted; more are refused for the moment."
    )
    batch_window_seconds: float = Field(
        0.05, ge=0, description="How long the first edit of a batch waits for company."
    )
    min_reliability: float = Field(
        1.0, ge=0, le=1, description="Share of target tokens that an edit must get right."
    )
    min_locality: float = Field(
        0.5, ge=0, le=1, description="Share of probes that an edit must leave as they were."
    )
