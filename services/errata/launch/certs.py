"""A development CA: certificates of all services, keys of tokens, and tokens.

For one machine and for trials. In production certificates come from cert-manager or the like, and
tokens from an identity provider.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from errata.errors import InvalidRequestError
from errata.platform.security.rules import SERVICES, Role

NAMES = ("log", "writer", "retrieval", "catalog", "gateway", "replica", "operator")
"""What gets a certificate; retrieval and catalog follow the log as replicas do."""
_ROLE_OF = dict.fromkeys(("retrieval", "catalog"), Role.REPLICA.value)
_CA_DAYS, _DAYS = 3_650, 397
_KEY_ID = "development"


@dataclass(frozen=True, slots=True)
class DevelopmentCa:
    """Files of a development CA.

    Attributes:
        folder: holds them.
    """

    folder: Path

    @property
    def ca(self) -> Path:
        """The CA's certificate."""
        return self.folder / "ca.pem"

    @property
    def jwks(self) -> Path:
        """The public key of tokens."""
        return self.folder / "jwks.json"

    def certificate(self, name: str) -> Path:
        """A service's certificate."""
        return self.folder / f"{name}.pem"

    def key(self, name: str) -> Path:
        """The key of a service's certificate, or `ca`'s or `tokens`'."""
        return self.folder / f"{name}.key"


def make_ca(folder: Path, hosts: Sequence[str] = (), trust_domain: str = "errata") -> DevelopmentCa:
    """Makes a CA and the key of tokens if they are missing, and certificates of all services anew.

    Args:
        folder: for the files; keys are readable by their owner alone.
        hosts: names and addresses of the services, beside those of this machine.
        trust_domain: of the URIs that give roles.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = DevelopmentCa(folder)
    ca_key, ca = _authority(made)
    usage = x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    )
    for name in NAMES:
        key = ec.generate_private_key(ec.SECP256R1())
        uri = f"spiffe://{trust_domain}/{_ROLE_OF.get(name, name)}"
        hosts_here = _hosts((*hosts, "localhost", "127.0.0.1", "::1", name))
        alternatives = [*hosts_here, x509.UniformResourceIdentifier(uri)]
        certificate = (
            _builder(name, ca.subject, key.public_key(), _DAYS)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        _write_key(made.key(name), key)
        _replace(made.certificate(name), certificate.public_bytes(Encoding.PEM), 0o644)
    if not made.key("tokens").exists():
        tokens = ec.generate_private_key(ec.SECP256R1())
        _write_key(made.key("tokens"), tokens)
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(tokens.public_key()))
        keys = {"keys": [{**public, "kid": _KEY_ID, "use": "sig", "alg": "ES256"}]}
        _replace(made.jwks, json.dumps(keys).encode(), 0o644)
    return made


def make_token(
    made: DevelopmentCa,
    subject: str,
    roles: Sequence[str],
    lanes: Sequence[str] | None = None,
    *,
    namespaces: Sequence[str] | None = None,
    hours: float = 12.0,
    audience: str = "errata",
) -> str:
    """A token of the development CA.

    Args:
        made: where its key is.
        subject: who gets it.
        roles: what he may do.
        lanes: in which lanes; None for all.
        namespaces: in which namespaces; None for all.
        hours: until it expires.
        audience: of the token.

    Raises:
        InvalidRequestError: no such folder, or a role that tokens cannot give.
    """
    known = [role.value for role in Role if role not in SERVICES]
    if wrong := sorted(set(roles) - set(known)):
        raise InvalidRequestError(
            f"tokens cannot give {', '.join(wrong)}; roles are {', '.join(known)}.", field="role"
        )
    try:
        key = made.key("tokens").read_bytes()
    except OSError as error:
        raise InvalidRequestError(
            f"{made.key('tokens')} cannot be read ({error.strerror}); `errata certs make` makes it."
        ) from error
    now = datetime.datetime.now(datetime.UTC)
    claims = {
        "sub": subject,
        "aud": audience,
        "iat": now,
        "exp": now + datetime.timedelta(hours=hours),
        "errata_roles": list(roles),
    }
    if lanes is not None:
        claims["errata_lanes"] = list(lanes)
    if namespaces is not None:
        claims["errata_namespaces"] = list(namespaces)
    return jwt.encode(claims, key, algorithm="ES256", headers={"kid": _KEY_ID})


def write_token(path: Path, token: str) -> None:
    """Writes a token to a file that its owner alone reads."""
    _replace(path, token.encode() + b"\n", 0o600)


def _authority(made: DevelopmentCa) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    if made.ca.exists() and made.key("ca").exists():
        found = load_pem_private_key(made.key("ca").read_bytes(), None)
        assert isinstance(found, ec.EllipticCurvePrivateKey), "made below"
        return found, x509.load_pem_x509_certificate(made.ca.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    name = "Errata development CA"
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(name, _name(name), key.public_key(), _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    _write_key(made.key("ca"), key)
    _replace(made.ca, certificate.public_bytes(Encoding.PEM), 0o644)
    return key, certificate


def _builder(
    name: str, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _hosts(hosts: Iterable[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            found.append(x509.DNSName(host))
    return found


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    _replace(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)


def _replace(path: Path, data: bytes, mode: int) -> None:
    """Writes a file as a whole: a service that reads it meanwhile sees the former one."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    new.replace(path)
