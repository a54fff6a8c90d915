"""What a model is asked: a text to continue, or a conversation to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call in a turn of the assistant; `arguments_json` is a JSON object."""

    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation.

    Attributes:
        role: such as system, user, assistant or tool; the model's template decides.
        content: what was said.
        name: of the speaker or of the tool, if the template shows it.
        tool_calls: only in a turn of the assistant.
        tool_call_id: only in a tool's turn: the call that it answers.
    """

    role: str
    content: str = ""
    name: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, which the model's chat template renders.

    Attributes:
        messages: at least one, at least one of them by the user.
        tools_json: functions that the model may call, each a JSON object.
        add_generation_prompt: open the assistant's turn; True if None, unless it is continued.
        continue_final_message: continue the last message, which is the assistant's.
    """

    messages: tuple[ChatMessage, ...]
    tools_json: tuple[str, ...] = ()
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False

    def __str__(self) -> str:
        """Every turn on a line of its own, for people."""
        return "\n".join(f"{message.role}: {message.content}" for message in self.messages)


Prompt = str | Chat | Sequence[ChatMessage | Mapping[str, Any]]
"""A text to continue, or a conversation to answer: a `Chat` or its messages.

Messages can be mappings as in the OpenAI API: `[{"role": "user", "content": "…"}]`.
"""
