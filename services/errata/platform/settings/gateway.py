"""Settings of the gateway."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from errata.platform.settings.section import (
    Address,
    OptionalAddress,
    RayAddress,
    ServiceSettings,
)


class GatewaySettings(ServiceSettings):
    """The gateway."""

    address: Address = Field("127.0.0.1:7700", description="host:port where clients connect.")
    ray_address: RayAddress = Field(
        "local",
        description="`local` starts Ray and the workers here; host:port joins the cluster of "
        "`errata serve workers` or of KubeRay.",
    )
    application: str = Field("errata", description="The workers' application in Ray Serve.")
    default_timeout_seconds: float = Field(
        30.0, gt=0, description="Timeout of calls without a deadline."
    )
    http_address: OptionalAddress = Field(
        "127.0.0.1:7701", description="host:port of the HTTP API; none if empty."
    )
    http_model_aliases: str = Field(
        "", description="More names, separated by commas, for which HTTP clients get the model."
    )
    allowed_hosts: str = Field(
        "",
        description="Hosts, separated by commas, that HTTP requests may name; `*` allows any. If "
        "empty: any, but only those of this machine where the HTTP API listens on it alone "
        "without authentication, so that no web page reaches it under another name.",
    )
    http_max_body_bytes: int = Field(
        4 * 1024 * 1024, ge=1_024, description="Maximum size of an HTTP request's body."
    )
    console: bool = Field(False, description="Serve the console at /console of the HTTP address.")
    console_key_file: Path | None = Field(
        None,
        description="File with the key that seals the console's sessions, the same for all "
        "gateways: 32 bytes in URL-safe Base64. A new key at each start if unset.",
    )
    console_session_seconds: float = Field(
        28_800.0, ge=60, description="Time after which people sign in to the console again."
    )
    answers_per_second: float = Field(
        0.0, ge=0, description="Answers that one caller gets a second; 0 does not limit them."
    )
    answers_burst: int = Field(
        20, ge=1, description="Answers that one caller gets at once, after a pause."
    )
    edits_per_second: float = Field(
        0.0,
        ge=0,
        description="Edits that one caller may submit to one lane a second; 0 does not limit them.",
    )
    edits_burst: int = Field(
        100, ge=1, description="Edits that one caller may submit to one lane at once."
    )
