"""Settings of the edit-writer."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from errata.platform.limits import ITEMS, MAX_EDIT_CHARS
from errata.platform.settings.replicas import INDEX_HELP, IndexKind
from errata.platform.settings.section import Address, ServiceSettings, Target


class WriterSettings(ServiceSettings):
    """The edit-writer."""

    address: Address = Field(
        "127.0.0.1:7712", description="host:port where the edit-writer listens."
    )
    target: Target = Field(
        "",
        description="Where callers find the writer if not at `address`: one name of all writers, "
        "dns:///host:port, or several IP:port, separated by commas.",
    )
    standby: bool = Field(
        False,
        description="Whether this writer follows the log and waits until the active writer's lease "
        "has ended, instead of replacing it at once.",
    )
    lease_ttl_seconds: float = Field(
        10.0,
        ge=1,
        le=3_600,
        description="Seconds without a sign of life after which a standby replaces this writer.",
    )
    lanes_file: Path | None = Field(None, description="TOML, one table per lane; see the docs.")
    default_lane: str = Field("lanes/main", description="Lane of edits that name no lane.")
    default_method: str = Field(
        "adaple",
        description="Method of the default lane if there is no lanes file; `lemoe` and `elder` "
        "take the installed gate.",
    )
    statistics_text: Path | None = Field(
        None, description="Plain text, one paragraph per line; the demo corpus if unset."
    )
    signing_key_file: Path | None = Field(
        None,
        description="Ed25519 private key (PEM) that signs commits; `errata up` makes one in "
        "data_dir if unset.",
    )
    previous_signing_key_file: Path | None = Field(
        None,
        description="The key before it: the next start replaces it, in the log, by "
        "signing_key_file.",
    )
    index: IndexKind = Field("auto", description=INDEX_HELP)
    num_threads: int = Field(0, ge=0, description="Torch threads for fits; 0 uses all cores.")
    max_edits_per_request: int = Field(
        100,
        ge=1,
        le=ITEMS["SubmitEditsRequest.edits"],
        description="Maximum number of edits in one request.",
    )
    max_prompt_chars: int = Field(
        4_000,
        ge=1,
        le=MAX_EDIT_CHARS,
        description="Maximum length of each text of an edit, in characters.",
    )
    max_target_tokens: int = Field(64, ge=1, description="Maximum length of a target, in tokens.")
    max_prompt_tokens: int = Field(
        256, ge=1, description="Maximum length of each prompt of an edit, in tokens."
    )
    max_probes: int = Field(
        32,
        ge=0,
        le=ITEMS["EditSpec.rephrases"],
        description="Maximum number of an edit's rephrases, and of its probes.",
    )
    max_probe_set: int = Field(
        200,
        ge=0,
        le=ITEMS["SetProbesRequest.prompts"],
        description="Maximum number of prompts of the deployment's probe set.",
    )
    max_previews: int = Field(
        4,
        ge=0,
        description="Maximum number of previews that wait or run; beyond it, QUEUE_FULL. 0 allows "
        "none.",
    )
    max_batch_edits: int = Field(
        10, ge=1, description="Maximum number of edits that are fitted together."
    )
    max_pending_edits: int = Field(
        10_000, ge=1, description="Maximum number of pending edits; beyond it, QUEUE_FULL."
    )
    batch_window_seconds: float = Field(
        0.05, ge=0, description="Seconds that a batch's first edit waits for more edits."
    )
    snapshot_interval: int = Field(
        1_000,
        ge=0,
        description="Entries between two snapshots of the log, from which readers start; 0 makes "
        "none.",
    )
    snapshot_patience_seconds: float = Field(
        60.0,
        gt=0,
        description="Seconds that a snapshot waits for a replica which has the same state.",
    )
    min_reliability: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Minimum share of target tokens that the edited model ranks first.",
    )
    min_locality: float = Field(
        0.5, ge=0, le=1, description="Minimum share of probes whose answer does not change."
    )

    @property
    def dialled(self) -> str:
        """What callers dial."""
        return self.target or self.address
