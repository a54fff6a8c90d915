"""Searches, events and counts on a whole system, as people ask for them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from errata.demo import Corpus
from errata_client import AsyncClient, Client, InvalidRequestError
from tests.command_line import run_here
from tests.integration.catalog.receiver import receiver
from tests.integration.system.conftest import System
from tests.waiting import PATIENCE, wait

AUTHOR = "the catalogue's test"


def found_by(system: System, *options: str) -> list[dict[str, Any]]:
    done = run_here(["find", *options, "--json", "--target", system.target])
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_an_edit_is_found_told_of_and_counted(
    system: System, client: Client, corpus: Corpus
) -> None:
    edit = corpus.demo_edits()[9]
    made = client.edit(
        edit.prompt,
        edit.target,
        subject=edit.subject,
        source="ticket xyzzy-17",
        lane="lanes/facts",
        author=AUTHOR,
    )
    (found,) = client.find_edits("xyzzy", author=AUTHOR)
    assert found.seq >= made.commit_seq, "it never answers from before what was waited for"
    assert found.edit == client.get_edit(made.name)
    assert found.score > 0

    (shown,) = found_by(system, "xyzzy", "--author", AUTHOR, "--state", "committed")
    assert shown["edit"]["name"] == made.name
    assert not found_by(system, "xyzzy", "--lane", "lanes/main")
    listed = run_here(["find", '"ticket xyzzy"', "--target", system.target])
    assert made.name in listed.stdout
    refused = run_here(["find", "?!", "--target", system.target])
    assert refused.returncode == 1
    assert "give a word" in refused.stderr

    told = run_here(["events", "--edit", made.name, "--json", "--target", system.target])
    events = [json.loads(line) for line in told.stdout.splitlines()]
    assert [event["kind"] for event in events] == ["edit.requested", "edit.committed"]
    assert [event["seq"] for event in events][-1] == made.commit_seq
    assert events[0]["author"] == AUTHOR

    answer = client.generate(edit.prompt, max_tokens=2, min_seq=made.commit_seq)
    assert made.name in answer.provenance.edits
    list(client.stream(edit.prompt, max_tokens=2))

    def counted() -> int:
        return sum(c.answers for c in client.shaped_answers() if c.edit == made.name)

    wait(lambda: counted() >= 2, "the gateway reported its counts")


async def test_the_same_over_http_and_asynchronously(system: System, client: Client) -> None:
    async with AsyncClient(system.target, timeout=PATIENCE) as errata:
        names = [each.edit.name async for each in errata.find_edits(newest=True, limit=3)]
        assert len(names) == len(set(names)) <= 3
        events = [event async for event in errata.events(1, follow=False)]
        assert [event.name for event in events] == [e.name for e in client.events(1, follow=False)]
        until = datetime.now(UTC) - timedelta(days=9)
        assert [count async for count in errata.shaped_answers(until=until)] == []
    with httpx2.Client(base_url=system.http_url, timeout=PATIENCE) as http:
        query = {"order": "ORDER_NEWEST", "page_size": 3}
        page = http.get("/v1/edits:search", params=query).json()
        assert [each["edit"]["name"] for each in page["edits"]] == names
        refused = http.get("/v1/edits:search", params={"text": "?!"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "text")
        stream = http.get("/v1/events", params={"from_seq": 1, "until_now": "true"})
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert _names(stream.text)[: len(events)] == [event.name for event in events]
        last = {"Last-Event-ID": events[0].name}
        rest = http.get("/v1/events", params={"from_seq": 1, "until_now": "true"}, headers=last)
        assert _names(rest.text)[: len(events) - 1] == [event.name for event in events[1:]]
        wrong = http.get("/v1/events", params={"after": "nonsense"})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "after")
        assert http.get("/v1/shaped-answers").status_code == 200


def _names(text: str) -> list[str]:
    """Names of server-sent events; each is also in its data."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] != ":")
        if lines:
            assert json.loads(lines["data"])["name"] == lines["id"]
            found.append(lines["id"])
    return found


def test_kinds_that_do_not_exist_are_refused_here(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match=r"choose from .*edit\.committed"):
        list(client.events(1, kinds=["edit.eaten"], follow=False))


def test_a_webhooks_target_is_tried() -> None:
    with receiver() as server:
        said = run_here(["webhooks", "test", server.url])
        assert said.returncode == 1
        assert "not public" in said.stderr
        assert not server.requests
        said = run_here(["webhooks", "test", server.url, "--allow-private"])
        assert said.returncode == 0, said.stderr
        assert "whsec_" in said.stdout
        (request,) = server.requests
        assert request.body["type"] == "errata.ping"
