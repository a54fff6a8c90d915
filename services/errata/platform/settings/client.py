"""Settings of commands that call a running system."""

from __future__ import annotations

from pydantic import Field

from errata.platform.settings.section import Section


class ClientSettings(Section):
    """Defaults for the flags of commands that call a running system."""

    target: str = Field(
        "127.0.0.1:7700",
        min_length=1,
        description="host:port of the gateway. Also ERRATA_TARGET.",
    )
    timeout_seconds: float | None = Field(
        None,
        gt=0,
        description="Timeout of a command; each command's own if unset. Also ERRATA_TIMEOUT.",
    )
    author: str = Field(
        "", description="Author of edits; the login name if empty. Also ERRATA_AUTHOR."
    )
    token_file: str = Field("", description="File with a bearer token. Also ERRATA_TOKEN_FILE.")
    tls_ca: str = Field(
        "", description="PEM: the CA of the gateway's certificate. Also ERRATA_TLS_CA."
    )
    tls_cert: str = Field("", description="PEM: a client certificate. Also ERRATA_TLS_CERT.")
    tls_key: str = Field("", description="PEM: the key of tls_cert. Also ERRATA_TLS_KEY.")
