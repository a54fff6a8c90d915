"""TLS of servers and channels; certificates are read again when their files change."""

from __future__ import annotations

import ipaddress
import ssl
import threading
from pathlib import Path
from typing import Any

import grpc
import structlog

from errata.errors import StartupError
from errata.platform.settings.security import SecuritySettings

_log = structlog.get_logger(__name__)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_plaintext(address: str, host: str, settings: SecuritySettings) -> None:
    """Returns if a service may listen there without TLS.

    Raises:
        StartupError: other machines reach the address, and no setting allows plaintext.
    """
    if settings.has_tls or is_loopback(host):
        return
    if not settings.allow_plaintext:
        raise StartupError(
            f"{address} is reached by other machines, and there is no TLS. Set "
            "security.tls_cert_file and tls_key_file (`errata certs` makes some), listen on "
            "127.0.0.1, or set ERRATA_SECURITY__ALLOW_PLAINTEXT=true where the network is trusted.",
            address=address,
        )
    _log.warning("PLAINTEXT: whoever reaches this address reads and changes all", address=address)


def demands_certificates(settings: SecuritySettings, *, is_front: bool) -> bool:
    """Whether a server's callers must present a certificate."""
    wanted = settings.client_certificates
    return wanted == "everywhere" or (wanted == "internal" and not is_front)


class CertificateFiles:
    """A certificate, its key and the CAs, as they are on disk now."""

    def __init__(self, settings: SecuritySettings) -> None:
        """Reads the files.

        Raises:
            StartupError: a file is missing or is no PEM.
        """
        self._settings = settings
        self._lock = threading.Lock()
        self._changed: tuple[int, ...] = ()
        self.key, self.chain = b"", b""
        self.ca: bytes | None = None
        try:
            self.refresh()
            self._check()
        except (OSError, ValueError) as error:
            raise StartupError(
                f"TLS: {error}. security.tls_cert_file, tls_key_file and tls_ca_file name PEM "
                "files; `errata certs` makes some."
            ) from error

    def refresh(self) -> bool:
        """Reads the files again if one has changed; returns whether it has."""
        settings = self._settings
        named = (settings.tls_key_file, settings.tls_cert_file, settings.tls_ca_file)
        files = [path for path in named if path is not None]
        with self._lock:
            changed = tuple(path.stat().st_mtime_ns for path in files)
            if changed == self._changed:
                return False
            if settings.tls_key_file is not None and settings.tls_cert_file is not None:
                self.key = settings.tls_key_file.read_bytes()
                self.chain = settings.tls_cert_file.read_bytes()
            self.ca = settings.tls_ca_file.read_bytes() if settings.tls_ca_file else None
            self._changed = changed
        return True

    def _check(self) -> None:
        """Refuses files that do not belong together; gRPC would fail without a reason."""
        settings = self._settings
        try:
            if settings.tls_cert_file is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
            if settings.tls_ca_file is not None:
                ssl.create_default_context(cafile=str(settings.tls_ca_file))
        except ssl.SSLError as error:
            raise ValueError(f"certificate, key and CA do not fit: {error}") from error


def server_credentials(settings: SecuritySettings, *, demands: bool) -> grpc.ServerCredentials:
    """Credentials of a gRPC server, which follow the files.

    Args:
        settings: name the files.
        demands: whether callers must present a certificate of our CA.

    Raises:
        StartupError: as `CertificateFiles`, or certificates are demanded without a CA.
    """
    files = CertificateFiles(settings)
    if demands and files.ca is None:
        raise StartupError("TLS: client certificates are demanded, but tls_ca_file is not set.")

    def configuration() -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(files.key, files.chain)], root_certificates=files.ca if demands else None
        )

    def changed() -> Any:  # None keeps the former one, which the stubs do not know
        try:
            return configuration() if files.refresh() else None
        except OSError as error:  # while they are replaced
            _log.warning("a certificate cannot be read; the former one stays", why=str(error))
            return None

    return grpc.dynamic_ssl_server_credentials(
        configuration(), changed, require_client_authentication=demands
    )


def channel_credentials(settings: SecuritySettings) -> grpc.ChannelCredentials:
    """Credentials of a channel to another service: our CA, and our certificate.

    Raises:
        StartupError: as `CertificateFiles`.
    """
    files = CertificateFiles(settings)
    return grpc.ssl_channel_credentials(files.ca, files.key or None, files.chain or None)


def client_context(settings: SecuritySettings) -> ssl.SSLContext:
    """The TLS context of a call to an HTTP server of ours: our CA, and our certificate.

    Raises:
        StartupError: as `CertificateFiles`.
    """
    CertificateFiles(settings)
    context = ssl.create_default_context(cafile=settings.tls_ca_file)
    if settings.tls_cert_file is not None:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    return context


class ServerContext:
    """The TLS context of an HTTP server, which follows the files."""

    def __init__(self, settings: SecuritySettings, *, demands: bool) -> None:
        """Reads the files.

        Raises:
            StartupError: as `CertificateFiles`.
        """
        self._files = CertificateFiles(settings)
        self._paths: tuple[Path | None, Path | None] = (
            settings.tls_cert_file,
            settings.tls_key_file,
        )
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        if demands:
            self.context.verify_mode = ssl.CERT_REQUIRED
            self.context.load_verify_locations(settings.tls_ca_file)
        self._load()

    def refresh(self) -> None:
        """New connections get the newest certificate."""
        try:
            if self._files.refresh():
                self._load()
        except (OSError, ssl.SSLError) as error:  # while they are replaced
            _log.warning("a certificate cannot be read; the former one stays", why=str(error))

    def _load(self) -> None:
        certificate, key = self._paths
        assert certificate is not None, "contexts are made where there is TLS"
        self.context.load_cert_chain(certificate, key)
