"""Searches and events over HTTP: the gateway's application before a real catalog."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest_asyncio

from errata.gateway.http.app import build_app
from errata.platform.addresses import free_port
from errata.platform.server import open_channel
from errata.platform.settings import GatewaySettings
from tests.integration.catalog.rig import Rig, edit
from tests.integration.log import entries


@pytest_asyncio.fixture
async def http(rig: Rig) -> AsyncIterator[httpx2.AsyncClient]:
    pool: Any = None
    async with rig.serving() as served, open_channel(f"127.0.0.1:{free_port()}") as nobody:
        app = build_app(pool, nobody, nobody, served.channel, GatewaySettings())
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as made:
            yield made


def events_in(text: str) -> list[dict[str, Any]]:
    """Server-sent events; each has its name as its id."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] != ":")
        if lines:
            content = json.loads(lines["data"])
            assert content["name"] == lines["id"]
            found.append(content)
    return found


async def test_edits_are_searched(rig: Rig, http: httpx2.AsyncClient) -> None:
    first, second = await rig.request(
        edit("The capital of Freedonia is"), edit("The river of Freedonia is")
    )
    commit = await rig.append(entries.commit(second))
    query: dict[str, Any] = {"text": "freedonia", "min_seq": commit, "page_size": 1}
    page = (await http.get("/v1/edits:search", params=query)).json()
    more = {**query, "page_token": page["next_page_token"]}
    rest = (await http.get("/v1/edits:search", params=more)).json()
    assert not rest["next_page_token"]
    names = [each["edit"]["name"] for each in (*page["edits"], *rest["edits"])]
    assert sorted(names) == [first, second]
    states = {"states": "STATE_COMMITTED", "order": "ORDER_NEWEST"}
    found = (await http.get("/v1/edits:search", params=query | states)).json()
    assert [each["edit"]["name"] for each in found["edits"]] == [second]
    for wrong, param in (({"text": "?!"}, "text"), ({"page_token": "x"}, "page_token")):
        refused = await http.get("/v1/edits:search", params=wrong)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


async def test_events_are_server_sent_and_continue(rig: Rig, http: httpx2.AsyncClient) -> None:
    names = await rig.request(*(edit(f"The capital of {k} Freedonia is") for k in range(3)))
    seq = int(names[0].split("/")[1].split("-")[0])
    await http.get("/v1/edits:search", params={"min_seq": seq})  # else `now` may be before it
    query = {"from_seq": seq, "until_now": "true"}
    stream = await http.get("/v1/events", params=query)
    assert stream.headers["content-type"].startswith("text/event-stream")
    found = events_in(stream.text)
    assert [(each["edit"], each["kind"]) for each in found] == [
        (name, "KIND_EDIT_REQUESTED") for name in names
    ]
    assert f": seq {seq}" in stream.text, "the last message is progress"
    last = {"Last-Event-ID": found[0]["name"]}
    rest = await http.get("/v1/events", params=query, headers=last)
    assert events_in(rest.text) == found[1:]
    for wrong, param in (({"after": "x"}, "after"), ({"until_now": "maybe"}, None)):
        refused = await http.get("/v1/events", params=wrong)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


async def test_counts_are_empty_at_first(http: httpx2.AsyncClient) -> None:
    assert (await http.get("/v1/shaped-answers")).json()["counts"] == []
