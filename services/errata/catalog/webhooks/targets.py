"""The file of webhooks: where events go, which, and with which secret."""

from __future__ import annotations

import base64
import binascii
import secrets
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from errata.catalog.happenings import Kind
from errata.errors import InvalidRequestError, StartupError

_PREFIX = "whsec_"
_LEAST_SECRET_BYTES = 16


@dataclass(frozen=True, slots=True)
class Target:
    """Where events go.

    Attributes:
        name: under which its position is kept.
        url: http or https.
        secret: signs deliveries.
        kinds: of the events that it gets; all if empty.
        allow_private: whether its address may be private, such as 10.0.0.1.
    """

    name: str
    url: str
    secret: bytes
    kinds: frozenset[Kind] = frozenset()
    allow_private: bool = False


class _Table(BaseModel):
    """A table [[target]] of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    secret_file: Path
    name: str = ""
    events: tuple[Kind, ...] = ()
    allow_private: bool = False


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Annotated[tuple[_Table, ...], Field(min_length=1)]


def read_targets(path: Path) -> list[Target]:
    """The targets of a file; paths of secrets are relative to it.

    Raises:
        StartupError: the file or a secret cannot be used; the message says where and why.
    """
    try:
        found = _File.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StartupError(f"webhooks_file {path} cannot be read: {error}.") from error
    except ValidationError as error:
        raise StartupError(f"webhooks_file {path}: {_first(error)}; see docs/events.md.") from error
    targets = [_target(path, table) for table in found.target]
    names = [target.name for target in targets]
    if repeated := next((name for name in names if names.count(name) > 1), ""):
        raise StartupError(
            f"webhooks_file {path} has two targets {repeated!r}; give each a name of its own."
        )
    return targets


def _target(path: Path, table: _Table) -> Target:
    try:
        check_url(table.url)
        secret = read_secret(path.parent / table.secret_file)
    except InvalidRequestError as error:
        raise StartupError(f"webhooks_file {path}: {error.message}") from error
    kinds = frozenset(table.events)
    return Target(table.name or table.url, table.url, secret, kinds, table.allow_private)


def check_url(url: str) -> None:
    """Returns if events could be sent there.

    Raises:
        InvalidRequestError: not a URL of http or https with a host, or it has a password.
    """
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_usable = is_usable and parts.username is None and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise InvalidRequestError(
            f"{url[:200]!r} is no URL for events; give https://host/path, without a password.",
            field="url",
        )


def read_secret(path: Path) -> bytes:
    """A secret: base64 behind `whsec_`, or any other text, which counts as its bytes.

    Raises:
        InvalidRequestError: it cannot be read, or is too short.
    """
    try:
        text = path.read_text("utf-8").strip()
        encoded = text.removeprefix(_PREFIX)
        secret = base64.b64decode(encoded, validate=True) if encoded != text else text.encode()
    except (OSError, UnicodeDecodeError, binascii.Error) as error:
        raise InvalidRequestError(
            f"the secret {path} cannot be read: {error}.", field="secret_file"
        ) from error
    if len(secret) < _LEAST_SECRET_BYTES:
        raise InvalidRequestError(
            f"the secret {path} has {len(secret)} bytes; give at least {_LEAST_SECRET_BYTES}, such "
            'as those of: printf "whsec_%s" "$(openssl rand -base64 32)"',
            field="secret_file",
        )
    return secret


def new_secret() -> tuple[str, bytes]:
    """A random secret: as `read_secret` reads it, and its bytes."""
    secret = secrets.token_bytes(32)
    return _PREFIX + base64.b64encode(secret).decode(), secret


def _first(error: ValidationError) -> str:
    """The first thing that is wrong."""
    first: Any = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(step) for step in first["loc"])
    return f"{place}: {first['msg']}"
