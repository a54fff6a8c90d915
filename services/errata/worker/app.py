"""The application that a Serve configuration names: `import_path: errata.worker.app:build`."""

from __future__ import annotations

from ray.serve import Application

from errata.platform.settings import load_settings
from errata.worker.deployment import build_app


def build(arguments: dict[str, str]) -> Application:
    """The workers, with the settings of this machine.

    Args:
        arguments: of the Serve configuration; must be empty.

    Raises:
        ValueError: there are arguments.
        StartupError: invalid settings.
    """
    if arguments:
        raise ValueError(f"unknown arguments {sorted(arguments)}; use settings, such as ERRATA_….")
    return build_app(load_settings())
