"""Options of the SDK's channels, and the default address and timeout."""

from __future__ import annotations

import json
import math
import os

from errata_client.errors import InvalidRequestError

DEFAULT_TARGET = "127.0.0.1:7700"
DEFAULT_TIMEOUT_SECONDS = 60.0
TARGET_VARIABLE = "ERRATA_TARGET"
TIMEOUT_VARIABLE = "ERRATA_TIMEOUT"

# Every unary call is idempotent (reads, or writes with a request id), so gRPC can retry all of
# them; a stream is not retried once it has started.
_SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [
                    {"service": "errata.v1.EditingService"},
                    {"service": "errata.v1.EditLogService"},
                    {"service": "errata.v1.InferenceService"},
                ],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "3s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)

OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.enable_retries", 1),
    ("grpc.service_config", _SERVICE_CONFIG),
)


def target_of(given: str | None) -> str:
    """The address to connect to: the caller's, else ERRATA_TARGET, else this machine."""
    return given or os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET


def timeout_of(given: float | None) -> float:
    """Seconds for a call: the caller's, else ERRATA_TIMEOUT, else a minute.

    Raises:
        InvalidRequestError: the timeout is not a positive number.
    """
    configured = os.environ.get(TIMEOUT_VARIABLE)
    if given is None and not configured:
        return DEFAULT_TIMEOUT_SECONDS
    try:
        seconds = float(given if given is not None else configured or "")
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        name, found = ("timeout", given) if given is not None else (TIMEOUT_VARIABLE, configured)
        raise InvalidRequestError(
            f"{name} must be a number of seconds greater than 0, found {found!r}.",
            reason="INVALID_REQUEST",
            field="timeout",
        )
    return seconds
