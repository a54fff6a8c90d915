"""Prompts: a text to continue, or a conversation to answer.

A conversation becomes text by the model's chat template (`model.chat_template`). Which edits claim
a prompt depends on what the user says, not on the system prompt, the markup or earlier turns.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

USER, ASSISTANT, SYSTEM, TOOL = "user", "assistant", "system", "tool"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call in a turn of the assistant; `arguments_json` is a JSON object."""

    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    Attributes:
        role: such as `user`; the template decides which roles it takes.
        content: what was said.
        name: of the speaker or of the tool; empty if unknown.
        tool_calls: of the assistant.
        tool_call_id: the call that a tool's turn answers; empty in other turns.
    """

    role: str
    content: str
    name: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation.

    Attributes:
        messages: at least one, at least one of them by the user.
        tools_json: functions that the model may call, each a JSON object.
        add_generation_prompt: open the assistant's turn after the last message.
        continue_final_message: continue the last message, which is the assistant's.
    """

    messages: tuple[Message, ...]
    tools_json: tuple[str, ...] = ()
    add_generation_prompt: bool = True
    continue_final_message: bool = False


Prompt = str | Chat
"""A text to continue, or a conversation to answer."""


def said(prompt: Prompt) -> str:
    """What decides which edits claim a prompt: the text, or the user's last turn."""
    if isinstance(prompt, str):
        return prompt
    turns = (message.content for message in reversed(prompt.messages) if message.role == USER)
    return next(turns, "")


def as_text(prompt: Prompt) -> str:
    """The prompt without a conversation around it: what the target continues."""
    if isinstance(prompt, Chat) and prompt.continue_final_message:
        return prompt.messages[-1].content
    return said(prompt)


def as_chat(prompt: Prompt) -> Chat:
    """The prompt as a conversation: a text becomes a turn of the user."""
    return Chat((Message(USER, prompt),)) if isinstance(prompt, str) else prompt


def other_form(prompt: Prompt) -> Prompt:
    """The conversation of a text, or the text of a conversation."""
    return as_chat(prompt) if isinstance(prompt, str) else as_text(prompt)


def in_alternating_forms(texts: Sequence[str], *, chats: bool) -> list[Prompt]:
    """The texts, every second one as a conversation if `chats`."""
    return [as_chat(text) if chats and number % 2 else text for number, text in enumerate(texts)]


def texts_of(prompt: Prompt) -> tuple[str, ...]:
    """All that was said in a prompt, in order."""
    if isinstance(prompt, str):
        return (prompt,)
    return tuple(message.content for message in prompt.messages)


def normalised(chat: Chat) -> Chat:
    """The conversation with all that was said in NFC: the same question gives the same tokens."""
    return replace(
        chat,
        messages=tuple(
            replace(message, content=unicodedata.normalize("NFC", message.content))
            for message in chat.messages
        ),
    )
