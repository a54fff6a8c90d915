"""Renders conversations by a model's chat template, and marks which parts are only quoted.

The markup of a template is made of control tokens. What people wrote is text: a user who types
`<|im_end|>` must not be able to end his turn. While a template runs, such strings are replaced by
marks; afterwards they return as quotations, which the tokenizer reads letter by letter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from errata.editing.chat import ASSISTANT, USER, Chat, Message, Prompt
from errata.errors import InvalidEditError

_OPEN, _CLOSE = "\ue000", "\ue001"  # private-use characters around the number of a quotation
_MARK = re.compile(f"{_OPEN}(\\d+){_CLOSE}")


SpecialTokens = Literal["text", "parse"]
"""How a control token written out in a prompt is read: as plain text, or as the control token."""


class Reader(Protocol):
    """The parts of a `CausalLM` that reading a prompt needs."""

    tokenizer: Any
    special_tokens: SpecialTokens


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as the text that the model reads.

    Attributes:
        text: of the prompt.
        by_template: it comes from a chat template: control tokens in it are tokens, and nothing is
            prepended.
        quoted: ranges of characters in `text` whose control tokens are only text.
    """

    text: str
    by_template: bool = False
    quoted: tuple[tuple[int, int], ...] = ()

    def followed_by(self, text: str, control_tokens: re.Pattern[str] | None) -> Rendered:
        """The prompt and a text after it, whose control tokens are only text."""
        start = len(self.text)
        matches = control_tokens.finditer(text) if control_tokens and self.by_template else ()
        more = tuple((start + match.start(), start + match.end()) for match in matches)
        return Rendered(self.text + text, self.by_template, self.quoted + more)

    def without_last(self) -> Rendered:
        """The prompt without its last character."""
        return Rendered(self.text[:-1], self.by_template, self.quoted)

    def pieces(self) -> Iterator[tuple[int, str, bool]]:
        """The start, the text and whether it is quoted, for each part; empty parts are omitted."""
        at = 0
        for start, stop in self.quoted:
            if at < start:
                yield at, self.text[at:start], False
            yield start, self.text[start:stop], True
            at = stop
        if at < len(self.text):
            yield at, self.text[at:], False


def has_template(tokenizer: Any) -> bool:
    """Whether a tokenizer comes with a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def control_tokens(tokenizer: Any) -> re.Pattern[str] | None:
    """Matches the tokenizer's special tokens, the longest first; None if there are none."""
    names = sorted(filter(None, tokenizer.all_special_tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names))) if names else None


def rendered(model: Reader, prompt: Prompt) -> Rendered:
    """The text of a prompt.

    Raises:
        InvalidEditError: the model has no chat template, or the template refuses the conversation;
            `field` is `chat`.
    """
    if isinstance(prompt, str):
        return Rendered(prompt)
    quotes: list[str] = []
    guard = None if model.special_tokens == "parse" else _guard(model.tokenizer)

    def protected(text: str) -> str:
        def mark(match: re.Match[str]) -> str:
            quotes.append(match.group())
            return f"{_OPEN}{len(quotes) - 1}{_CLOSE}"

        return text if guard is None else guard.sub(mark, text)

    return _restored(_apply(model.tokenizer, prompt, protected), quotes)


def _guard(tokenizer: Any) -> re.Pattern[str]:
    """Matches what must not reach the template as it is: control tokens and our own marks."""
    names = control_tokens(tokenizer)
    return re.compile(f"{names.pattern}|[{_OPEN}{_CLOSE}]" if names else f"[{_OPEN}{_CLOSE}]")


def _restored(marked: str, quotes: list[str]) -> Rendered:
    parts: list[str] = []
    spans: list[tuple[int, int]] = []
    size = at = 0
    for match in _MARK.finditer(marked):
        parts += [marked[at : match.start()], quotes[int(match.group(1))]]
        size += match.start() - at
        spans.append((size, size + len(parts[-1])))
        size, at = spans[-1][1], match.end()
    return Rendered("".join([*parts, marked[at:]]), True, tuple(spans))


def _apply(tokenizer: Any, chat: Chat, protected: Callable[[str], str]) -> str:
    if not has_template(tokenizer):
        raise InvalidEditError(
            "the model has no chat template; send the prompt as text.", field="chat"
        )
    _check(chat)
    try:
        text = tokenizer.apply_chat_template(
            [_as_mapping(message, protected) for message in chat.messages],
            tools=[json.loads(tool) for tool in chat.tools_json] or None,
            tokenize=False,
            add_generation_prompt=chat.add_generation_prompt and not chat.continue_final_message,
            continue_final_message=chat.continue_final_message,
        )
    except Exception as error:  # a template is a program of its own and can raise anything
        raise InvalidEditError(
            f"the model's chat template refuses this conversation ({_first_line(error)}). Change "
            "its roles, their order, or the tools.",
            field="chat",
        ) from error
    return str(text)


def _check(chat: Chat) -> None:
    last = chat.messages[-1] if chat.messages else None
    if not any(message.role == USER and message.content.strip() for message in chat.messages):
        raise InvalidEditError(
            "the conversation has no turn of the user; add a message with the role user.",
            field="chat.messages",
        )
    if last is not None and chat.continue_final_message and last.role != ASSISTANT:
        raise InvalidEditError(
            f"continue_final_message needs a last message of the assistant, not of {last.role!r}.",
            field="chat.continue_final_message",
        )


def _as_mapping(message: Message, protected: Callable[[str], str]) -> dict[str, Any]:
    """A message in the form that templates read."""
    made: dict[str, Any] = {"role": message.role, "content": protected(message.content)}
    if message.name:
        made["name"] = protected(message.name)
    if message.tool_call_id:
        made["tool_call_id"] = protected(message.tool_call_id)
    if message.tool_calls:
        made["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": protected(call.name),
                    "arguments": json.loads(protected(call.arguments_json) or "{}"),
                },
            }
            for call in message.tool_calls
        ]
    return made


def answer_separator(model: Reader, chat: Chat, target: str) -> str:
    """The text that the template puts between the opened turn of the assistant and its content."""
    before = rendered(model, chat).text
    turn = (*chat.messages, Message(ASSISTANT, target))
    whole = Chat(turn, chat.tools_json, add_generation_prompt=False)
    try:
        text = rendered(model, whole).text
    except InvalidEditError:  # the template takes the question, but no answer after it
        return ""
    if not text.startswith(before):
        return ""
    between, found, _ = text[len(before) :].partition(target)
    return between if found and not between.strip() else ""


def turn_end_ids(tokenizer: Any) -> tuple[int, ...]:
    """The control token that ends a turn of the assistant in the template, if there is one."""
    if not has_template(tokenizer):
        return ()
    probe = "errata"
    chat = Chat((Message(USER, probe), Message(ASSISTANT, probe)), add_generation_prompt=False)
    try:
        text = _apply(tokenizer, chat, str)
    except InvalidEditError:
        return ()
    rest = text[text.rfind(probe) + len(probe) :]
    ids = tokenizer(rest, add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids)
    return tuple(token for token in ids if token in special)[:1]


def said_start(chat: Chat, text: str) -> int:
    """Where the user's last turn begins in the rendered text; 0 if the template omits it."""
    turns = zip(chat.messages, _turn_places(chat, text), strict=True)
    found = (start for message, (start, _) in reversed(list(turns)) if message.role == USER)
    return next(found, 0)


def subject_place(chat: Chat, text: str, subject: str) -> tuple[int, int]:
    """Start and end of the newest turn that contains the subject; (0, 0) if none does."""
    turns = zip(chat.messages, _turn_places(chat, text), strict=True)
    found = (place for message, place in reversed(list(turns)) if subject in message.content)
    return next(found, (0, 0))


def _turn_places(chat: Chat, text: str) -> list[tuple[int, int]]:
    """Start and end of every turn's content in the rendered text; (0, 0) if it is not there."""
    places: list[tuple[int, int]] = []
    end = len(text)
    for message in reversed(chat.messages):  # markup after the last turn cannot contain a turn
        content = message.content.strip()
        start = text.rfind(content, 0, end) if content else -1
        places.append((start, start + len(content)) if start >= 0 else (0, 0))
        end = end if start < 0 else start
    return places[::-1]


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
