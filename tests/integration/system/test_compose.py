"""The compose file's processes, started from its commands and environment, without containers.

Host names become loopback, ports free ones, volumes folders; all else is as the file says.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import format_trace_id
from prometheus_client.parser import text_string_to_metric_families

from errata.demo import Corpus
from errata.launch.health import health_of
from errata.launch.processes import Process
from errata.launch.redis import redis_executable
from errata.platform.addresses import free_port
from errata.platform.metrics import HELP
from errata_client import Client, ReplicaAnswer
from tests.integration.system.collector import Collector, collecting
from tests.unit.deploy.manifests import Object, compose
from tests.waiting import PATIENCE, wait

_ORDER = ("redis", "log", "writer", "retrieval", "catalog", "workers", "gateway")
_PASSWORD = "of-the-test"
# It is refused, because its address is private.
_WEBHOOKS = '[[target]]\nurl = "http://127.0.0.1:9/"\nsecret_file = "secrets/webhook"\n'
_SERVICES = {
    7700: "errata.v1.InferenceService",
    7711: "errata.v1.EditLogService",
    7712: "errata.v1.EditingService",
    7713: "errata.v1.RetrievalService",
    7714: "errata.v1.CatalogService",
}
_ROLES = {"worker", "retrieval", "catalog"}
_DEFAULT = re.compile(r"\$\{\w+:-([^}]*)\}")
_HOST_AND_PORT = re.compile(r"\b([a-z]+|0\.0\.0\.0|127\.0\.0\.1):(\d{4,5})\b")


@dataclass
class Composed:
    """The running processes and where they listen, by the compose file's ports."""

    processes: dict[str, Process]
    ports: Mapping[int, int]
    collector: Collector
    caller: str = ""  # trace of the program that edited

    def address(self, port: int) -> str:
        return f"127.0.0.1:{self.ports[port]}"


def _ports(services: Object) -> dict[int, int]:
    """A free port for each one that the file speaks of; those of several replicas side by side."""
    told = {
        int(found[2])
        for service in services.values()
        for value in service.get("environment", {}).values()
        for found in _HOST_AND_PORT.finditer(value)
    }
    return {port: free_port() for port in sorted(told)}


def _environment(service: Object, ports: Mapping[int, int], folder: Path) -> dict[str, str]:
    found = {"ERRATA_DATA_DIR": str(folder)}
    for key, value in service["environment"].items():
        value = _DEFAULT.sub(r"\1", value)  # of a variable that is not set
        value = _HOST_AND_PORT.sub(lambda m: f"127.0.0.1:{ports[int(m[2])]}", value)
        value = value.replace("/run/secrets/", f"{folder}/secrets/")
        found[key] = value.replace("/var/lib/errata", str(folder))
    return found


@pytest.fixture(scope="module")
def composed(
    tmp_path_factory: pytest.TempPathFactory, statistics_cache: Path
) -> Iterator[Composed]:
    folder = tmp_path_factory.mktemp("composed")
    (folder / "statistics").symlink_to(statistics_cache)
    (folder / "secrets").mkdir()
    (folder / "secrets/redis_password").write_text(f"{_PASSWORD}\n")
    (folder / "secrets/ray_token").write_text(f"{secrets.token_hex(32)}\n")
    ports = _ports(compose()["services"])
    (folder / "secrets/webhook").write_text("a secret of the test")
    (folder / "webhooks.toml").write_text(_WEBHOOKS)
    more = {
        "ERRATA_CATALOG__WEBHOOKS_FILE": str(folder / "webhooks.toml"),
        "ERRATA_TRACING__ENDPOINT": f"http://127.0.0.1:{(port := free_port())}",
        "ERRATA_TRACING__SAMPLE_RATIO": "1",
        "OTEL_BSP_SCHEDULE_DELAY": "200",  # ms
    }
    with (
        collecting(port) as collector,
        _running(Composed({}, ports, collector), folder, more) as made,
    ):
        yield made


@contextmanager
def _running(made: Composed, folder: Path, more: Mapping[str, str]) -> Iterator[Composed]:
    services, ports = compose()["services"], made.ports
    try:
        for name in _ORDER:
            log_path = folder / f"logs/{name}.log"
            if name == "redis":
                process = Process.start(
                    name, *_redis(services[name], ports[6379], folder), log_path
                )
                made.processes[name] = process
                process.wait_until(lambda p=process: "Ready to accept" in p.tail(), PATIENCE)
                continue
            service = services[name]
            environment = {**_environment(service, ports, folder), **more}
            command = [sys.executable, "-m", "errata.cli", *service["command"]]
            process = Process.start(name, command, environment, log_path)
            made.processes[name] = process
            if name == "workers":
                process.wait_until(lambda p=process: "workers serve" in p.tail(), PATIENCE)
            else:
                address = environment["ERRATA_SERVICE_ADDRESS"]
                process.wait_until(lambda a=address: health_of(a, 1.0) == "SERVING", PATIENCE)
        yield made
    finally:
        codes = {}
        for name in reversed(list(made.processes)):
            made.processes[name].stop(PATIENCE)
            codes[name] = made.processes[name].popen.returncode
    assert not any(codes.values()), {n: (c, made.processes[n].tail()) for n, c in codes.items()}


def _redis(service: Object, port: int, folder: Path) -> tuple[list[str], dict[str, str]]:
    """The file's own command, and an environment in which its program is found."""
    (folder / "redis").mkdir()
    (folder / "redis/redis-server").symlink_to(Path(redis_executable()).resolve())
    *shell, script = service["command"]
    script = script.replace("$$", "$").replace("/run/secrets/", f"{folder}/secrets/")
    script += f" --port {port} --bind 127.0.0.1 --dir {folder}/redis"
    return [*shell, script], {"PATH": f"{folder}/redis:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def edited(composed: Composed, corpus: Corpus) -> tuple[str, list[ReplicaAnswer]]:
    """What an edit should make the replicas say, and what they say."""
    edit = corpus.demo_edits()[0]
    tracer = TracerProvider().get_tracer("the caller's program")
    with (
        Client(composed.address(7700), timeout=PATIENCE) as client,
        tracer.start_as_current_span("correct a fact") as span,
    ):
        composed.caller = format_trace_id(span.get_span_context().trace_id)
        done = client.edit(edit.prompt, edit.target, subject=edit.subject, lane="lanes/facts")
        client.generate_everywhere("Nobody has corrected that", min_seq=done.commit_seq)
        return edit.target, client.generate_everywhere(
            edit.prompt, min_seq=done.commit_seq, stop=["."]
        )


def test_the_processes_make_a_system(
    composed: Composed, edited: tuple[str, list[ReplicaAnswer]]
) -> None:
    target, answers = edited
    assert [a.answer.text.strip() for a in answers if a.answer] == [target] * 2
    with Client(composed.address(7700), timeout=PATIENCE) as client:
        assert {replica.role for replica in client.replicas()} == _ROLES


def test_http_is_served_too(composed: Composed) -> None:
    with urllib.request.urlopen(
        f"http://{composed.address(7701)}/v1/replicas", timeout=PATIENCE
    ) as answer:
        roles = {replica["role"] for replica in json.load(answer)["replicas"]}
    assert roles == _ROLES


@pytest.mark.usefixtures("edited")
def test_every_metric_is_served_somewhere(composed: Composed) -> None:
    with urllib.request.urlopen(f"http://{composed.address(7701)}/health", timeout=PATIENCE):
        pass
    with _counted_canary(composed):
        found = {
            port: _metrics(composed.address(port)) for port in (9711, 9712, 9713, 9714, 9700, 9720)
        }
    assert set().union(*found.values()) == HELP.keys()
    replicas = {port for port, names in found.items() if "errata_replica_healthy" in names}
    assert replicas == {9713, 9714, 9720}, "what is no replica says nothing of a replica's health"


@contextmanager
def _counted_canary(composed: Composed) -> Iterator[None]:
    """An open canary, whose requests the writer has heard of."""
    with Client(composed.address(7700), timeout=PATIENCE) as client:
        client.set_canary("canaries/counted", 1.0, lane="lanes/facts")
        client.generate("Nobody has corrected that", max_tokens=1)
        wait(lambda: client.get_canary("canaries/counted").comparison, "it is counted")
        yield
        client.roll_back_canary("canaries/counted")


def test_every_server_reflects_its_services(composed: Composed) -> None:
    for port, service in _SERVICES.items():
        with grpc.insecure_channel(composed.address(port)) as channel:
            found = set(ProtoReflectionDescriptorDatabase(channel).get_services())
        assert {service, "grpc.health.v1.Health"} <= found


def test_no_log_holds_what_was_edited_or_asked(
    composed: Composed, edited: tuple[str, list[ReplicaAnswer]], corpus: Corpus
) -> None:
    edit = corpus.demo_edits()[0]
    written = {name: process.log_path.read_text() for name, process in composed.processes.items()}
    assert all(
        written[name] for name in ("log", "writer", "retrieval", "catalog", "workers", "gateway")
    )
    for name, text in written.items():
        assert edit.prompt not in text, name
        assert edited[0] not in text, name


def _metrics(address: str) -> set[str]:
    """Names of our metrics that have a value there."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE) as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    return {
        family.name if family.type != "counter" else f"{family.name}_total"
        for family in families
        if family.name.startswith("errata_")
        and any(not sample.name.endswith("_created") for sample in family.samples)
    }


@pytest.mark.usefixtures("edited")
def test_one_trace_leads_from_the_call_to_both_replicas(composed: Composed) -> None:
    wanted = {
        ("errata-gateway", "errata.v1.EditingService/SubmitEdits"),
        ("errata-writer", "errata.v1.EditingService/SubmitEdits"),
        ("errata-log", "errata.v1.EditLogService/Append"),
        ("errata-writer", "fit"),
        ("errata-worker", "apply"),
    }

    def found() -> list[tuple[str, str]]:
        return composed.collector.traces.get(composed.caller, [])

    wait(lambda: found().count(("errata-worker", "apply")) >= 2, "both replicas have applied it")
    wait(lambda: wanted <= set(found()), f"the trace holds all of it: {found()}")
    assert wanted <= set(found()), "the caller's own trace goes on inside"
    assert found().count(("errata-worker", "apply")) == 2
