"""Conversations: proto ↔ domain."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from errata.editing.chat import Chat, Message, Prompt, ToolCall
from errata_client._gen.errata.v1 import types_pb2


def chat_of(message: types_pb2.Chat) -> Chat:
    """A conversation."""
    opens = not message.continue_final_message
    return Chat(
        messages=tuple(
            Message(
                role=turn.role,
                content=turn.content,
                name=turn.name,
                tool_calls=tuple(
                    ToolCall(call.id, call.name, call.arguments_json) for call in turn.tool_calls
                ),
                tool_call_id=turn.tool_call_id,
            )
            for turn in message.messages
        ),
        tools_json=tuple(message.tools_json),
        add_generation_prompt=(
            message.add_generation_prompt if message.HasField("add_generation_prompt") else opens
        ),
        continue_final_message=message.continue_final_message,
    )


def chat_message(chat: Chat) -> types_pb2.Chat:
    """The message of a conversation."""
    return types_pb2.Chat(
        messages=[
            types_pb2.ChatMessage(
                role=turn.role,
                content=turn.content,
                name=turn.name,
                tool_calls=[
                    types_pb2.ToolCall(
                        id=call.id, name=call.name, arguments_json=call.arguments_json
                    )
                    for call in turn.tool_calls
                ],
                tool_call_id=turn.tool_call_id,
            )
            for turn in chat.messages
        ],
        tools_json=chat.tools_json,
        add_generation_prompt=chat.add_generation_prompt,
        continue_final_message=chat.continue_final_message,
    )


def prompts_of(texts: Iterable[str], chats: Collection[types_pb2.Chat]) -> tuple[Prompt, ...]:
    """Prompts that travel in two fields: the texts first."""
    return (*texts, *map(chat_of, chats)) if chats else tuple(texts)


def texts_in(prompts: Iterable[Prompt]) -> list[str]:
    """The prompts that are texts."""
    return [prompt for prompt in prompts if isinstance(prompt, str)]


def chats_in(prompts: Iterable[Prompt]) -> list[types_pb2.Chat]:
    """The messages of the prompts that are conversations."""
    return [chat_message(prompt) for prompt in prompts if isinstance(prompt, Chat)]
