"""`errata doctor`: what would keep Errata from starting on this machine, and what to do about it.

Each check looks at one thing and changes nothing but a file that it removes again.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from errata import demo
from errata.artifacts.store import ArtifactStore
from errata.editing.loading import check_model
from errata.errors import ErrataError, StartupError
from errata.launch.doctor_addresses import check_addresses
from errata.launch.findings import Finding, Grade
from errata.launch.redis import redis_executable
from errata.log.backend import RedisBackend
from errata.platform.settings import Settings, load_settings
from errata.writer.lanes import read_lanes
from errata.writer.main import resources_of

_PACKAGES = (
    "errata",
    "errata-client",
    "torch",
    "transformers",
    "ray",
    "grpcio",
    "redis",
    "faiss-cpu",
)
_LEAST_DISK_BYTES = 1_000_000_000
_FAIR_DISK_BYTES = 10_000_000_000


def diagnose() -> list[Finding]:
    """Checks everything that the settings name.

    Returns:
        Findings in the order of the checks; one alone if the settings cannot be read.
    """
    try:
        settings = load_settings()
    except StartupError as error:
        return [Finding("fail", "settings", error.message, "correct the setting that is named")]
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        _versions,
        _redis,
        _disk,
        _artifacts,
        _model,
        _lanes,
        check_addresses,
    )
    found = [Finding("ok", "settings", "read; `errata config` lists them")]
    for check in checks:
        found += check(settings)
    return found


def _versions(settings: Settings) -> Iterator[Finding]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            remedy = "install Errata again, with constraints.txt"
            yield Finding("fail", package, "not installed", remedy)
    own, client = versions.get("errata"), versions.get("errata-client")
    if own != client:
        found = f"errata {own}, errata-client {client}"
        yield Finding("warn", "versions", found, "install both from the same release")
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield Finding("ok", "versions", f"Python {sys.version.split()[0]}, {told}")


def _redis(settings: Settings) -> Iterator[Finding]:
    """A Redis that is named must be durable; for one box a binary is enough."""
    yield Finding("ok", "Redis for one box", redis_executable())
    if "redis_url" not in settings.log.model_fields_set:
        yield Finding(
            "ok", "Redis", "log.redis_url is not set: `errata up` starts a Redis of its own"
        )
        return
    try:
        address = asyncio.run(_checked_redis(settings))
    except ErrataError as error:
        yield Finding("fail", "Redis", error.message, _redis_remedy(error))
        return
    yield Finding("ok", "Redis", f"{address} answers and syncs every write")


def _redis_remedy(error: ErrataError) -> str:
    if not isinstance(error, StartupError):
        return "start Redis, or correct log.redis_url"
    if "setting" in error.metadata:
        return f"`{error.metadata['setting']} {error.metadata['required']}` in its configuration"
    return "correct the setting that is named"


async def _checked_redis(settings: Settings) -> str:
    backend = RedisBackend(settings.log)
    try:
        await backend.check_configuration()
    finally:
        await backend.close()
    return backend.address


def _disk(settings: Settings) -> Iterator[Finding]:
    folders = {"data_dir": settings.data_dir, "log.witness_path": settings.log.witness_path.parent}
    for name, folder in folders.items():
        there = next(path for path in (folder, *folder.parents) if path.exists())
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            remedy = f"let this user write there, or set {name} to another folder"
            yield Finding("fail", name, f"{there}: {error.strerror}", remedy)
            continue
        free = shutil.disk_usage(there).free
        grade: Grade = "ok"
        if free < _FAIR_DISK_BYTES:
            grade = "warn" if free > _LEAST_DISK_BYTES else "fail"
        remedy = "" if grade == "ok" else "make room: the log stops when the disk is full"
        yield Finding(grade, name, f"{folder}: {free / 1e9:.1f} GB free", remedy)


def _artifacts(settings: Settings) -> Iterator[Finding]:
    for name, url in (
        ("artifacts.url", settings.artifacts.url),
        ("artifacts.worker_url", settings.artifacts.worker_url),
    ):
        if not url:
            continue  # a folder of data_dir, or the log service
        try:
            ArtifactStore(url).load("0" * 64)
        except ErrataError as error:
            if error.reason != "NOT_FOUND":
                yield Finding("fail", name, error.message, "correct the URL, or grant access")
                continue
        yield Finding("ok", name, url)


def _model(settings: Settings) -> Iterator[Finding]:
    source = settings.model.path or demo.model_path()
    try:
        check_model(source, device=settings.model.device)
        resources_of(settings)
    except ErrataError as error:
        yield Finding("fail", "model", error.message, "see the message")
        return
    text = settings.writer.statistics_text
    if text is not None and not text.is_file():
        remedy = "set writer.statistics_text to a text file, a paragraph a line"
        yield Finding("fail", "writer.statistics_text", f"{text} is no file", remedy)
    yield Finding("ok", "model", f"{source} on {settings.model.device}; weights were not read")


def _lanes(settings: Settings) -> Iterator[Finding]:
    writer = settings.writer
    path = writer.lanes_file or (None if settings.model.path else demo.lanes_path())
    try:
        lanes = read_lanes(path, writer.default_lane, base_model="")
    except ErrataError as error:
        yield Finding("fail", "lanes", error.message, "see the message")
        return
    missing = [str(lane.model) for lane in lanes if lane.model and not Path(lane.model).is_dir()]
    if missing:
        found = f"no lane model at {', '.join(missing)}"
        yield Finding("fail", "lanes", found, "make it with `errata train recipe`")
    told = ", ".join(f"{lane.configured.lane} ({lane.configured.method})" for lane in lanes)
    yield Finding("ok", "lanes", told)
