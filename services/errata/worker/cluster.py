"""The Ray cluster of Errata's processes: started here, or joined."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import ray
import structlog
from ray import serve

from errata.errors import StartupError
from errata.platform.addresses import host_and_port
from errata.platform.ray_access import is_loopback
from errata.platform.settings import Settings
from errata.worker.deployment import build_app

_OBJECT_STORE_BYTES = 80 * 1024 * 1024
_NODE_SECONDS = 60.0

_log = structlog.get_logger(__name__)


@contextlib.contextmanager
def own_ray(settings: Settings) -> Iterator[Callable[[], bool]]:
    """Starts Ray with the workers in it, and stops both afterwards.

    Raises:
        StartupError: the workers did not start.
    """
    worker = settings.worker
    options: dict[str, Any] = {
        "address": "local",  # never another Ray cluster on this machine
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES,
        "num_cpus": _cpus(settings),
        "num_gpus": int(-(-worker.num_replicas * worker.num_gpus // 1)),
    }
    with _connected("gateway.ray_address", log_to_driver=True, configure_logging=False, **options):
        with _workers(settings):
            yield ray.is_initialized


@contextlib.contextmanager
def head_with_workers(settings: Settings) -> Iterator[None]:
    """Starts the head of a Ray cluster that others can join, with the workers in it.

    Raises:
        StartupError: the address is taken, or the workers did not start.
    """
    with joined_head(settings), _workers(settings):
        yield


@contextlib.contextmanager
def joined_head(settings: Settings) -> Iterator[None]:
    """Starts the head of a Ray cluster that others can join, and connects to it.

    Raises:
        StartupError: the address is taken.
    """
    # Its exact address: `auto` takes the cluster that last started on this machine.
    host, port = _head_address(settings)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    connection = {"address": address, "log_to_driver": True, **_located(host)}
    with head_node(settings), _connected("worker.ray_address", **connection):
        yield


@contextlib.contextmanager
def head_node(settings: Settings) -> Iterator[None]:
    """Starts the head of a Ray cluster: without dashboard and autoscaler.

    Only drivers and nodes with its token can join (`errata.platform.ray_access`).

    Raises:
        StartupError: the address is taken.
    """
    host, port = _head_address(settings)
    arguments = [
        *("--head", f"--port={port}", f"--node-ip-address={host}", "--include-dashboard=false"),
        "--no-monitor",
        *(f"--object-store-memory={_OBJECT_STORE_BYTES}", f"--num-cpus={_cpus(settings)}"),
    ]
    with _node(arguments):
        yield


@contextlib.contextmanager
def joined_ray(address: str) -> Iterator[Callable[[], bool]]:
    """Connects to a Ray cluster; starts a node on this machine if the head is on another one.

    The node offers no CPUs, so that no worker is placed on it.

    Args:
        address: host:port of the cluster's head; a loopback address means this machine.

    Yields:
        A function that returns whether the node is running; it ends with the cluster.

    Raises:
        StartupError: the cluster cannot be reached.
    """
    if is_loopback(host_and_port(address)[0]):
        with _connected("gateway.ray_address", address=address, log_to_driver=False):
            yield ray.is_initialized
        return
    own = _own_ip(address)
    node = [
        *(f"--address={address}", f"--node-ip-address={own}", "--num-cpus=0", "--num-gpus=0"),
        f"--object-store-memory={_OBJECT_STORE_BYTES}",
    ]
    with (
        _node(node) as is_running,
        _connected("gateway.ray_address", address=address, log_to_driver=False, **_located(own)),
    ):
        yield is_running


def _head_address(settings: Settings) -> tuple[str, int]:
    """Where the head listens: this machine's own address if its host is all of them."""
    host, port = host_and_port(settings.worker.ray_address)
    if host in ("0.0.0.0", "::"):
        host = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    return host, port


def _located(host: str) -> dict[str, str]:
    """Tells Ray which node this process is on, by the node's own address.

    Otherwise Ray guesses the machine's first address, or takes the process for one on the head's
    machine; answers then do not arrive.
    """
    return {} if is_loopback(host) else {"_node_ip_address": host}


def _own_ip(address: str) -> str:
    """This machine's own address on the route to another one; sends nothing.

    Raises:
        StartupError: the address cannot be reached.
    """
    host, port = host_and_port(address)
    try:
        family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise StartupError(
            f"gateway.ray_address {address} cannot be reached: {error}.", address=address
        ) from error


def _cpus(settings: Settings) -> int:
    """CPUs for placement, not cores: enough for the replicas and Serve itself."""
    return (
        settings.worker.node_cpus
        or int(settings.worker.num_replicas * settings.worker.num_cpus) + 2
    )


@contextlib.contextmanager
def _connected(setting: str, **options: Any) -> Iterator[None]:
    """Connects this process to Ray; the setting is the one to check where that fails."""
    try:
        ray.init(logging_level=logging.WARNING, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise StartupError(f"Ray cannot be reached: {error}. Check {setting}.") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _workers(settings: Settings) -> Iterator[None]:
    serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
    try:
        try:
            serve.run(build_app(settings), name=settings.gateway.application, route_prefix=None)
        except RuntimeError as error:
            raise StartupError(
                f"the workers did not start: {error}. See their messages above."
            ) from error
        yield
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _node(arguments: list[str]) -> Iterator[Callable[[], bool]]:
    """A Ray node that is a child of this process and ends with it."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments]
    process = subprocess.Popen(
        [*command, "--disable-usage-stats", "--block"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _wait_for_node(process)
        yield lambda: process.poll() is None
    finally:
        process.terminate()
        try:
            process.wait(_NODE_SECONDS)
        except subprocess.TimeoutExpired:
            _log.warning("a Ray node did not stop in time")
            process.kill()


def _wait_for_node(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Ray runtime started" in line:
            return
    raise StartupError(f"the Ray node did not start:\n{''.join(lines[-15:])}")
