"""A Ray cluster of Errata's is used by holders of its token alone, and listens here alone."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from errata.errors import StartupError
from errata.platform.addresses import free_port
from errata.platform.ray_access import restrict_ray
from errata.platform.settings import Settings, load_settings
from tests.waiting import PATIENCE

_TOKEN = secrets.token_hex(32)
_HEAD = """
from errata.platform.ray_access import restrict_ray
from errata.platform.settings import load_settings
settings = load_settings()
restrict_ray("workers", settings)
from errata.worker.cluster import head_node
with head_node(settings):
    print("up", flush=True)
    input()
"""
_DRIVER = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False)
except Exception as error:
    print("refused", error)
else:
    print("ran", ray.get(ray.remote(num_cpus=0)(lambda: 6 * 7).remote()))
"""
_GATEWAY = """
import sys
from errata.platform.ray_access import restrict_ray
from errata.platform.settings import load_settings
settings = load_settings({"gateway": {"ray_address": sys.argv[1]}})
restrict_ray("gateway", settings)
import ray
from errata.worker.cluster import joined_ray
with joined_ray(settings.gateway.ray_address):
    print("ran", ray.get(ray.remote(num_cpus=0)(lambda: 6 * 7).remote()))
"""
_BEYOND = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_RAY_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, psutil.Process]]:
    """The address and the process of a head."""
    folder = tmp_path_factory.mktemp("head")
    (folder / "token").write_text(_TOKEN)
    address = f"127.0.0.1:{free_port()}"
    variables = {
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "ERRATA_WORKER__RAY_ADDRESS": address,
        "HOME": str(folder),
    }
    with subprocess.Popen(
        [sys.executable, "-c", _HEAD],
        env={**_environment(folder), **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield address, psutil.Process(process.pid)
        process.communicate("\n", timeout=PATIENCE)


def _environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _RAY_VARIABLES}
    return {**kept, "HOME": str(home), **more}


def _driver(address: str, home: Path, **variables: str) -> str:
    return _said(_DRIVER, address, _environment(home, **{_BEYOND: "0"}, **variables))


def _said(code: str, address: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, address],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.stdout + done.stderr


def test_only_a_driver_with_the_token_runs_code(
    head: tuple[str, psutil.Process], tmp_path: Path
) -> None:
    address, _ = head
    mode = "RAY_AUTH_MODE"
    drivers: list[dict[str, str]] = [
        {},
        {mode: "disabled"},
        {mode: "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)},
        {mode: "token", "RAY_AUTH_TOKEN": _TOKEN},
    ]
    with ThreadPoolExecutor(len(drivers)) as threads:
        said = list(threads.map(lambda more: _driver(address, tmp_path, **more), drivers))
    for output in said[:3]:
        assert "refused" in output
        assert "InvalidAuthToken" in output
    assert "ran 42" in said[3]


def test_a_gateway_with_the_token_joins(head: tuple[str, psutil.Process], tmp_path: Path) -> None:
    address, _ = head
    said = _said(_GATEWAY, address, _environment(tmp_path, RAY_AUTH_TOKEN=_TOKEN))
    assert "ran 42" in said, said


def test_it_listens_on_this_machine_alone_and_has_no_dashboard(
    head: tuple[str, psutil.Process],
) -> None:
    address, process = head
    listening = {
        connection.laddr
        for each in (process, *process.children(recursive=True))
        for connection in each.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert int(address.rpartition(":")[2]) in {port for _, port in listening}
    assert {ip for ip, _ in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert 8265 not in {port for _, port in listening}


@pytest.fixture
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*_RAY_VARIABLES, _BEYOND):
        monkeypatch.setenv(name, "")  # so that what a test sets is taken back
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def _joining(address: str) -> Settings:
    return load_settings({"gateway": {"ray_address": address}})


@pytest.mark.usefixtures("_clean")
def test_without_a_token_neither_workers_nor_a_joining_gateway_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for start in (
        lambda: restrict_ray("workers", load_settings()),
        lambda: restrict_ray("gateway", _joining("10.0.0.1:6380")),
    ):
        with pytest.raises(StartupError, match=r"no token for Ray.*openssl rand -hex 32"):
            start()
        monkeypatch.setenv("RAY_AUTH_TOKEN", "short")
        with pytest.raises(StartupError, match="RAY_AUTH_TOKEN has 5 characters"):
            start()
        monkeypatch.delenv("RAY_AUTH_TOKEN")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
        with pytest.raises(StartupError, match="cannot be read"):
            start()
        (tmp_path / "token").write_text(f"{_TOKEN}\n")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
        start()
        monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")


@pytest.mark.usefixtures("_clean")
def test_ray_stays_on_this_machine_where_its_head_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", _TOKEN)
    restrict_ray("gateway", _joining("10.0.0.1:6380"))
    assert _BEYOND not in os.environ
    for start in (
        lambda: restrict_ray("workers", load_settings()),
        lambda: restrict_ray("gateway", _joining("127.0.0.1:6380")),
    ):
        start()
        assert os.environ.pop(_BEYOND) == "0"


@pytest.mark.usefixtures("_clean")
def test_ray_without_tokens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", _TOKEN)
    with pytest.raises(StartupError, match="RAY_AUTH_MODE is disabled"):
        restrict_ray("gateway", load_settings())


@pytest.mark.usefixtures("_clean")
def test_a_ray_of_ones_own_gets_a_new_token_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for _ in range(2):
        monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
        restrict_ray("gateway", load_settings())
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert os.environ[_BEYOND] == "0"
        seen.add(os.environ["RAY_AUTH_TOKEN"])
    assert len(seen) == 2
    assert min(map(len, seen)) == 64
