"""Free ports, and waiting for an address as a gateway waits for the Ray head that it joins."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest

from errata.errors import StartupError
from errata.platform import addresses
from errata.platform.addresses import LAST_FREE, free_port, wait_for_listener
from errata.platform.server import unless_stopped
from tests.waiting import PATIENCE


def test_the_kernel_gives_a_free_port_to_no_connection() -> None:
    """A service listens seconds after its port was chosen; meanwhile others connect."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        connections = [socket.create_connection(address) for _ in range(50)]
    given = {connection.getsockname()[1] for connection in connections}
    for connection in connections:
        connection.close()
    if min(given) <= LAST_FREE:
        pytest.skip("this kernel gives its connections lower ports than the usual ones")
    assert max(free_port() for _ in range(50)) < min(given)


def test_no_port_is_given_twice_before_somebody_listens_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """500 draws from 12,001 ports with this seed have pairs."""
    monkeypatch.setattr(addresses, "_chance", random.Random(1))
    monkeypatch.setattr(addresses, "_drawn", set())
    assert len({free_port() for _ in range(500)}) == 500


def test_ports_are_given_again_once_all_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_FIRST_FREE", LAST_FREE - 49)
    monkeypatch.setattr(addresses, "_drawn", set())
    given = [free_port() for _ in range(120)]
    assert set(given) <= set(range(LAST_FREE - 49, LAST_FREE + 1))


async def test_it_waits_for_a_head_that_starts_later() -> None:
    port = free_port()
    waiting = asyncio.create_task(wait_for_listener(f"127.0.0.1:{port}", "a setting", PATIENCE))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    with socket.create_server(("127.0.0.1", port)):
        await asyncio.wait_for(waiting, PATIENCE)


async def test_the_error_for_a_missing_head_names_the_setting() -> None:
    with pytest.raises(StartupError, match=r"which gateway\.ray_address names"):
        await wait_for_listener("nowhere.invalid:6379", "gateway.ray_address", 0.0)


async def test_stopping_ends_the_wait() -> None:
    stop = asyncio.Event()
    waiting = asyncio.create_task(
        unless_stopped(
            wait_for_listener(f"127.0.0.1:{free_port()}", "a setting", 10 * PATIENCE), stop
        )
    )
    await asyncio.sleep(0.1)
    stop.set()
    assert await asyncio.wait_for(waiting, PATIENCE) is False
    assert await unless_stopped(asyncio.sleep(0), asyncio.Event()) is True
