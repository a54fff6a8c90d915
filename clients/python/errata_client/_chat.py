"""Prompts in requests and responses: a text, or a conversation in a field of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from errata_client import errors, types
from errata_client._gen.errata.v1 import types_pb2

_SURROGATE = re.compile("[\ud800-\udfff]")
_MESSAGE_FIELDS = frozenset({"role", "content", "name", "tool_calls", "tool_call_id"})


def text(value: str, field: str) -> str:
    """Refuses lone surrogates, which protobuf's UTF-8 strings cannot encode, naming the field."""
    if match := _SURROGATE.search(value):
        raise errors.InvalidEditError(
            f"{field} has a lone surrogate at character {match.start()}; it is not valid text.",
            reason="INVALID_EDIT",
            field=field,
        )
    return value


def prompt_fields(prompt: types.Prompt, field: str) -> dict[str, Any]:
    """The fields `prompt` and `chat` of a request, of which one is set."""
    if isinstance(prompt, str):
        return {"prompt": text(prompt, field)}
    return {"chat": _chat(prompt, field)}


def texts_in(prompts: Iterable[types.Prompt], field: str) -> list[str]:
    """The prompts that are texts."""
    return [text(p, f"{field}[{i}]") for i, p in enumerate(prompts) if isinstance(p, str)]


def chats_in(prompts: Iterable[types.Prompt], field: str) -> list[types_pb2.Chat]:
    """The prompts that are conversations."""
    return [_chat(p, f"{field}[{i}]") for i, p in enumerate(prompts) if not isinstance(p, str)]


def prompt_of(message: types_pb2.EditSpec) -> types.Prompt:
    """The prompt of a correction."""
    return chat_of(message.chat) if message.HasField("chat") else message.prompt


def chat_of(message: types_pb2.Chat) -> types.Chat:
    """A conversation."""
    opens = message.HasField("add_generation_prompt")
    return types.Chat(
        tuple(
            types.ChatMessage(
                turn.role,
                turn.content,
                turn.name,
                tuple(
                    types.ToolCall(call.id, call.name, call.arguments_json)
                    for call in turn.tool_calls
                ),
                turn.tool_call_id,
            )
            for turn in message.messages
        ),
        tuple(message.tools_json),
        message.add_generation_prompt if opens else None,
        message.continue_final_message,
    )


def _chat(
    prompt: types.Chat | Sequence[types.ChatMessage | Mapping[str, Any]], field: str
) -> types_pb2.Chat:
    chat = prompt if isinstance(prompt, types.Chat) else None
    messages = prompt.messages if isinstance(prompt, types.Chat) else prompt
    made = types_pb2.Chat(
        messages=[
            _message(message, f"{field}.messages[{index}]")
            for index, message in enumerate(messages)
        ]
    )
    if chat is not None:
        made.tools_json.extend(text(tool, f"{field}.tools_json") for tool in chat.tools_json)
        made.continue_final_message = chat.continue_final_message
        if chat.add_generation_prompt is not None:
            made.add_generation_prompt = chat.add_generation_prompt
    return made


def _message(message: object, field: str) -> types_pb2.ChatMessage:
    if isinstance(message, Mapping):
        message = _of_mapping(message, field)
    if not isinstance(message, types.ChatMessage):
        raise _invalid(f"{field} is no message; give a ChatMessage or a mapping.", field)
    return types_pb2.ChatMessage(
        role=text(message.role, f"{field}.role"),
        content=text(message.content, f"{field}.content"),
        name=text(message.name, f"{field}.name"),
        tool_calls=[
            types_pb2.ToolCall(id=call.id, name=call.name, arguments_json=call.arguments_json)
            for call in message.tool_calls
        ],
        tool_call_id=message.tool_call_id,
    )


def _of_mapping(message: Mapping[str, Any], field: str) -> types.ChatMessage:
    """A message as the OpenAI API writes it."""
    if unknown := sorted(message.keys() - _MESSAGE_FIELDS):
        known = ", ".join(sorted(_MESSAGE_FIELDS))
        raise _invalid(f"{field} has the unknown field {unknown[0]!r}; known are {known}.", field)
    content = message.get("content") or ""
    if "role" not in message or not isinstance(content, str):
        raise _invalid(f"{field} needs a role, and a text as content.", field)
    return types.ChatMessage(
        role=str(message["role"]),
        content=content,
        name=message.get("name") or "",
        tool_calls=tuple(_tool_call(call, field) for call in message.get("tool_calls") or ()),
        tool_call_id=message.get("tool_call_id") or "",
    )


def _tool_call(call: Any, field: str) -> types.ToolCall:
    try:
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        call_id = call.get("id", "")
    except (AttributeError, KeyError, TypeError) as error:
        raise _invalid(
            f"{field}.tool_calls needs a function with name and arguments in each call.",
            f"{field}.tool_calls",
        ) from error
    return types.ToolCall(
        call_id, name, arguments if isinstance(arguments, str) else json.dumps(arguments)
    )


def _invalid(message: str, field: str) -> errors.InvalidRequestError:
    return errors.InvalidRequestError(message, reason="INVALID_REQUEST", field=field)
