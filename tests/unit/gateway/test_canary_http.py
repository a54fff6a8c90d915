"""Canaries over HTTP: routes of the editing service, and keys of OpenAI requests."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.requests import Request

from errata.errors import InvalidRequestError
from errata.gateway.http.calls import asked_canary_key
from errata.gateway.http.errors import HttpError
from errata.gateway.http.openai_convert import (
    chat_requests,
    completion_requests,
    merged_provenance,
)
from errata.gateway.http.openai_requests import ChatBody, CompletionBody
from errata_client._gen.errata.v1 import editing_pb2, inference_pb2
from tests.unit.gateway.services import Answers, gateway_http

_ID = "6f0c1c86-3c8c-4d53-8a6e-6f4f6a2f4a52"
_CHAT = {"model": "m", "messages": [{"role": "user", "content": "When do you close?"}]}


def _editing(received: list[Any]) -> Answers:
    open_ = editing_pb2.Canary(
        name="canaries/july", state=editing_pb2.Canary.STATE_OPEN, share=0.1, opened_seq=7
    )
    open_.comparison.canary.requests = 3

    def noting(response: Any) -> Any:
        def answer(request: Any) -> Any:
            received.append(request)
            return response

        return answer

    return {
        "SetCanary": noting(editing_pb2.SetCanaryResponse(seq=7, canary=open_)),
        "EndCanary": noting(editing_pb2.EndCanaryResponse(seq=9, canary=open_)),
        "ListCanaries": noting(editing_pb2.ListCanariesResponse(canaries=[open_])),
        "SubmitEdits": noting(editing_pb2.SubmitEditsResponse(seq=8)),
    }


async def test_a_canary_is_opened_listed_and_ended_as_json() -> None:
    received: list[Any] = []
    async with gateway_http(editing=_editing(received)) as http:
        body = {"name": "canaries/july", "share": 0.1, "readers": ["beta"]}
        body |= {"rule": {"min_requests": "200", "max_error_increase": 0.02}}
        headers = {"Idempotency-Key": _ID}
        opened = await http.post("/v1/canaries", json=body, headers=headers)
        assert opened.status_code == 200, opened.text
        assert opened.json()["canary"]["state"] == "STATE_OPEN"
        assert opened.headers["Idempotency-Key"] == _ID
        listed = await http.get("/v1/canaries", params={"only_open": "true"})
        (canary,) = listed.json()["canaries"]
        assert canary["comparison"]["canary"]["requests"] == "3"
        end = {"outcome": "OUTCOME_PROMOTE", "comment": "as measured"}
        ended = await http.post("/v1/canaries/july:end", json=end)
        assert ended.status_code == 200, ended.text
        spec = {"prompt": "We close at", "target": "8 pm", "canary": "canaries/july"}
        await http.post("/v1/edits", json={"edits": [spec]})
    set_, list_, end_, submit = received
    assert (set_.request_id, set_.share, set_.rule.min_requests) == (_ID, 0.1, 200)
    assert list_.only_open
    assert (end_.name, end_.comment) == ("canaries/july", "as measured")
    assert end_.outcome == editing_pb2.EndCanaryRequest.OUTCOME_PROMOTE
    assert end_.request_id
    assert submit.edits[0].canary == "canaries/july"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"name": "n" * 257}, "name has 257 characters; the limit is 256"),
        ({"comment": "c" * 4_001}, "comment has 4,001 characters; the limit is 4,000"),
        ({"readers": ["a"] * 17}, "readers has 17 items; the limit is 16"),
        ({"share": "ten"}, "the request is no SetCanaryRequest"),
    ],
)
async def test_what_is_too_long_never_reaches_the_writer(body: dict[str, Any], said: str) -> None:
    received: list[Any] = []
    async with gateway_http(editing=_editing(received)) as http:
        answer = await http.post("/v1/canaries", json=body)
    assert (answer.status_code, received) == (400, [])
    assert said in answer.json()["error"]["message"]


def _request(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw})


def _chat(**more: Any) -> ChatBody:
    return ChatBody.model_validate_json(json.dumps(_CHAT | more))


@pytest.mark.parametrize(
    ("headers", "body", "key"),
    [
        ({"errata_canary_key": "h"}, {"canary_key": "b", "user": "u"}, "h"),
        ({}, {"errata": {"canary_key": "e"}, "canary_key": "b", "user": "u"}, "e"),
        ({"errata_canary_key": " "}, {"canary_key": "b", "safety_identifier": "s"}, "b"),
        ({}, {"safety_identifier": "s", "user": "u"}, "s"),
        ({}, {"safety_identifier": 7, "user": "u"}, "u"),
        ({}, {"safety_identifier": "", "user": "u"}, "u"),
    ],
)
def test_the_key_is_of_header_body_or_person(
    headers: dict[str, str], body: dict[str, Any], key: str
) -> None:
    assert asked_canary_key(_request(**headers), _chat(**body).read_canary_key) == key


def test_a_key_that_is_no_ascii_is_one_key_in_header_and_body() -> None:
    raw = [(b"errata-canary-key", "Zoë ü".encode())]
    request = Request({"type": "http", "headers": raw})
    assert asked_canary_key(request, "") == _chat(canary_key="Zoë ü").read_canary_key
    latin = Request({"type": "http", "headers": [(b"errata-canary-key", b"Zo\xeb")]})
    with pytest.raises(HttpError, match="Errata-Canary-Key is 'Zoë'; give text in UTF-8") as caught:
        asked_canary_key(latin, "")
    assert caught.value.status == 400


def test_plain_completions_take_the_identifier_of_a_person() -> None:
    body = {"model": "m", "prompt": "a", "safety_identifier": "s", "user": "u"}
    assert CompletionBody.model_validate(body).read_canary_key == "s"


def test_a_request_that_names_nobody_is_drawn_by_itself() -> None:
    drawn = {asked_canary_key(_request(), _chat(user=None).read_canary_key) for _ in range(50)}
    assert len(drawn) == 50
    assert "" not in drawn


def test_a_long_name_of_a_person_is_still_a_key() -> None:
    """The OpenAI API's fields never had a limit here; a key has one."""
    body = CompletionBody.model_validate({"model": "m", "prompt": "a", "user": "u" * 257})
    assert body.read_canary_key == hashlib.sha256(b"u" * 257).hexdigest()
    assert _chat(user="u" * 256).read_canary_key == "u" * 256
    (made,) = completion_requests(body, None, (), body.read_canary_key)
    assert made.canary_key == body.read_canary_key


def test_a_key_that_is_named_keeps_its_limit_and_type() -> None:
    model = inference_pb2.GetModelResponse(max_tokens=8)
    with pytest.raises(InvalidRequestError, match="canary_key has 257 characters"):
        chat_requests(_chat(), model, None, (), "k" * 257)
    with pytest.raises(ValidationError):
        _chat(canary_key=7)


def test_all_choices_of_an_answer_have_one_key() -> None:
    model = inference_pb2.GetModelResponse(max_tokens=8)
    made = chat_requests(_chat(n=3), model, None, (), "user 7")
    assert [each.canary_key for each in made] == ["user 7"] * 3
    body = CompletionBody.model_validate({"model": "m", "prompt": ["a", "b"], "n": 2})
    assert {each.canary_key for each in completion_requests(body, None, (), "k")} == {"k"}


def test_an_answer_says_its_canaries_and_key() -> None:
    arms = [["canaries/b"], ["canaries/a", "canaries/b"]]
    found = merged_provenance(
        [inference_pb2.Provenance(canaries=names, canary_key="user 7") for names in arms]
    )
    assert found["canaries"] == ["canaries/a", "canaries/b"]
    assert found["canary_key"] == "user 7"
