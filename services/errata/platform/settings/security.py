"""Settings of transport and identity, the same for all services."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from errata.platform.settings.section import Section


class SecuritySettings(Section):
    """TLS, credentials and roles; see docs/security.md."""

    allow_plaintext: bool = Field(
        False, description="Listen without TLS also on addresses that other machines reach."
    )
    tls_cert_file: Path | None = Field(
        None,
        description="PEM: this process's certificate, and those between it and its CA. Read again "
        "when it changes, as the key is.",
    )
    tls_key_file: Path | None = Field(None, description="PEM: the certificate's private key.")
    tls_ca_file: Path | None = Field(
        None, description="PEM: the CAs that certificates of services and clients must come from."
    )
    client_certificates: Literal["internal", "everywhere", "off"] = Field(
        "internal",
        description="Which services demand a certificate of their callers: `internal` are log, "
        "writer and retrieval, `everywhere` also the gateway.",
    )
    authenticate: bool = Field(
        False, description="Refuse calls without a valid credential, or without the role."
    )
    trust_domain: str = Field(
        "errata",
        min_length=1,
        description="Certificates with the URI spiffe://<trust_domain>/ROLE have that role.",
    )
    jwks_file: Path | None = Field(None, description="File with the public keys of tokens (JWKS).")
    jwks_url: str = Field(
        "", pattern="^(https?://.+)?$", description="URL of the public keys of tokens (JWKS)."
    )
    jwks_cache_seconds: float = Field(
        300.0, gt=0, description="Seconds after which the keys at jwks_url are fetched again."
    )
    issuer: str = Field("", description="Issuer that tokens must name (iss).")
    audience: str = Field("errata", min_length=1, description="Audience of tokens (aud).")
    algorithms: str = Field(
        "ES256,RS256,EdDSA", min_length=1, description="Algorithms of tokens, separated by commas."
    )
    leeway_seconds: float = Field(
        30.0, ge=0, le=600, description="Difference of clocks that tokens' times may show."
    )
    roles_claim: str = Field(
        "errata_roles", min_length=1, description="Claim of tokens with a list of roles."
    )
    lanes_claim: str = Field(
        "errata_lanes",
        min_length=1,
        description="Claim of tokens with a list of lanes; all lanes if a token has none.",
    )
    namespaces_claim: str = Field(
        "errata_namespaces",
        min_length=1,
        description="Claim of tokens with a list of namespaces; all of them if a token has none.",
    )
    bindings_file: Path | None = Field(
        None,
        description="TOML: roles, lanes and namespaces of subjects, added to those of their "
        "tokens.",
    )
    audit: Literal["off", "changes", "all"] = Field(
        "off",
        description="Which calls get a line in the audit log: none, those that change something or "
        "are refused, or all.",
    )
    audit_dir: Path | None = Field(
        None, description="Folder of the audit logs; <data_dir>/audit if unset."
    )
    audit_max_bytes: int = Field(
        64 * 1024 * 1024, ge=4_096, description="Size at which an audit log begins a new file."
    )
    reflection: Literal["everyone", "authenticated", "off"] = Field(
        "everyone", description="Who may read the services' descriptions by gRPC and HTTP."
    )

    metrics: Literal["everyone", "certificates", "plaintext"] = Field(
        "everyone",
        description="Who may read metrics: everyone, with TLS where the process has it; callers "
        "with a certificate of the CA; or everyone without TLS.",
    )

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise PydanticCustomError(
                "security", "tls_cert_file and tls_key_file are given together, or neither"
            )
        if self.authenticate and (self.tls_cert_file is None or self.tls_ca_file is None):
            raise PydanticCustomError(
                "security",
                "authenticate needs tls_cert_file, tls_key_file and tls_ca_file: credentials must "
                "not travel in plaintext, and services know each other by certificates",
            )
        if self.authenticate and self.client_certificates == "off":
            raise PydanticCustomError(
                "security",
                "authenticate needs client_certificates: services know each other by them",
            )
        if self.metrics == "certificates" and (not self.has_tls or self.tls_ca_file is None):
            raise PydanticCustomError(
                "security", "metrics=certificates needs tls_cert_file, tls_key_file and tls_ca_file"
            )
        return self

    @property
    def has_tls(self) -> bool:
        """Whether services listen with TLS."""
        return self.tls_cert_file is not None

    @property
    def takes_tokens(self) -> bool:
        """Whether tokens can be verified."""
        return self.jwks_file is not None or bool(self.jwks_url)
