"""Settings of commands that ask a running system."""

from __future__ import annotations

from pydantic import Field

from errata.platform.settings.section import Section


class ClientSettings(Section):
    """What commands that ask a running system take where no flag says otherwise."""

    target: str = Field(
        "127.0.0.1:7700", min_length=1, description="host:port of the gateway; also ERRATA_TARGET."
    )
    timeout_seconds: float | None = Field(
        None, gt=0, description="For a command; its own if unset. Also ERRATA_TIMEOUT."
    )
    author: str = Field(
        "", description="Who asks for edits; the login name if empty. Also ERRATA_AUTHOR."
    )
