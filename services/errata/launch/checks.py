"""Checks of a system before it starts; `errata up` and `errata doctor` share them.

Each check examines one thing and changes nothing but a file that it removes again. Only the checks
that need torch import it: `errata up` runs the other checks first.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from errata import demo
from errata.errors import ErrataError, NotFoundError, StartupError, UnavailableError
from errata.launch.addresses import check_listening, free_shift, is_local
from errata.launch.findings import Finding, Grade
from errata.launch.lock import held_by
from errata.launch.progress import Steps
from errata.log.backend import RedisBackend
from errata.log.entries import LaneConfigured
from errata.log.signing.keys import SigningKey
from errata.platform.addresses import host_and_port
from errata.platform.settings import Settings
from errata.replica.commit_gate import read_pins

_LEAST_DISK_BYTES = 1_000_000_000
_FAIR_DISK_BYTES = 10_000_000_000


def before_start(
    settings: Settings,
    listening: Iterable[tuple[str, str]],
    *,
    own_redis: bool,
    steps: Steps | None = None,
    given_up: Callable[[], bool] = lambda: False,
) -> None:
    """Runs all checks before a box starts anything, cheap ones first.

    Args:
        settings: of the box.
        listening: (setting, host:port) where it listens.
        own_redis: whether it starts its own Redis.
        steps: shows what is being checked.
        given_up: whether to stop; asked before each costly check.

    Raises:
        StartupError: with every problem found.
        KeyboardInterrupt: `given_up` returned True.
    """
    steps = steps or Steps()
    addresses = list(listening)
    held = list(check_listening(addresses))
    remedy = _move_all(settings, addresses) if held else ""
    _refuse([*data_dir(settings), *disk(settings), *keys(settings), *held], remedy)
    costly: dict[str, Callable[[Settings], Iterator[Finding]]] = {"text": text}
    if not own_redis:
        costly["Redis"] = redis
    if settings.artifacts.url or settings.artifacts.worker_url:
        costly["artifacts"] = artifacts
    if settings.model.path or settings.model.device != "cpu":
        costly["model"] = model
    if settings.writer.lanes_file or settings.model.path:
        costly["lanes"] = lanes
    found: list[Finding] = []
    for name, check in costly.items():
        if given_up():
            raise KeyboardInterrupt
        with steps.doing(f"checking {name}"):
            found += check(settings)
    _refuse(found)


def _move_all(settings: Settings, listening: Iterable[tuple[str, str]]) -> str:
    here = [(name, address) for name, address in listening if is_local(address)]
    port = host_and_port(settings.gateway.address)[1] + (free_shift(here) or 100)
    return (
        f"--port moves the whole system: `errata up --port {port}`; a second system also needs its "
        "own --data-dir."
    )


def _refuse(findings: Iterable[Finding], remedy: str = "") -> None:
    bad = [finding for finding in findings if finding.grade == "fail"]
    if bad:
        lines = (
            f"{finding.name}: {finding.found}" + (f" → {finding.remedy}" if finding.remedy else "")
            for finding in bad
        )
        parts = ["Errata cannot start here; nothing was started.", *lines, remedy]
        raise StartupError("\n".join(filter(None, parts)))


def data_dir(settings: Settings) -> Iterator[Finding]:
    """Fails if another box uses the folder."""
    if problem := held_by(settings.data_dir):
        yield Finding("fail", "data_dir in use", problem)


def keys(settings: Settings) -> Iterator[Finding]:
    """Checks the files with the writer's keys and with the keys that replicas are told to trust."""
    for name in ("signing_key_file", "previous_signing_key_file"):
        path = getattr(settings.writer, name)
        if path is None or (path == box_key(settings) and not path.exists()):
            continue  # `errata up` makes it
        try:
            found = f"key {SigningKey.read(path).key_id}"
            yield Finding("ok", f"writer.{name}", found)
        except StartupError as error:
            yield Finding("fail", f"writer.{name}", error.message)
    for name in ("worker", "retrieval", "catalog"):
        try:
            read_pins(getattr(settings, name))
        except StartupError as error:
            yield Finding("fail", f"{name}.trusted_keys_file", error.message)


def box_key(settings: Settings) -> Path:
    """The key that `errata up` makes if the settings name none."""
    return settings.data_dir / "signing-key.pem"


def disk(settings: Settings) -> Iterator[Finding]:
    """Checks that folders can be written to and have free space."""
    folders = {"data_dir": settings.data_dir, "log.witness_path": settings.log.witness_path.parent}
    for name, folder in folders.items():
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        try:
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            remedy = f"give this user write access, or set {name} to another folder"
            yield Finding("fail", name, f"{existing}: {error.strerror}", remedy)
            continue
        free = shutil.disk_usage(existing).free
        grade: Grade = "ok"
        if free < _FAIR_DISK_BYTES:
            grade = "warn" if free > _LEAST_DISK_BYTES else "fail"
        remedy = "" if grade == "ok" else "free some space: the log stops when the disk is full"
        yield Finding(grade, name, f"{folder}: {free / 1e9:.1f} GB free", remedy)


def redis(settings: Settings) -> Iterator[Finding]:
    """Checks that the configured Redis answers and is durable."""
    try:
        address = asyncio.run(_checked_redis(settings))
    except ErrataError as error:
        yield Finding("fail", "Redis", _for_operators(error), _redis_remedy(error))
        return
    yield Finding("ok", "Redis", f"{address} answers and syncs every write")


def _for_operators(error: ErrataError) -> str:
    """The cause of a failed store or Redis; the error's own message is for clients."""
    hidden = isinstance(error, UnavailableError) and error.__cause__ is not None
    return str(error.__cause__) if hidden else error.message


def _redis_remedy(error: ErrataError) -> str:
    if not isinstance(error, StartupError):
        return "start Redis, or correct log.redis_url"
    return error.remedy or "correct the named setting"


async def _checked_redis(settings: Settings) -> str:
    backend = RedisBackend(settings.log)
    try:
        await backend.check_configuration()
    finally:
        await backend.close()
    return backend.address


def artifacts(settings: Settings) -> Iterator[Finding]:
    """Checks that the configured artifact stores can be read."""
    from errata.artifacts.store import ArtifactStore

    for name, url in (
        ("artifacts.url", settings.artifacts.url),
        ("artifacts.worker_url", settings.artifacts.worker_url),
    ):
        if not url:
            continue  # a folder of data_dir, or the log service
        try:
            ArtifactStore(url).load("0" * 64)
        except NotFoundError:
            pass  # the store answers
        except ErrataError as error:
            detail = f"{url}: {_for_operators(error)}"
            yield Finding("fail", name, detail, "correct the URL, or grant access")
            continue
        yield Finding("ok", name, url)


def text(settings: Settings) -> Iterator[Finding]:
    """Checks the text for a model's statistics; the demo model has its own."""
    path, name = settings.writer.statistics_text, "writer.statistics_text"
    remedy = (
        "give a plain text file, one paragraph per line (--text, ERRATA_WRITER__STATISTICS_TEXT)"
    )
    if path is None:
        if settings.model.path:
            found = f"none is set, and {settings.model.path} needs about 100,000 tokens or more"
            yield Finding("fail", name, found, remedy)
        return
    try:
        with path.open(encoding="utf-8") as file:
            beginning = file.read(10_000)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        yield Finding("fail", name, f"{path} is not a readable text file ({why})", remedy)
        return
    if beginning.strip():
        yield Finding("ok", name, str(path))
    else:
        yield Finding("fail", name, f"{path} is empty", remedy)


def model(settings: Settings) -> Iterator[Finding]:
    """Checks configuration and tokenizer of the base model; does not read its weights."""
    from errata.editing.model.loading import check_model

    source = settings.model.path or demo.model_path()
    try:
        unread = check_model(source, device=settings.model.device)
    except ErrataError as error:
        remedy = "set model.device" if error.field == "device" else "correct --model (model.path)"
        yield Finding("fail", "model", error.message, remedy)
        return
    yield Finding("ok", "model", f"{source} on {settings.model.device}; weights were not read")
    if unread:
        ignored = ", ".join(f"{name}={value!r}" for name, value in unread.items())
        remedy = "expect plain greedy answers; requests can set their own sampling"
        yield Finding("warn", "generation config", f"these fields are ignored: {ignored}", remedy)


def lanes(settings: Settings) -> Iterator[Finding]:
    """Checks the lanes file, and that the lane models and adapters it names exist."""
    from errata.editing.retriever.installed_gate import installed_gate
    from errata.editing.retriever.lane_model import file_in
    from errata.writer.lanes import read_lanes

    writer = settings.writer
    path = writer.lanes_file or (None if settings.model.path else demo.lanes_path())
    try:
        setups = read_lanes(path, writer.default_lane, "", writer.default_method)
    except ErrataError as error:
        yield Finding("fail", "lanes", error.message, "correct it (writer.lanes_file)")
        return
    for setup in setups:
        name = setup.configured.lane
        if setup.model and not file_in(setup.model).is_file():
            found = f"{name}: no lane model or gate at {setup.model}"
            remedy = "make one with `errata train recipe` or `errata train gate`"
            yield Finding("fail", "lanes", found, remedy)
        elif setup.model is None and _takes_gate(setup.configured):
            try:
                installed_gate()
            except ErrataError as error:
                # A lane that is in the log already keeps its gate.
                yield Finding(
                    "warn", "lanes", f"{name}: {error.message}", "not needed if it has one"
                )
        for adapter in setup.adapters:
            if not (adapter / "adapter_config.json").is_file():
                found = f"{name}: no PEFT adapter at {adapter}"
                yield Finding("fail", "lanes", found, "correct `adapters` in the lanes file")
    listed = ", ".join(f"{lane.configured.lane} ({lane.configured.method})" for lane in setups)
    yield Finding("ok", "lanes", listed)


def _takes_gate(lane: LaneConfigured) -> bool:
    from errata.editing.registry import get_method

    config = get_method(lane.method).config.model_validate_json(lane.config_json)
    return config.takes_gate
