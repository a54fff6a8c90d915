from __future__ import annotations

from typing import Any

import pytest

from errata_client import Chat, ChatMessage, EditSpec, InvalidRequestError, Prompt, ToolCall, _calls
from errata_client import _convert as convert
from errata_client._gen.errata.v1 import inference_pb2, types_pb2

CALL = ToolCall("1", "warmth", '{"in": "Pisa"}')
CHAT = Chat(
    (
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "How warm is Pisa?", name="ada"),
        ChatMessage("assistant", tool_calls=(CALL,)),
        ChatMessage("tool", "30 degrees", tool_call_id="1"),
    ),
    tools_json=('{"type": "function"}',),
)
AS_IN_OPENAI: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How warm is Pisa?", "name": "ada"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "1",
                "type": "function",
                "function": {"name": "warmth", "arguments": '{"in": "Pisa"}'},
            }
        ],
    },
    {"role": "tool", "content": "30 degrees", "tool_call_id": "1"},
]


def requested(prompt: Prompt) -> inference_pb2.GenerateRequest:
    options = dict.fromkeys(("min_seq", "max_tokens", "sampling", "num_alternatives"))
    request: inference_pb2.GenerateRequest = _calls.generate(prompt, stop=(), **options).request
    return request


@pytest.mark.parametrize("prompt", [CHAT.messages, list(CHAT.messages), AS_IN_OPENAI])
def test_messages_can_be_written_in_several_ways(prompt: Prompt) -> None:
    assert list(requested(prompt).chat.messages) == list(requested(CHAT).chat.messages)


def test_a_prompt_is_a_text_or_a_conversation() -> None:
    assert requested("Pisa").prompt == "Pisa"
    assert not requested("Pisa").HasField("chat")
    assert requested(CHAT).prompt == ""
    assert requested(CHAT).chat.tools_json == ['{"type": "function"}']


@pytest.mark.parametrize(
    "chat",
    [
        CHAT,
        Chat((ChatMessage("user", "Pisa?"),), add_generation_prompt=False),
        Chat(
            (ChatMessage("user", "Pisa?"), ChatMessage("assistant", "It is")),
            continue_final_message=True,
        ),
    ],
)
def test_an_edit_comes_back_as_it_was_submitted(chat: Chat) -> None:
    spec = EditSpec(
        chat, "Italy", "Pisa", rephrases=("Pisa is in", chat), locality_probes=(chat, "Lyon is in")
    )
    request = _calls.submit_edits([spec], "", "", None).request
    (message,) = request.edits
    found = convert.spec(message)
    assert found.prompt == chat
    assert found.rephrases == ("Pisa is in", chat)
    assert found.locality_probes == ("Lyon is in", chat), "texts first"
    assert types_pb2.EditSpec.FromString(message.SerializeToString()) == message


def test_the_prompt_at_fault_is_named_by_its_field() -> None:
    spec = EditSpec(
        "Pisa is in", "Italy", "Pisa", rephrases=("a", [{"role": "user", "content": 3}])
    )
    with pytest.raises(InvalidRequestError) as caught:
        _calls.submit_edits([spec], "", "", None)
    assert caught.value.field == "edits[0].chat_rephrases[0].messages[0].content"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "user", "contents": "a"}, "'contents'"),
        ({"content": "a"}, "needs a role"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "content is of type list"),
        ({"role": "user", "content": 0}, "content is of type int"),
        ({"role": "user", "content": "a", "name": 5}, "name is of type int"),
        ({"role": "tool", "content": "a", "tool_call_id": "\ud800"}, "lone surrogate"),
        (ChatMessage("assistant", tool_calls=(ToolCall("\ud800", "a", "{}"),)), "lone surrogate"),
        ("user: a", "no message"),
        (
            {"role": "assistant", "tool_calls": [{"id": "1"}]},
            "tool_calls",
        ),
    ],
)
def test_a_message_that_cannot_be_read_is_refused_by_place(message: Any, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words) as caught:
        requested([{"role": "user", "content": "Pisa?"}, message])
    assert str(caught.value.field).startswith("chat.messages[1]")
    assert "chat.messages[1]" in str(caught.value)


def test_a_conversation_reads_well() -> None:
    assert str(Chat((ChatMessage("user", "Pisa?"),))) == "user: Pisa?"
