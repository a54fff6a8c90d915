"""TLS and credentials of the SDK's channels."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from errata_client.errors import InvalidRequestError

_VARIABLES = {
    "token": "ERRATA_TOKEN",
    "token_file": "ERRATA_TOKEN_FILE",
    "ca_file": "ERRATA_TLS_CA",
    "certificate_file": "ERRATA_TLS_CERT",
    "key_file": "ERRATA_TLS_KEY",
}


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """How a client shows who it is, and how it knows the gateway.

    Any of them turns TLS on. Without a CA, the gateway's certificate must come from one that gRPC
    knows.

    Attributes:
        token: a bearer token (JWT).
        token_file: file with one, read at each call, so that it can be renewed.
        ca_file: PEM of the CA of the gateway's certificate.
        certificate_file, key_file: PEM of the client's own certificate.
        tls: TLS without any of these; `True` is needed for nothing else.
    """

    token: str = ""
    token_file: str | Path = ""
    ca_file: str | Path = ""
    certificate_file: str | Path = ""
    key_file: str | Path = ""
    tls: bool = False

    @classmethod
    def from_environment(cls) -> Credentials:
        """What ERRATA_TOKEN, ERRATA_TOKEN_FILE, ERRATA_TLS_CA, _CERT and _KEY say."""
        values: dict[str, Any] = {name: os.environ.get(key, "") for name, key in _VARIABLES.items()}
        return cls(**values)

    @property
    def wants_tls(self) -> bool:
        """Whether the channel is encrypted."""
        return bool(
            self.tls or self.token or self.token_file or self.ca_file or self.certificate_file
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For gRPC.

        Raises:
            InvalidRequestError: a file cannot be read, or a certificate has no key.
        """
        if bool(self.certificate_file) != bool(self.key_file):
            raise _bad("give a client certificate together with its key")
        transport = grpc.ssl_channel_credentials(
            _content(self.ca_file), _content(self.key_file), _content(self.certificate_file)
        )
        if not self.token and not self.token_file:
            return transport
        if self.token_file:
            _content(self.token_file)  # a wrong path shows now, and not at the first call
        call = grpc.metadata_call_credentials(_Bearer(self.token, Path(self.token_file)))
        return grpc.composite_channel_credentials(transport, call)


class _Bearer(grpc.AuthMetadataPlugin):
    """Adds the token to each call."""

    def __init__(self, token: str, file: Path) -> None:
        self._token = token
        self._file = file

    def __call__(self, context: Any, callback: Callable[..., None]) -> None:
        try:
            token = self._token or self._file.read_text().strip()
        except OSError as error:
            callback((), error)
            return
        callback((("authorization", f"Bearer {token}"),), None)


def _content(path: str | Path) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _bad(f"cannot read {path}: {error.strerror}") from error


def _bad(what: str) -> InvalidRequestError:
    return InvalidRequestError(f"credentials: {what}.", reason="INVALID_REQUEST")


def blocking_channel(
    target: str, options: Any, credentials: Credentials | None = None
) -> grpc.Channel:
    """A channel with these credentials, or with those of the environment."""
    found = credentials or Credentials.from_environment()
    if not found.wants_tls:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, found.channel_credentials(), options=options)


def async_channel(
    target: str, options: Any, credentials: Credentials | None = None
) -> grpc.aio.Channel:
    """As `blocking_channel`, for an event loop."""
    found = credentials or Credentials.from_environment()
    if not found.wants_tls:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, found.channel_credentials(), options=options)
