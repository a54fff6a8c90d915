"""Who may use the Ray of a process: holders of its token, from this machine alone where possible.

Whoever may talk to a Ray cluster runs code as its processes. Ray reads all of this when it is
imported, so it is set before.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from errata.errors import StartupError
from errata.platform.addresses import host_and_port
from errata.platform.settings import Settings

_MODE, _TOKEN, _TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
# Ray otherwise replaces a loopback address by this machine's own, and then listens on all of them.
_BEYOND_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_MIN_TOKEN_CHARS = 16
_REMEDY = (
    "Make one, such as by `openssl rand -hex 32 > ray-token`, and set RAY_AUTH_TOKEN_PATH to that "
    "file for `errata serve workers`, for each gateway and for each other node of the cluster."
)


def restrict_ray(service: str, settings: Settings) -> None:
    """Requires a token of all that use this process's Ray; call it before Ray is imported.

    A Ray for this process alone gets a new token, unless one is given; Ray by itself would keep
    one in the home folder permanently.

    Args:
        service: `gateway` or `workers`.
        settings: say where the head is.

    Raises:
        StartupError: Ray shall run without tokens, or other nodes could join and there is no token.
    """
    mode = os.environ.get(_MODE, "token")
    if mode.lower() != "token":
        raise StartupError(
            f"{_MODE} is {mode}, but whoever reaches a Ray without tokens runs code as this "
            f"service. Unset it."
        )
    os.environ[_MODE] = "token"
    is_own = service == "gateway" and settings.gateway.ray_address == "local"
    if is_own:
        if not os.environ.get(_TOKEN) and _TOKEN_PATH not in os.environ:
            os.environ[_TOKEN] = secrets.token_hex(32)
    else:
        _check_token()
    head = settings.worker.ray_address if service == "workers" else settings.gateway.ray_address
    if is_own or is_loopback(host_and_port(head)[0]):
        os.environ.setdefault(_BEYOND_LOOPBACK, "0")


def is_loopback(host: str) -> bool:
    """Whether a host's name or address means this machine."""
    return host == "localhost" or host.startswith("127.") or host == "::1"


def _check_token() -> None:
    """Refuses to go on without a token, in the places and the order in which Ray looks for one.

    Raises:
        StartupError: none is given, or it could be guessed.
    """
    token, origin = os.environ.get(_TOKEN, ""), _TOKEN
    if not token:
        path = Path(os.environ.get(_TOKEN_PATH) or Path.home() / ".ray" / "auth_token")
        origin = str(path)
        try:
            token = path.read_text("utf-8")
        except OSError as error:
            if _TOKEN_PATH in os.environ:
                raise StartupError(f"{_TOKEN_PATH} {path} cannot be read: {error}.") from error
            raise StartupError(
                f"there is no token for Ray, so that whoever reaches its ports would run code as "
                f"this service. {_REMEDY}"
            ) from error
    if len(token.strip()) < _MIN_TOKEN_CHARS:
        raise StartupError(
            f"the token for Ray in {origin} has {len(token.strip())} characters; at least "
            f"{_MIN_TOKEN_CHARS} are required. {_REMEDY}"
        )
