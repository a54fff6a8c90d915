"""The application alone: services that are away, metrics by route, health."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from prometheus_client import REGISTRY

from errata.gateway.http.app import build_app
from errata.platform.addresses import free_port
from errata.platform.server import open_channel
from errata.platform.settings import GatewaySettings
from tests.waiting import PATIENCE


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    """No service answers, and there are no workers."""
    pool: Any = None
    async with open_channel(f"127.0.0.1:{free_port()}") as nobody:
        transport = httpx2.ASGITransport(build_app(pool, nobody, nobody, nobody, GatewaySettings()))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as made:
            yield made


async def test_a_service_that_is_away_is_named(http: httpx2.AsyncClient) -> None:
    for path, service in (("/v1/edits", "EditingService"), ("/v1/log/head", "EditLogService")):
        answer = await http.get(path, timeout=PATIENCE)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (503, "unavailable")
        assert service in error["message"]
        assert error["errata"]["metadata"] == {"service": service}


async def test_requests_are_counted_by_their_route(http: httpx2.AsyncClient) -> None:
    def count(route: str, status: str) -> float:
        labels = {"route": route, "status": status}
        return REGISTRY.get_sample_value("errata_http_requests_total", labels) or 0

    before = count("/v1/edits/{edit}", "503"), count("unmatched", "404")
    await http.get("/v1/edits/8-0")
    await http.get("/what/a/client/made/up")
    assert count("/v1/edits/{edit}", "503") == before[0] + 1
    assert count("unmatched", "404") == before[1] + 1
    timed = {"route": "/v1/edits/{edit}"}
    assert REGISTRY.get_sample_value("errata_http_seconds_count", timed)


async def test_health_needs_no_other_service(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "SERVING")
