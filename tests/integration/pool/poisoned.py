"""Sends a request that kills its replica to a pool of two; writes what happened, as JSON.

A process of its own: Ray forks, which a process with gRPC's threads does not survive.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import ray
from ray import serve

from errata.errors import UnavailableError
from errata.gateway.pool import WorkerPool
from errata.worker.deployment import DEPLOYMENT


class Mortal:
    """A replica that notes each request, and dies of some."""

    def __init__(self, notes: str) -> None:
        self._notes = Path(notes)

    async def generate(self, request: str, timeout_seconds: float) -> int:
        with self._notes.open("a") as file:
            file.write(f"{request}\n")
        if request == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()


async def _tried(pool: WorkerPool, request: str) -> str:
    try:
        await pool.call("generate", request, 60.0)
    except UnavailableError as error:
        return "only by the caller" if error.only_by_caller else "unavailable"
    return "answered"


async def _observe(notes: Path) -> dict[str, Any]:
    pool = WorkerPool("pool")
    first: set[int] = set()
    while len(first) < 2:
        first.add(await pool.call("generate", "ordinary", 60.0))
    # Nobody has told the router yet that one of them is dead.
    os.kill(first.pop(), signal.SIGKILL)
    after = [await _tried(pool, "ordinary") for _ in range(20)]
    poisoned = await _tried(pool, "poison")
    times = notes.read_text().splitlines().count("poison")
    return {"after": sorted(set(after)), "poisoned": poisoned, "times": times}


def _main(notes: Path, found: Path) -> None:
    ray.init(address="local", include_dashboard=False, num_cpus=4, log_to_driver=False)
    serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
    deployment: Any = serve.deployment(Mortal)
    options = {"num_replicas": 2, "ray_actor_options": {"num_cpus": 0.1}}
    app = deployment.options(name=DEPLOYMENT, max_ongoing_requests=8, **options).bind(str(notes))
    serve.run(app, name="pool", route_prefix=None)
    found.write_text(json.dumps(asyncio.run(_observe(notes))))
    ray.shutdown()


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
