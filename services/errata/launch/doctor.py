"""`errata doctor`: what would keep Errata from starting on this machine, and what to do about it.

What can be wrong with a box is checked by `checks`, as `errata up` does before it starts anything.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from errata.catalog.webhooks.targets import read_targets
from errata.errors import StartupError
from errata.launch import checks
from errata.launch.addresses import check_addresses
from errata.launch.findings import Finding
from errata.launch.progress import Steps
from errata.launch.redis import redis_executable
from errata.platform.settings import Settings, load_settings

PACKAGES = (
    "errata",
    "errata-client",
    "torch",
    "transformers",
    "ray",
    "grpcio",
    "redis",
    "faiss-cpu",
)


def diagnose(flags: Mapping[str, Any] | None = None, steps: Steps | None = None) -> list[Finding]:
    """Checks everything that the settings name.

    Args:
        flags: settings that override environment and file.
        steps: shows what is being checked.

    Returns:
        Findings in the order of the checks; a single one if the settings cannot be read.
    """
    try:
        settings = load_settings(flags)
    except StartupError as error:
        return [Finding("fail", "settings", error.message, "correct the named setting")]
    checkers: dict[str, Callable[[Settings], Iterator[Finding]]] = {
        "versions": _versions,
        "Redis": _redis,
        "disk": checks.disk,
        "keys": checks.keys,
        "data_dir": _data_dir,
        "artifacts": checks.artifacts,
        "model": checks.model,
        "text": checks.text,
        "lanes": checks.lanes,
        "webhooks": _webhooks,
        "addresses": check_addresses,
    }
    found = [Finding("ok", "settings", "read; `errata config` lists them")]
    steps = steps or Steps()
    for name, check in checkers.items():
        with steps.doing(f"checking {name}"):
            found += check(settings)
    return found


def _versions(settings: Settings) -> Iterator[Finding]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            remedy = "install Errata again, with constraints.txt"
            yield Finding("fail", package, "not installed", remedy)
    own, client = versions.get("errata"), versions.get("errata-client")
    if own != client:
        found = f"errata {own}, errata-client {client}"
        yield Finding("warn", "versions", found, "install both from the same release")
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield Finding("ok", "versions", f"Python {sys.version.split()[0]}, {listed}")


def _data_dir(settings: Settings) -> Iterator[Finding]:
    """Only warns if a system uses the folder: a running system is not an error."""
    for finding in checks.data_dir(settings):
        yield replace(finding, grade="warn")


def _redis(settings: Settings) -> Iterator[Finding]:
    """Checks for a Redis binary, and that a configured Redis is durable."""
    yield Finding("ok", "Redis for one box", redis_executable())
    if "redis_url" in settings.log.model_fields_set:
        yield from checks.redis(settings)
    else:
        found = "log.redis_url is not set: `errata up` starts its own Redis"
        yield Finding("ok", "Redis", found)


def _webhooks(settings: Settings) -> Iterator[Finding]:
    """Reads the file that the catalog would start with."""
    path = settings.catalog.webhooks_file
    if path is None:
        return
    try:
        targets = read_targets(path)
    except StartupError as error:
        yield Finding("fail", "webhooks", error.message, "correct the file; see docs/events.md")
        return
    names = ", ".join(target.name for target in targets)
    yield Finding("ok", "webhooks", f"{names}; try them with `errata webhooks test`")
