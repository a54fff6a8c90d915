"""A system on one machine: Redis, log, writer, catalog and gateway with workers, as processes.

It includes a retrieval service if the workers' settings name the address of its own. The catalog is
optional: the system starts and goes on without it.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from errata.errors import StartupError
from errata.launch.checks import before_start, box_key
from errata.launch.health import HealthProbe, health_channel, health_of
from errata.launch.lock import DataDirLock
from errata.launch.optional import OptionalProcess
from errata.launch.processes import Process
from errata.launch.progress import Steps
from errata.launch.redis import redis_command
from errata.launch.secured import Secured
from errata.log.signing.keys import SigningKey
from errata.platform.addresses import free_port
from errata.platform.settings import Settings, load_settings
from errata_client import Credentials

_START_SECONDS = {
    "redis": 20.0,
    "log": 30.0,
    "writer": 180.0,
    "retrieval": 60.0,
    "gateway": 300.0,
    "catalog": 30.0,  # a new database reads the whole log, which may take longer: in the background
}
_WITHOUT_CATALOG = "There are no searches, events and webhooks until it is up."
_HEALTH_SECONDS = 1.0
_STOP_SECONDS = {
    "redis": 10.0,
    "log": 10.0,
    "writer": 30.0,
    "retrieval": 10.0,
    "catalog": 10.0,
    "gateway": 45.0,
}


class Box:
    """The whole system on this machine; a context manager that leaves nothing running.

    Attributes:
        settings: of the children.
        processes: running children by name.
    """

    def __init__(
        self,
        flags: Mapping[str, Any],
        *,
        redis_url: str | None = None,
        steps: Steps | None = None,
        given_up: Callable[[], bool] = lambda: False,
        secure: bool = False,
    ) -> None:
        """Prepares; `start` starts.

        Args:
            flags: settings that override environment and file.
            redis_url: a Redis to use; None starts one.
            steps: shows what is being started.
            given_up: whether to stop waiting for a start, such as after Ctrl-C.
            secure: whether services use TLS, know each other and demand tokens, by a development
                CA in the data folder.

        Raises:
            StartupError: bad settings.
        """
        self._own_redis_port = None if redis_url else free_port()
        url = redis_url or f"redis://127.0.0.1:{self._own_redis_port}/0"
        log = {**flags.get("log", {}), "redis_url": url}
        self.settings: Settings = _with_key({**flags, "log": log})
        self._secured = Secured.made_for(self.settings) if secure else None
        if self._secured is not None:
            self.settings = self._secured.settings
        elif self.settings.security.authenticate:
            raise StartupError(
                "each service needs a certificate of its own; `errata up --secure` makes them, or "
                "run the services one by one with `errata serve`."
            )
        self.processes: dict[str, Process] = {}
        self._steps = steps or Steps()
        self._given_up = given_up
        self._lock: DataDirLock | None = None
        self._catalog: OptionalProcess | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def target(self) -> str:
        """Where clients connect."""
        return self.settings.gateway.address

    @property
    def http_url(self) -> str:
        """Where HTTP clients connect; empty without HTTP."""
        address = self.settings.gateway.http_address
        scheme = "https" if self.settings.security.has_tls else "http"
        return f"{scheme}://{address}" if address else ""

    @property
    def credentials(self) -> Credentials | None:
        """What a client needs; None if it needs nothing."""
        return None if self._secured is None else self._secured.credentials

    def start(self) -> None:
        """Runs the checks, then starts everything in the order of dependence.

        A catalog that does not start is reported, and `check` starts it again.

        Raises:
            StartupError: a check failed, and nothing was started; or another process did not start,
                and its last lines are in the message.
            KeyboardInterrupt: `given_up` returned True.
        """
        services = self._services()
        before_start(
            self.settings,
            self._listening(services),
            own_redis=self._own_redis_port is not None,
            steps=self._steps,
            given_up=self._given_up,
        )
        self.start_storage()
        for name, address in services.items():
            if name == "catalog":
                self._start_catalog(address)
            else:
                self.start_service(name, address)

    def check(self) -> None:
        """Looks once whether everything still runs; starts an ended catalog again.

        Raises:
            StartupError: a process that the system needs has ended.
        """
        for name, process in self.processes.items():
            if name != "catalog" and not process.running:
                raise process.ended()
        if self._catalog is not None:
            self._catalog.look()

    def start_log(self) -> None:
        """Starts only Redis and the log: the rest of a system cannot start before a repair.

        Raises:
            StartupError: another system uses the data, or a process did not start.
        """
        self.start_storage()
        self.start_service("log", self.settings.log.address)

    def start_storage(self, when_locked: Callable[[], object] = lambda: None) -> None:
        """Locks the data and starts the box's own Redis, if it has one; no service.

        Args:
            when_locked: called before Redis starts; raises to give up.

        Raises:
            StartupError: another system uses the data, or Redis did not start.
        """
        self._lock_data_dir()
        when_locked()
        if self._own_redis_port is not None:
            self.start_redis()

    def _lock_data_dir(self) -> None:
        folder = self.settings.data_dir
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = DataDirLock(folder, f"the Errata at {self.target} (process {os.getpid()})")

    def _services(self) -> dict[str, str]:
        """Addresses of the services by name, in the order of dependence."""
        settings = self.settings
        found = {"log": settings.log.address, "writer": settings.writer.address}
        if settings.worker.retrieval_address == settings.retrieval.address:
            found["retrieval"] = settings.retrieval.address
        # The gateway does without the catalog, so it does not wait for it.
        return {**found, "gateway": settings.gateway.address, "catalog": settings.catalog.address}

    def _listening(self, services: Mapping[str, str]) -> list[tuple[str, str]]:
        """(setting, address) of everything that the box listens on."""
        metrics = {
            f"{name}.metrics_address": getattr(self.settings, name).metrics_address
            for name in (*services, "worker")
        }
        found = {f"{name}.address": address for name, address in services.items()}
        found |= {"gateway.http_address": self.settings.gateway.http_address} | metrics
        return [(name, address) for name, address in found.items() if address]

    def start_redis(self) -> None:
        """Starts the box's own Redis; after a crash, again with the same folder and port."""
        port = self._own_redis_port
        if port is None:
            raise StartupError("this system uses a Redis that it did not start.")
        folder = self.settings.data_dir / "redis"
        folder.mkdir(exist_ok=True)
        with self._steps.starting("Redis"):
            process = self._spawn("redis", redis_command(port, folder), {})
            process.wait_until(
                lambda: _accepts("127.0.0.1", port), _START_SECONDS["redis"], self._given_up
            )

    def start_service(self, name: str, address: str) -> None:
        """Starts one service and waits until its health says SERVING."""
        self._make_key()
        # Without the limit, gRPC would retry less and less often while a slow service starts.
        options = [("grpc.max_reconnect_backoff_ms", 200)]
        with (
            self._steps.starting(name),
            health_channel(address, options, self.settings.security) as channel,
        ):
            process = self._spawn_service(name)
            probe = HealthProbe(channel)
            process.wait_until(
                lambda: probe.state(_HEALTH_SECONDS) == "SERVING",
                _START_SECONDS[name],
                self._given_up,
            )

    def _start_catalog(self, address: str) -> None:
        ready = True
        try:
            self.start_service("catalog", address)
        except StartupError:
            ready = False  # which is reported below
        security = self.settings.security
        self._catalog = OptionalProcess(
            self.processes["catalog"],
            lambda: self._spawn_service("catalog"),
            lambda: health_of(address, _HEALTH_SECONDS, security) == "SERVING",
            self._steps.say,
            ready=ready,
            without=_WITHOUT_CATALOG,
        )
        self._catalog.look()  # reports one that has ended

    def _make_key(self) -> None:
        """Makes the box's own signing key at its first start."""
        key = self.settings.writer.signing_key_file
        if key == box_key(self.settings) and not key.exists():
            SigningKey.generate().write(key)

    def stop(self) -> None:
        """Stops everything, dependants first."""
        self._catalog = None
        for name in reversed(list(self.processes)):
            self.processes.pop(name).stop(_STOP_SECONDS[name])
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _spawn_service(self, name: str) -> Process:
        command = [sys.executable, "-m", "errata.cli", "serve", name]
        environment = self.settings.environment()
        if self._secured is not None:
            environment |= self._secured.environment(name)
        return self._spawn(name, command, environment)

    def _spawn(self, name: str, command: list[str], environment: Mapping[str, str]) -> Process:
        log_path: Path = self.settings.data_dir / "logs" / f"{name}.log"
        held = [self._lock.fileno] if self._lock is not None else []
        process = Process.start(name, command, environment, log_path, pass_fds=held)
        self.processes[name] = process
        return process


def _with_key(flags: Mapping[str, Any]) -> Settings:
    """The settings; without a signing key, with the one that the box makes in its data_dir."""
    settings = load_settings(flags)
    if settings.writer.signing_key_file is not None:
        return settings
    writer = {**flags.get("writer", {}), "signing_key_file": box_key(settings)}
    return load_settings({**flags, "writer": writer})


def free_addresses() -> dict[str, dict[str, str]]:
    """Settings that put the services on free loopback ports."""
    names = ("log", "writer", "retrieval", "catalog", "gateway")
    found = {name: {"address": f"127.0.0.1:{free_port()}"} for name in names}
    found["gateway"]["http_address"] = f"127.0.0.1:{free_port()}"
    return found


def _accepts(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=0.5):
            return True
    except OSError:
        return False
