"""Runs a log service in a process of its own: `serve_log.py ADDRESS SETTINGS_JSON [STEP]`.

With STEP, the process dies by SIGKILL when it logs that step of a trim.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

import structlog
from structlog.typing import EventDict, WrappedLogger

from errata.artifacts import ArtifactStore
from errata.log.main import run
from errata.platform.settings import LogSettings
from errata.platform.telemetry import configure_logging


def die_at(step: str) -> None:
    """Makes the process end at once when it logs this step."""

    def watch(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        if event.get("step") == step:
            os.kill(os.getpid(), signal.SIGKILL)
        raise structlog.DropEvent

    structlog.configure(
        processors=[watch], wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG)
    )


def main() -> None:
    configure_logging("warning", "json", "log")
    if len(sys.argv) > 3:
        die_at(sys.argv[3])
    settings = LogSettings.model_validate_json(sys.argv[2])
    artifacts = ArtifactStore(str(settings.witness_path.parent / "artifacts"))

    def ready(port: int) -> None:
        sys.stdout.write("ready\n")
        sys.stdout.flush()

    asyncio.run(run(settings, artifacts, address=sys.argv[1], ready=ready))


if __name__ == "__main__":
    main()
