"""Bad input over HTTP: a status, a code, the parameter, a remedy; and nothing changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from errata_client import Client
from tests.integration.system.conftest import System
from tests.waiting import PATIENCE

USER = {"role": "user", "content": "hello"}
CHAT = "/v1/chat/completions"
PLAIN = "/v1/completions"
IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}

# name: (path, body beside the model, status, code, param)
CASES: dict[str, tuple[str, dict[str, Any], int, str, str | None]] = {
    "no messages": (CHAT, {}, 400, "missing_required_parameter", "messages"),
    "an empty list": (CHAT, {"messages": []}, 400, "invalid_value", "messages"),
    "an unknown role": (
        CHAT,
        {"messages": [{"role": "oracle", "content": "x"}]},
        *(400, "invalid_value", "messages[0].role"),
    ),
    "no role": (
        CHAT,
        {"messages": [USER, {"content": "x"}]},
        *(400, "missing_required_parameter", "messages[1].role"),
    ),
    "an image": (
        CHAT,
        {"messages": [{"role": "user", "content": [IMAGE]}]},
        *(400, "unsupported_parameter", "messages[0].content"),
    ),
    "a number as content": (
        CHAT,
        {"messages": [{"role": "user", "content": 7}]},
        *(400, "invalid_value", "messages[0].content"),
    ),
    "an unknown field": (
        CHAT,
        {"messages": [USER], "temprature": 1},
        *(400, "unknown_parameter", "temprature"),
    ),
    "an unknown field inside": (
        CHAT,
        {"messages": [{**USER, "mood": "good"}]},
        *(400, "unknown_parameter", "messages[0].mood"),
    ),
    "a penalty": (
        CHAT,
        {"messages": [USER], "frequency_penalty": 0.5},
        *(400, "unsupported_parameter", "frequency_penalty"),
    ),
    "JSON mode": (
        CHAT,
        {"messages": [USER], "response_format": {"type": "json_object"}},
        *(400, "unsupported_parameter", "response_format"),
    ),
    "a tool that must be called": (
        CHAT,
        {"messages": [USER], "tool_choice": "required"},
        *(400, "unsupported_parameter", "tool_choice"),
    ),
    "alternatives of nothing": (
        CHAT,
        {"messages": [USER], "top_logprobs": 2},
        *(400, "invalid_value", "top_logprobs"),
    ),
    "two limits": (
        CHAT,
        {"messages": [USER], "max_tokens": 2, "max_completion_tokens": 3},
        *(400, "invalid_value", "max_tokens"),
    ),
    "a conversation with a model that takes none": (
        CHAT,
        {"messages": [USER]},
        *(400, "invalid_request", "messages"),
    ),
    "no prompt": (PLAIN, {}, 400, "missing_required_parameter", "prompt"),
    "no prompts": (PLAIN, {"prompt": []}, 400, "invalid_value", "prompt"),
    "token ids": (PLAIN, {"prompt": [1, 2]}, 400, "unsupported_parameter", "prompt"),
    "an empty prompt": (PLAIN, {"prompt": " "}, 400, "invalid_request", "prompt"),
    "an echo": (PLAIN, {"prompt": "a", "echo": True}, 400, "unsupported_parameter", "echo"),
    "a suffix": (PLAIN, {"prompt": "a", "suffix": "b"}, 400, "unsupported_parameter", "suffix"),
    "the best of two": (
        PLAIN,
        {"prompt": "a", "best_of": 2},
        400,
        "unsupported_parameter",
        "best_of",
    ),
    "a bias": (
        PLAIN,
        {"prompt": "a", "logit_bias": {"1": 9}},
        *(400, "unsupported_parameter", "logit_bias"),
    ),
    "no choice": (PLAIN, {"prompt": "a", "n": 0}, 400, "invalid_value", "n"),
    "a thousand choices": (PLAIN, {"prompt": "a", "n": 1_000}, 400, "invalid_value", "n"),
    "choices of many prompts": (
        PLAIN,
        {"prompt": ["a"] * 65, "n": 2},
        *(400, "invalid_value", "prompt"),
    ),
    "too hot": (PLAIN, {"prompt": "a", "temperature": 99}, 400, "invalid_request", "temperature"),
    "nearly no temperature": (
        PLAIN,
        {"prompt": "a", "temperature": 1e-39},
        *(400, "invalid_request", "temperature"),
    ),
    "a prompt of two million characters": (
        PLAIN,
        {"prompt": "a" * 2_000_000},
        *(400, "invalid_request", "prompt"),
    ),
    "stacked marks": (
        CHAT,
        {"messages": [{"role": "user", "content": "a" + "\u0301\u0316" * 50}]},
        *(400, "invalid_request", "messages[0].content"),
    ),
    "a text as temperature": (
        PLAIN,
        {"prompt": "a", "temperature": "1"},
        *(400, "invalid_value", "temperature"),
    ),
    "no share of the tokens": (PLAIN, {"prompt": "a", "top_p": 0}, 400, "invalid_request", "top_p"),
    "no tokens": (PLAIN, {"prompt": "a", "max_tokens": 0}, 400, "invalid_request", "max_tokens"),
    "too many tokens": (
        PLAIN,
        {"prompt": "a", "max_tokens": 10**6},
        *(400, "limit_exceeded", "max_tokens"),
    ),
    "more tokens than a number holds": (
        PLAIN,
        {"prompt": "a", "max_tokens": 10**12},
        *(400, "invalid_value", "max_tokens"),
    ),
    "too many alternatives": (
        PLAIN,
        {"prompt": "a", "logprobs": 21},
        400,
        "invalid_value",
        "logprobs",
    ),
    "an empty stop text": (PLAIN, {"prompt": "a", "stop": ""}, 400, "invalid_request", "stop[0]"),
    "a negative position": (PLAIN, {"prompt": "a", "min_seq": -1}, 400, "invalid_value", "min_seq"),
    "another model": (PLAIN, {"prompt": "a", "model": "x"}, 404, "model_not_found", "model"),
    "no model": (PLAIN, {"prompt": "a", "model": None}, 400, "invalid_value", "model"),
    "a prompt beyond the window": (
        PLAIN,
        {"prompt": "word " * 5_000},
        *(400, "invalid_request", "prompt"),
    ),
}


@pytest.fixture
def http(system: System) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=system.http_url, timeout=PATIENCE) as made:
        yield made


@pytest.fixture
def model(http: httpx2.Client) -> str:
    return str(http.get("/v1/models").json()["data"][0]["id"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_bad_requests_are_told_what_is_wrong(
    http: httpx2.Client, client: Client, model: str, case: str, stream: bool
) -> None:
    path, body, status, code, param = CASES[case]
    before = client.head()
    answer = http.post(path, json={"model": model, "stream": stream, **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param), error
    assert error["type"] == "invalid_request_error"
    assert error["message"].endswith(".")
    assert client.head() == before


@pytest.mark.parametrize("path", [CHAT, PLAIN, "/v1/edits"])
@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"hello", b'{"a": "\xff"}', b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(
    http: httpx2.Client, path: str, body: bytes
) -> None:
    answer = http.post(path, content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].endswith(".")


@pytest.mark.parametrize("path", [CHAT, PLAIN, "/v1/edits"])
def test_a_body_that_is_too_large_is_refused_before_it_is_read(
    http: httpx2.Client, path: str
) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(5):
            yield b" " * 1024 * 1024

    for content in (b" " * (4 * 1024 * 1024 + 1), parts()):
        answer = http.post(path, content=content)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"


def test_headers_that_say_nothing_are_refused(http: httpx2.Client, model: str) -> None:
    body = {"model": model, "prompt": "a", "max_tokens": 1}
    for name, value in (
        ("X-Errata-Min-Seq", "-1"),
        ("X-Errata-Min-Seq", "soon"),
        ("X-Errata-Min-Seq", str(2**63)),
        ("X-Request-Timeout", "0"),
        ("X-Request-Timeout", "inf"),
        ("X-Request-Timeout", "later"),
    ):
        answer = http.post(PLAIN, json=body, headers={name: value})
        assert answer.status_code == 400, (name, value)
        assert answer.json()["error"]["param"] == name


def test_other_paths_and_methods_are_refused(http: httpx2.Client) -> None:
    for verb, path, status in (
        ("GET", "/v1/embeddings", 404),
        ("GET", PLAIN, 405),
        ("DELETE", "/v1/edits", 405),
        ("GET", "/v1/models/another", 404),
    ):
        answer = http.request(verb, path)
        assert answer.status_code == status, path
        assert answer.json()["error"]["message"].endswith(".")
