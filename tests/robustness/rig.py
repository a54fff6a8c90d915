"""The processes of a system, to be killed, stopped and started again with other failpoints."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import errata
from errata.launch.health import HealthProbe, health_channel
from errata.launch.redis import redis_command
from errata.log.witness import read_witness
from errata.platform.addresses import free_port
from errata.platform.settings import Settings, load_settings
from tests.robustness import serve_worker
from tests.robustness.forkserver import ForkServer
from tests.robustness.history import Fault, History, WitnessSeen
from tests.robustness.shim import Shim
from tests.waiting import PATIENCE, wait

LOG_ONLY = ("redis", "log")
WHOLE = (*LOG_ONLY, "writer", "retrieval-1", "retrieval-2", "worker")
RECIPE, ELDER = "lanes/facts", "lanes/mixture"
_LANES = f"""
[lanes.facts]
method = "recipe"
model = "{Path(errata.__file__).parent / "demo/recipe"}"

[lanes.mixture]
method = "elder"

[lanes.mixture.config]
num_layers = 1
num_experts = 3
top_k = 1
rank = 2
scope = "cosine"
threshold = 0.95
num_contexts = 0
num_rephrases = 0
steps = 1
"""


class Rig:
    """Redis, log, and in a whole system writer, two retrieval replicas and a worker."""

    def __init__(self, folder: Path, names: tuple[str, ...], history: History, **more: Any) -> None:
        """Starts nothing yet.

        Args:
            folder: for all data.
            names: of the processes, in the order of dependence.
            history: gets faults and witnesses.
            more: `shim`, which loses unsynced data; `settings`, further ones by section.
        """
        self.folder, self.names, self.history = folder, names, history
        self.shim: Shim | None = more.get("shim")
        self._redis_port = free_port()
        self.addresses = {name: f"127.0.0.1:{free_port()}" for name in names}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "redis").mkdir(exist_ok=True)
        (folder / "lanes.toml").write_text(_LANES)
        self.settings = self._settings(more.get("settings", {}))
        self._forks: ForkServer | None = None
        self._pids: dict[str, int] = {}
        self._redis: subprocess.Popen[bytes] | None = None
        self._incarnation = 0
        self._worker = ""

    def _settings(self, more: Mapping[str, Mapping[str, Any]]) -> Settings:
        at = self.addresses
        own: dict[str, dict[str, Any]] = {
            "log": {
                "address": at["log"],
                "redis_url": f"redis://127.0.0.1:{self._redis_port}/0",
                "progress_interval_seconds": 0.2,
                "redis_timeout_seconds": 2.0,
            },
            "writer": {
                "lanes_file": self.folder / "lanes.toml",
                "default_lane": RECIPE,
                "min_reliability": 0.0,
                "min_locality": 0.0,
                "batch_window_seconds": 0.02,
                "num_threads": 1,
                "snapshot_interval": 10,
                "snapshot_patience_seconds": 2.0,
            },
            "retrieval": {"history": 100_000},
            "worker": {"max_silence_seconds": 60.0},
            "security": {"audit": "changes"},
        }
        if "writer" in at:
            own["writer"]["address"] = at["writer"]
        for name, values in more.items():
            own.setdefault(name, {}).update(values)
        return load_settings({"data_dir": self.folder, "log_level": "warning", **own})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def witness(self) -> Path:
        """The log service's witness."""
        return self.settings.log.witness_path

    def start_all(self) -> None:
        """Starts everything, in order."""
        for name in self.names:
            assert self.start(name), f"{name} did not start:\n{self.tail(name)}"

    def start(self, name: str, failpoints: str = "", *, ready: bool = True) -> bool:
        """Starts a process.

        Args:
            name: of the process.
            failpoints: that are on in it.
            ready: wait until it serves, or has ended.

        Returns:
            Whether it serves, if that was waited for.
        """
        if name == "redis":
            self._start_redis()
        else:
            if self._forks is None:
                own = self.shim.environment() if self.shim else {}
                path = self.folder / "logs/forkserver.log"
                self._forks = ForkServer(own, path, with_torch=len(self.names) > len(LOG_ONLY))
            self._incarnation += 1
            environment = {**self.settings.environment(), **self._own_environment(name)}
            command = ["worker"] if name == "worker" else ["serve", name.partition("-")[0]]
            log = self.folder / f"logs/{name}.log"
            self._pids[name] = self._forks.start(
                command, {**environment, "ERRATA_FAILPOINTS": failpoints}, log
            )
        return self.wait_ready(name) if ready else False

    def _own_environment(self, name: str) -> dict[str, str]:
        at = self.addresses[name]
        own = self.shim.environment(name) if self.shim else {}
        if name == "worker":
            self._worker = f"worker-{self._incarnation}"
            own |= {serve_worker.ADDRESS: at, serve_worker.NAME: self._worker}
        if name.startswith("retrieval"):
            own |= {"ERRATA_RETRIEVAL__ADDRESS": at}
        return own

    def _start_redis(self) -> None:
        own = self.shim.environment("redis") if self.shim else {}
        with (self.folder / "redis/redis.log").open("ab") as log:
            self._redis = subprocess.Popen(
                redis_command(self._redis_port, self.folder / "redis"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **own},
            )
        self._pids["redis"] = self._redis.pid

    def status(self, name: str) -> int | None:
        """The exit status; None while it runs."""
        if name == "redis":
            assert self._redis is not None
            return self._redis.poll()
        assert self._forks is not None
        return self._forks.status(self._pids[name])

    def wait_ready(self, name: str) -> bool:
        """Returns once it serves (True) or has ended (False)."""
        if name in ("redis", "worker"):
            host, port = "127.0.0.1", self._redis_port
            if name == "worker":
                port = int(self.addresses[name].rpartition(":")[2])
            return self._until(name, lambda: _accepts(host, port))
        # Without the limit, gRPC would look less and less often.
        options = [("grpc.initial_reconnect_backoff_ms", 20), ("grpc.max_reconnect_backoff_ms", 20)]
        with health_channel(self.addresses[name], options, self.settings.security) as channel:
            probe = HealthProbe(channel)
            return self._until(name, lambda: probe.state(1.0) == "SERVING")

    def _until(self, name: str, ready: Any) -> bool:
        deadline = time.monotonic() + PATIENCE
        while not ready():
            if self.status(name) is not None:
                return False
            assert time.monotonic() < deadline, f"{name} does not serve:\n{self.tail(name)}"
            time.sleep(0.01)
        return True

    def replicas(self) -> set[str]:
        """The names under which the present replicas report their positions."""
        pids = [pid for name, pid in self._pids.items() if name.startswith("retrieval")]
        found = {f"retrieval-{socket.gethostname()}-{pid}" for pid in pids}
        return found | ({self._worker} if self._worker else set())

    def signal(self, name: str, number: int) -> None:
        """Sends a signal to a process that may have ended."""
        try:
            os.kill(self._pids[name], number)
        except ProcessLookupError:
            pass

    def kill(self, name: str, kind: str = "kill") -> None:
        """SIGKILL; returns once it is gone, and its witness is recorded."""
        alive = self.status(name) is None
        self.signal(name, signal.SIGKILL)
        self.wait_dead(name)
        if alive:
            self.history.add("faults", Fault(name, kind, time.monotonic()))

    def wait_dead(self, name: str) -> int:
        """Waits for its end; records the witness that a dead log service left."""
        if name == "redis":
            assert self._redis is not None
            status = self._redis.wait(PATIENCE)
        else:
            assert self._forks is not None
            status = self._forks.wait(self._pids[name])
        if self.shim is not None:
            self.shim.lose_unsynced(name, self.folder)
        if name == "log":
            self.note_witness()
        return status

    def note_witness(self) -> None:
        """Records what a log service that is dead has witnessed."""
        found, now = read_witness(self.witness), time.monotonic()
        seq, epoch = (found.head.seq, found.epoch) if found else (0, 0)
        self.history.add("witnesses", WitnessSeen(now, seq, epoch))

    def tail(self, name: str) -> str:
        """The last lines of its log."""
        path = self.folder / ("redis/redis.log" if name == "redis" else f"logs/{name}.log")
        return (
            "\n".join(path.read_text(errors="replace").splitlines()[-8:]) if path.exists() else ""
        )

    def close(self) -> None:
        """Kills everything that is left."""
        if self._forks is not None:
            self._forks.close()
        if self._redis is not None:
            self._redis.send_signal(signal.SIGCONT)
            self._redis.kill()
            self._redis.wait()

    def heal(self) -> None:
        """Starts again what has ended, without failpoints, and waits until all serves."""
        for name in self.names:
            self.signal(name, signal.SIGCONT)
        for name in self.names:
            if self.status(name) is not None:
                self.start(name, ready=False)
        for name in self.names:
            wait(lambda name=name: self._served(name), f"{name} serves")  # type: ignore[misc]

    def _served(self, name: str) -> bool:
        if self.wait_ready(name):
            return True
        self.start(name, ready=False)
        return False


def _accepts(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=0.5):
            return True
    except OSError:
        return False
