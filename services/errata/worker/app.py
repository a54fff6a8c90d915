"""The application that a Serve configuration names: `import_path: errata.worker.app:build`."""

from __future__ import annotations

from ray.serve import Application

from errata.platform.settings import load_settings
from errata.worker.deployment import build_app


def build(arguments: dict[str, str]) -> Application:
    """The workers, as the settings of the machine that runs this say.

    Args:
        arguments: of the Serve configuration; none are known.

    Raises:
        ValueError: there are some.
        StartupError: bad settings.
    """
    if arguments:
        raise ValueError(f"unknown arguments {sorted(arguments)}; use settings, such as ERRATA_….")
    return build_app(load_settings())
