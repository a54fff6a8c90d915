"""How the SDK's channels are set up."""

from __future__ import annotations

import json

DEFAULT_TARGET = "127.0.0.1:7700"

# Every unary call is idempotent (reads, or writes with a request id), so gRPC may retry them all;
# streams are not retried once they began.
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
