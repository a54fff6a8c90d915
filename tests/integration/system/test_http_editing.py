"""Editing and the log as JSON: the main job without a line of gRPC."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import httpx2
import jsonschema
import pytest

from errata.demo import Corpus
from errata_client import Client
from tests.integration.system.conftest import System
from tests.waiting import PATIENCE


@pytest.fixture
def http(system: System) -> Iterator[httpx2.Client]:
    headers = {"X-Request-Timeout": str(PATIENCE)}
    with httpx2.Client(base_url=system.http_url, timeout=PATIENCE, headers=headers) as made:
        yield made


def _ok(answer: httpx2.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_an_edit_is_made_waited_for_found_and_reverted(
    http: httpx2.Client, client: Client, corpus: Corpus
) -> None:
    edit = corpus.demo_edits()[3]
    spec = {"prompt": edit.prompt, "target": edit.target, "subject": edit.subject}
    asked = {"edits": [spec], "lane": "lanes/facts", "author": "a test"}
    request_id = str(uuid.uuid4())
    accepted = http.post("/v1/edits", json=asked, headers={"Idempotency-Key": request_id})
    name = _ok(accepted)["edits"][0]["name"]
    again = http.post("/v1/edits", json={**asked, "request_id": request_id})
    assert _ok(again)["seq"] == accepted.json()["seq"], "the same request has one effect"
    assert again.headers["Idempotency-Key"] == request_id
    other = http.post("/v1/edits", json={"request_id": request_id, "edits": [spec]})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "request_id_reused")

    waited = _ok(http.post("/v1/edits:wait", json={"names": [name]}))
    assert waited["all_settled"] is True
    found = _ok(http.get(f"/v1/{name}"))["edit"]
    assert found == waited["edits"][0]
    assert found["state"] == "STATE_COMMITTED"
    assert found["spec"]["target"] == edit.target
    assert int(found["commit_seq"]) == client.get_edit(name).commit_seq

    query = {"state": "STATE_COMMITTED", "author": "a test", "contains": edit.target}
    listed = _ok(http.get("/v1/edits", params=query))["edits"]
    assert name in [each["name"] for each in listed]
    assert _ok(http.get("/v1/edits", params={**query, "author": "nobody"}))["edits"] == []

    model = http.get("/v1/models").json()["data"][0]["id"]
    body = {"model": model, "prompt": edit.prompt, "temperature": 0}
    body["min_seq"] = int(found["commit_seq"])
    answer = _ok(http.post("/v1/completions", json=body))
    assert answer["choices"][0]["text"].strip().startswith(edit.target)

    reverted = http.post("/v1/edits:revert", json={"names": [name], "comment": "done"})
    seq = int(_ok(reverted)["seq"])
    assert uuid.UUID(reverted.headers["Idempotency-Key"])
    entries = _ok(http.get("/v1/log/entries", params={"from_seq": seq, "page_size": 1}))["entries"]
    assert entries[0]["content"]["edits_reverted"]["comment"] == "done"
    assert entries[0]["content"]["edits_reverted"]["edits"] == [name]
    twice = http.post("/v1/edits:revert", json={"names": [name]})
    assert (twice.status_code, twice.json()["error"]["code"]) == (400, "edit_not_revertible")
    assert twice.json()["error"]["errata"]["metadata"]["state"] == "reverted"


def test_lanes_head_and_replicas_are_those_of_grpc(http: httpx2.Client, client: Client) -> None:
    assert [each["name"] for each in _ok(http.get("/v1/lanes"))["lanes"]] == [
        lane.name for lane in client.lanes()
    ]
    head = _ok(http.get("/v1/log/head"))
    assert int(head["head_seq"]) == client.head().seq
    replicas = _ok(http.get("/v1/replicas"))["replicas"]
    assert {each["replica"] for each in replicas} == {each.name for each in client.replicas()}


def test_pages_follow_one_another(http: httpx2.Client, client: Client) -> None:
    seqs, token = [], ""
    while True:
        page = _ok(http.get("/v1/log/entries", params={"page_size": 3, "page_token": token}))
        seqs += [int(entry["seq"]) for entry in page["entries"]]
        token = page["next_page_token"]
        if not token:
            break
    assert seqs == list(range(1, client.head().seq + 1))


@pytest.mark.parametrize(
    ("verb", "path", "more", "status", "code"),
    [
        ("GET", "/v1/edits/999-0", {}, 404, "not_found"),
        ("GET", "/v1/edits", {"params": {"page_size": "x"}}, 400, "invalid_request"),
        ("GET", "/v1/edits", {"params": {"colour": "red"}}, 400, "invalid_request"),
        ("GET", "/v1/edits?lane=a&lane=b", {}, 400, "invalid_request"),
        ("GET", "/v1/log/entries", {"params": {"from_seq": -1}}, 400, "invalid_request"),
        ("POST", "/v1/edits", {"json": {"edits": []}}, 400, "invalid_request"),
        ("POST", "/v1/edits", {"json": {"edits": [{"text": "x"}]}}, 400, "invalid_request"),
        (
            "POST",
            "/v1/edits",
            {"content": b'{"edits": [{"target": "\\ud800"}]}'},
            400,
            "invalid_request",
        ),
        (
            "POST",
            "/v1/edits",
            {"json": {"edits": [{"prompt": "", "target": "x"}]}},
            400,
            "invalid_edit",
        ),
        ("POST", "/v1/edits", {"json": {"edits": [{}], "request_id": "7"}}, 400, "invalid_request"),
        ("POST", "/v1/edits", {"json": {"edits": [{"prompt": "a"}] * 101}}, 400, "limit_exceeded"),
        ("POST", "/v1/edits:wait", {"json": {"names": ["edits/999-0"]}}, 404, "not_found"),
        ("POST", "/v1/lanes/none:compact", {}, 400, "unknown_lane"),
    ],
)
def test_bad_requests_change_nothing(
    http: httpx2.Client,
    client: Client,
    verb: str,
    path: str,
    more: dict[str, Any],
    status: int,
    code: str,
) -> None:
    before = client.head()
    answer = http.request(verb, path, **more)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), error
    assert error["message"].endswith(".")
    assert client.head() == before


def test_answers_are_as_the_document_describes_them(http: httpx2.Client) -> None:
    document = _ok(http.get("/openapi.json"))
    checked = 0
    for path in ("/v1/edits", "/v1/lanes", "/v1/log/head", "/v1/log/entries", "/v1/replicas"):
        operation = document["paths"][path]["get"]
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        whole = {**schema, "components": _closed(document["components"])}
        answer = _ok(http.get(path))
        for entry in answer.get("entries", ()):
            del entry["content"]  # in addition to the message
        jsonschema.validate(answer, whole)
        checked += bool(answer)
    assert checked == 5
    shown = http.get("/docs")
    assert shown.headers["content-type"].startswith("text/html")
    assert "/v1/edits:revert" in shown.text
    assert "src=" not in shown.text, "it loads nothing"


def _closed(components: dict[str, Any]) -> dict[str, Any]:
    """Refuses unknown keys: else an empty schema would fit everything."""
    schemas = {
        name: {**schema, "additionalProperties": False} if "properties" in schema else schema
        for name, schema in components["schemas"].items()
    }
    return {**components, "schemas": schemas}
