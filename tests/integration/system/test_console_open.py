"""The console of a system without authentication: nobody signs in, and forms ask for a name."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx2
import pytest

from errata.demo import Corpus
from errata_client import Client
from tests.integration.system.conftest import System
from tests.waiting import PATIENCE


@pytest.fixture
def http(system: System) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=system.http_url, timeout=PATIENCE) as made:
        yield made


def test_pages_are_open_and_show_what_the_sdk_tells(http: httpx2.Client, client: Client) -> None:
    page = http.get("/console")
    assert page.status_code == 200
    for replica in client.replicas():
        assert replica.name in page.text
    assert "Sign out" not in page.text
    for lane in client.lanes():
        assert f">{lane.name.removeprefix('lanes/')}<" in http.get("/console/lanes").text
    assert client.head().chain_digest in http.get("/console/log").text


def test_a_form_asks_for_a_name_and_remembers_it(
    http: httpx2.Client, client: Client, corpus: Corpus
) -> None:
    page = http.get("/console/propose").text
    assert "Your name" in page
    code = re.search('name="form_code" value="([0-9a-f]{64})"', page)
    assert code is not None
    before = client.head().seq
    edit = corpus.demo_edits()[5]
    form = {"form_code": code[1], "act": "preview", "lane": "lanes/facts", "author": "zoë, the 1st"}
    form |= {"prompt": edit.prompt, "target": edit.target, "subject": edit.subject}
    answer = http.post("/console/propose", data=form)
    assert answer.status_code == 200, answer.text
    assert "It would take effect" in answer.text
    assert client.head().seq == before
    assert 'value="zoë, the 1st"' in http.get("/console/propose").text
    refused = http.post("/console/propose", data={**form, "form_code": "0" * 64})
    assert refused.status_code == 403
