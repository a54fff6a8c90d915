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


def prompt_fields(prompt: types.Prompt, parent: str = "") -> dict[str, Any]:
    """The fields `prompt` and `chat` of a message, of which one is set; `parent` ends in a dot."""
    if isinstance(prompt, str):
        return {"prompt": text(prompt, f"{parent}prompt")}
    return {"chat": _chat(prompt, f"{parent}chat")}


def texts_in(prompts: Iterable[types.Prompt], field: str) -> list[str]:
    """The prompts that are texts."""
    texts = (prompt for prompt in prompts if isinstance(prompt, str))
    return [text(prompt, f"{field}[{number}]") for number, prompt in enumerate(texts)]


def chats_in(prompts: Iterable[types.Prompt], field: str) -> list[types_pb2.Chat]:
    """The prompts that are conversations."""
    chats = (prompt for prompt in prompts if not isinstance(prompt, str))
    return [_chat(prompt, f"{field}[{number}]") for number, prompt in enumerate(chats)]


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
        role=_checked(message.role, f"{field}.role"),
        content=_checked(message.content, f"{field}.content"),
        name=_checked(message.name, f"{field}.name"),
        tool_calls=[
            types_pb2.ToolCall(
                id=_checked(call.id, f"{field}.tool_calls[{number}].id"),
                name=_checked(call.name, f"{field}.tool_calls[{number}].name"),
                arguments_json=_checked(
                    call.arguments_json, f"{field}.tool_calls[{number}].arguments_json"
                ),
            )
            for number, call in enumerate(message.tool_calls)
        ],
        tool_call_id=_checked(message.tool_call_id, f"{field}.tool_call_id"),
    )


def _checked(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise _invalid(f"{field} is of type {type(value).__name__}; give a text.", field)
    return text(value, field)


def _of_mapping(message: Mapping[str, Any], field: str) -> types.ChatMessage:
    """A message as the OpenAI API writes it; None is as good as nothing."""
    if unknown := sorted(message.keys() - _MESSAGE_FIELDS):
        known = ", ".join(sorted(_MESSAGE_FIELDS))
        raise _invalid(f"{field} has the unknown field {unknown[0]!r}; known are {known}.", field)
    given = {name: value for name, value in message.items() if value is not None}
    if "role" not in given:
        raise _invalid(f"{field} needs a role.", field)
    calls = given.pop("tool_calls", ())
    return types.ChatMessage(
        **given,
        tool_calls=tuple(
            _tool_call(call, f"{field}.tool_calls[{number}]") for number, call in enumerate(calls)
        ),
    )


def _tool_call(call: Any, field: str) -> types.ToolCall:
    try:
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        as_json = arguments if isinstance(arguments, str) else json.dumps(arguments)
        return types.ToolCall(call.get("id", ""), name, as_json)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _invalid(
            f"{field} needs a function with a name, and arguments that are JSON.", field
        ) from error


def _invalid(message: str, field: str) -> errors.InvalidRequestError:
    return errors.InvalidRequestError(message, reason="INVALID_REQUEST", field=field)
