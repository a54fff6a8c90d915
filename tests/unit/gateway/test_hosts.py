"""Which hosts requests may name: no web page reaches a gateway without authentication."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from errata.errors import StartupError
from errata.gateway.http.app import build_app
from errata.gateway.http.hosts import LOOPBACK, allowed_hosts
from errata.platform.addresses import free_port
from errata.platform.server import open_channel
from errata.platform.settings import GatewaySettings


@pytest.mark.parametrize(
    ("setting", "listens_on", "authenticated", "expected"),
    [
        ("", "127.0.0.1", False, LOOPBACK),
        ("", "::1", False, LOOPBACK),
        ("", "127.0.0.2", False, LOOPBACK),
        ("", "localhost", False, LOOPBACK),
        ("", "127.0.0.1", True, frozenset()),
        ("", "0.0.0.0", False, frozenset()),
        ("*", "127.0.0.1", False, frozenset()),
        ("[::1], 10.0.0.7", "0.0.0.0", False, {"::1", "10.0.0.7"}),
        (" Errata.example, b ", "0.0.0.0", True, {"errata.example", "b"}),
    ],
)
def test_who_decides(
    setting: str, listens_on: str, authenticated: bool, expected: frozenset[str]
) -> None:
    assert allowed_hosts(setting, listens_on, authenticated=authenticated) == expected


@pytest.mark.parametrize("setting", ["errata.example:443", "a b", "https://errata.example", "x,é"])
def test_what_is_no_host_is_refused_at_the_start(setting: str) -> None:
    with pytest.raises(StartupError, match="without ports"):
        allowed_hosts(setting, "127.0.0.1", authenticated=False)


async def _answer(host: str, path: str, **settings: object) -> httpx2.Response:
    pool: Any = None
    async with open_channel(f"127.0.0.1:{free_port()}") as nobody:
        made = GatewaySettings.model_validate({"console": True, **settings})
        transport = httpx2.ASGITransport(build_app(pool, nobody, nobody, nobody, made))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await http.get(path, headers={"Host": host})


@pytest.mark.parametrize("path", ["/health", "/console", "/openapi.json", "/v1/what"])
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:77",
        "127.0.0.1.evil.example",
        "a{b}.evil.example",
        'a"b.evil.example',
        "a`b",
        "localhost|evil",
        "localhost evil",
        "localhost:port",
        "",
    ],
)
async def test_another_host_is_refused_before_anything_else(path: str, host: str) -> None:
    answer = await _answer(host, path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (421, "unknown_host")
    assert "ERRATA_GATEWAY__ALLOWED_HOSTS" in error["message"]


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:7701", "localhost.:1", "127.0.0.1:1", "[::1]:77"]
)
async def test_this_machine_is_answered(host: str) -> None:
    assert (await _answer(host, "/health")).status_code == 200


async def test_a_named_host_is_answered_and_no_other() -> None:
    named = {"allowed_hosts": "errata.example"}
    assert (await _answer("errata.example:443", "/health", **named)).status_code == 200
    assert (await _answer("localhost", "/health", **named)).status_code == 421
