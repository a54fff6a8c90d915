"""A box with TLS, identities and tokens: its certificates, and each service's settings of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from errata.launch.certs import DevelopmentCa, make_ca, make_token, write_token
from errata.platform.security.rules import SERVICES, Role
from errata.platform.settings import Settings
from errata_client import Credentials

_OPERATOR = "operator@this-machine"


@dataclass(frozen=True, slots=True)
class Secured:
    """The security of one box.

    Attributes:
        settings: of the box's own process, which asks for the services' health.
        credentials: let a person on this machine do everything that people may.
    """

    settings: Settings
    credentials: Credentials
    _ca: DevelopmentCa

    @classmethod
    def made_for(cls, settings: Settings) -> Self:
        """Makes certificates and a token in the box's data folder."""
        ca = make_ca(settings.data_dir / "security", trust_domain=settings.security.trust_domain)
        token_file = ca.folder / "operator.token"
        roles = [role.value for role in Role if role not in SERVICES]
        write_token(token_file, make_token(ca, _OPERATOR, roles, hours=24.0 * 365))
        security = settings.security.model_copy(
            update={
                "authenticate": True,
                "tls_ca_file": ca.ca,
                "tls_cert_file": ca.certificate("operator"),
                "tls_key_file": ca.key("operator"),
                "jwks_file": ca.jwks,
                "audit": "changes",
            }
        )
        credentials = Credentials(token_file=token_file, ca_file=ca.ca)
        return cls(settings.model_copy(update={"security": security}), credentials, ca)

    def environment(self, service: str) -> dict[str, str]:
        """What differs in a service's environment: its own certificate."""
        found = {
            "ERRATA_SECURITY__TLS_CERT_FILE": str(self._ca.certificate(service)),
            "ERRATA_SECURITY__TLS_KEY_FILE": str(self._ca.key(service)),
        }
        if service == "gateway":  # starts the replicas
            found["ERRATA_WORKER__TLS_CERT_FILE"] = str(self._ca.certificate("replica"))
            found["ERRATA_WORKER__TLS_KEY_FILE"] = str(self._ca.key("replica"))
        return found
