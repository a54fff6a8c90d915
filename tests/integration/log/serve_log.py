"""Runs a log service in a process of its own: `serve_log.py ADDRESS SETTINGS_JSON`."""

from __future__ import annotations

import asyncio
import sys

from errata.artifacts import ArtifactStore
from errata.log.main import run
from errata.platform.settings import LogSettings
from errata.platform.telemetry import configure_logging


def main() -> None:
    configure_logging("warning", "json", "log")
    settings = LogSettings.model_validate_json(sys.argv[2])
    artifacts = ArtifactStore(str(settings.witness_path.parent / "artifacts"))

    def ready(port: int) -> None:
        sys.stdout.write("ready\n")
        sys.stdout.flush()

    asyncio.run(run(settings, artifacts, address=sys.argv[1], ready=ready))


if __name__ == "__main__":
    main()
