"""Three Redis servers, one of them the primary, and a Sentinel that replaces it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import redis

from errata.platform.addresses import free_port
from errata.platform.settings import LogSettings
from tests.integration.log.harness import RedisServer, log_settings
from tests.waiting import wait

SERVICE = "errata"


class ReplicatedRedis:
    """A primary, replicas of it, and one Sentinel; `source_port` can be that of a link to it."""

    def __init__(self, folder: Path, executable: str) -> None:
        self._folder = folder
        self._executable = executable
        self.primary = self._server("primary")
        self.replicas: list[RedisServer] = []
        self._sentinel: subprocess.Popen[bytes] | None = None
        self.sentinel_port = free_port()
        self._sentinel_password: str | None = None

    def _server(self, name: str, *options: str) -> RedisServer:
        common = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        return RedisServer(self._folder / name, *common, *options, executable=self._executable)

    def add_replica(self, source_port: int) -> RedisServer:
        """Starts a replica and waits until it has all that the primary has."""
        name = f"replica-{len(self.replicas)}"
        server = self._server(name, "--replicaof", "127.0.0.1", str(source_port))
        self.replicas.append(server)
        server.start()
        wait(lambda: _info(server).get("master_link_status") == "up", "the replica follows")
        return server

    def start_sentinel(self, password: str | None = None) -> None:
        """Starts a Sentinel that alone decides on a failover, half a second after a death."""
        self._sentinel_password = password
        login = f"requirepass {password}\n" if password else ""
        path = self._folder / "sentinel.conf"
        path.write_text(
            f"port {self.sentinel_port}\nbind 127.0.0.1\n{login}"
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.primary.port} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} 500\n"
            f"sentinel failover-timeout {SERVICE} 5000\n"
        )
        command = [self._executable, str(path), "--sentinel"]
        with (self._folder / "sentinel.log").open("ab") as log:
            self._sentinel = subprocess.Popen(command, stdout=log, stderr=log)
        wait(self._knows_replicas, "the Sentinel knows the replicas")

    def _knows_replicas(self) -> bool:
        asked = redis.Redis(
            port=self.sentinel_port, socket_timeout=30, password=self._sentinel_password
        )
        with asked as sentinel:
            try:
                found: Any = sentinel.sentinel_slaves(SERVICE)
            except redis.RedisError:
                return False
        return len(found) == len(self.replicas)

    def promoted(self) -> RedisServer:
        """Waits for the failover; the new primary."""
        found: list[RedisServer] = []

        def is_done() -> bool:
            found[:] = [each for each in self.replicas if _info(each)["role"] == "master"]
            return bool(found)

        wait(is_done, "a replica is promoted")
        return found[0]

    def settings(self, witness_path: Path, **changes: Any) -> LogSettings:
        """A log service that asks the Sentinel where Redis is."""
        values = {
            "redis_url": "redis:///0",
            "redis_sentinels": f"127.0.0.1:{self.sentinel_port}",
            "redis_service": SERVICE,
        }
        return log_settings(self.primary, witness_path, **values | changes)

    def close(self) -> None:
        if self._sentinel is not None:
            self._sentinel.kill()
            self._sentinel.wait()
            self._sentinel = None
        for server in (self.primary, *self.replicas):
            server.close()


def _info(server: RedisServer) -> dict[str, Any]:
    found: Any = server.client.info("replication")
    return dict(found)
