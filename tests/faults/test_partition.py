"""Six hosts; one worker loses the log, edits go on, and when the link heals it catches up."""

from __future__ import annotations

import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from errata.demo import Corpus
from errata.launch.health import health_of
from errata.launch.processes import Process
from errata.launch.redis import DURABILITY, redis_executable
from errata_client import Client, ErrataError
from tests.faults.hosts import Host, cut, heal, hosts
from tests.waiting import PATIENCE

_NAMES = ("log", "writer", "retrieval", "gateway", "worker1", "worker2")
_ERRATA = [sys.executable, "-m", "errata.cli", "serve"]
_RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats", "--block"]


@dataclass
class Site:
    """The hosts and what runs on them."""

    hosts: Mapping[str, Host]
    processes: dict[str, Process]
    folder: Path
    environment: Mapping[str, str]

    def start(self, name: str, host: str, command: list[str]) -> Process:
        log_path = self.folder / f"logs/{name}.log"
        process = Process.start(name, self.hosts[host].command(command), self.environment, log_path)
        self.processes[name] = process
        return process

    def serve(self, name: str, port: int) -> None:
        process = self.start(name, name, [*_ERRATA, name])
        address = f"{self.hosts[name].address}:{port}"
        process.wait_until(lambda: health_of(address, 1.0) == "SERVING", PATIENCE)


def _environment(at: Mapping[str, Host], folder: Path) -> dict[str, str]:
    return {
        "ERRATA_DATA_DIR": str(folder),
        "ERRATA_LOG__ADDRESS": f"{at['log'].address}:7711",
        "ERRATA_LOG__WITNESS_PATH": str(folder / "witness"),
        "ERRATA_LOG__REDIS_URL": f"redis://{at['log'].address}:6379/0",
        "ERRATA_WRITER__ADDRESS": f"{at['writer'].address}:7712",
        "ERRATA_RETRIEVAL__ADDRESS": f"{at['retrieval'].address}:7713",
        "ERRATA_GATEWAY__ADDRESS": f"{at['gateway'].address}:7700",
        "ERRATA_GATEWAY__HTTP_ADDRESS": f"{at['gateway'].address}:7701",
        "ERRATA_GATEWAY__RAY_ADDRESS": f"{at['worker1'].address}:6380",
        "ERRATA_WORKER__RAY_ADDRESS": f"{at['worker1'].address}:6380",
        "ERRATA_WORKER__RETRIEVAL_ADDRESS": f"{at['retrieval'].address}:7713",
        "ERRATA_SECURITY__ALLOW_PLAINTEXT": "true",  # between hosts of their own
        "ERRATA_WORKER__NUM_REPLICAS": "2",
        "ERRATA_WORKER__NUM_CPUS": "1",
        "ERRATA_WORKER__MAX_SILENCE_SECONDS": "300",  # it shall stay in rotation all the while
        "ERRATA_WORKER__NODE_CPUS": "1",  # so that there is one replica on each host
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # Serve leaves replicas out that do not tell their queue's length at once: here six hosts
        # share a few cores, and slowness is no fault.
        "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S": "5",
    }


def _skip_unless_reached(host: Host, port: int) -> None:
    """Namespaces can be made on some machines whose own firewall lets nothing into them."""
    try:
        socket.create_connection((host.address, port), timeout=5).close()
    except OSError as error:
        pytest.skip(f"this machine lets no packet into its network namespaces: {error}")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statistics_cache: Path) -> Iterator[Site]:
    (tmp_path / "statistics").symlink_to(statistics_cache)
    with hosts(_NAMES, tmp_path / "hosts") as at:
        # Where a machine reaches the world by a proxy, its hosts reach each other without.
        monkeypatch.setenv("no_proxy", ",".join(host.address for host in at.values()))
        made = Site(at, {}, tmp_path, _environment(at, tmp_path))
        try:
            redis = [redis_executable(), "--bind", at["log"].address, "--dir", str(tmp_path)]
            process = made.start("redis", "log", [*redis, "--protected-mode", "no", *DURABILITY])
            process.wait_until(lambda: "Ready to accept" in process.tail(), PATIENCE)
            _skip_unless_reached(at["log"], 6379)
            made.serve("log", 7711)
            made.serve("writer", 7712)
            made.serve("retrieval", 7713)
            workers = made.start("workers", "worker1", [*_ERRATA, "workers"])
            workers.wait_until(lambda: (tmp_path / "logs/workers.log").stat().st_size > 0, PATIENCE)
            second = [
                *_RAY,
                f"--address={at['worker1'].address}:6380",
                f"--node-ip-address={at['worker2'].address}",
                "--num-cpus=1",
            ]
            made.start("ray", "worker2", second)
            workers.wait_until(lambda: "workers serve" in workers.tail(), PATIENCE)
            made.serve("gateway", 7700)
            yield made
        finally:
            for name in reversed(list(made.processes)):
                made.processes[name].stop(PATIENCE)


@pytest.mark.promise("P5", "P7")
def test_a_worker_that_is_cut_off_from_the_log_is_never_stale_and_catches_up(
    site: Site, corpus: Corpus
) -> None:
    first, second = corpus.demo_edits()[:2]
    gateway = f"{site.hosts['gateway'].address}:7700"
    with Client(gateway, timeout=PATIENCE) as client:
        done = client.edit(first.prompt, first.target, subject=first.subject, lane="lanes/facts")
        everywhere = client.generate_everywhere(first.prompt, min_seq=done.commit_seq, stop=["."])
        assert [a.answer.text.strip() for a in everywhere if a.answer] == [first.target] * 2

        cut(site.hosts["log"], site.hosts["worker2"])
        later = client.edit(
            second.prompt, second.target, subject=second.subject, lane="lanes/facts"
        )
        with Client(gateway, timeout=20) as stranger:  # who knows of no edit asks for no position
            deadline = time.monotonic() + 20
            while True:
                now = stranger.generate_everywhere(second.prompt, stop=["."])
                assert all(a.answer for a in now), now
                positions = sorted(a.answer.provenance.applied_seq for a in now if a.answer)
                # A commit is told a moment before it is applied, on the other one, too.
                if positions[1] >= later.commit_seq or time.monotonic() > deadline:
                    break
        assert positions[0] < later.commit_seq <= positions[1], "one is behind, and says so"
        right, refused = 0, []
        with Client(gateway, timeout=3) as hurried:
            # Requests go to either worker: six in a row may all meet the one that is behind.
            while right + len(refused) < 6 or (not right and len(refused) < 20):
                try:
                    answer = hurried.generate(second.prompt, min_seq=later.commit_seq, stop=["."])
                except ErrataError as error:
                    refused.append(error.message)
                    continue
                assert answer.text.strip() == second.target
                assert answer.provenance.applied_seq >= later.commit_seq
                right += 1
        assert right, refused

        heal(site.hosts["log"], site.hosts["worker2"])
        # The answers wait for its position: that both come says that it was reached.
        now = client.generate_everywhere(second.prompt, min_seq=later.commit_seq, stop=["."])
        assert [a.answer.text.strip() for a in now if a.answer] == [second.target] * 2, now
        states = {a.answer.provenance.state_digest for a in now if a.answer}
        assert len(states) == 1
        assert all(replica.agrees for replica in client.replicas())
