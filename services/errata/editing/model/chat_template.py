"""Renders conversations by a model's chat template, and marks which parts are only quoted.

A template's markup is made of control tokens. What people wrote is text: a user who types
`<|im_end|>` must not be able to end his turn. While a template runs, such strings are replaced by
marks; afterwards they return as quotations, whose control tokens are only text. Markup of ordinary
characters, such as `[INST]`, cannot be told from text, neither by the model nor here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

from errata.editing.chat import ASSISTANT, USER, Chat, Message, Prompt, said
from errata.errors import InvalidEditError

# Private-use characters: around the number of a quotation, and before and after a turn's content.
_OPEN, _CLOSE, _BEGIN, _END = "\ue000", "\ue001", "\ue002", "\ue003"
_MARK = re.compile(f"{_OPEN}(\\d+){_CLOSE}")
_EDGE = re.compile(f"([{_BEGIN}{_END}])(\\d+){_CLOSE}")
_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_PROBE = "errata"
_CLOCK = "strftime_now"
# Templates can print the time. A prompt must be the same tokens in fits, checks and requests.
_STOPPED_CLOCK = f"{{% macro {_CLOCK}(format) %}}01 Jan 2025{{% endmacro %}}"

SpecialTokens = Literal["text", "parse"]
"""How a control token written out in a prompt is read: as plain text, or as the control token."""

_Protect = Callable[[str], str]


class Reader(Protocol):
    """The parts of a `CausalLM` that reading a prompt needs."""

    tokenizer: Any
    special_tokens: SpecialTokens
    control_tokens: re.Pattern[str] | None


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as the text that the model reads.

    Attributes:
        text: of the prompt.
        by_template: it comes from a chat template: control tokens in it are tokens, and nothing is
            prepended.
        quoted: ranges of characters in `text` whose control tokens are only text.
        turns: for each message, the range of its content without blanks around it; (0, 0) if it is
            empty, or if the template omits or changes it.
    """

    text: str
    by_template: bool = False
    quoted: tuple[tuple[int, int], ...] = ()
    turns: tuple[tuple[int, int], ...] = ()

    def followed_by(self, text: str, control_tokens: re.Pattern[str] | None) -> Rendered:
        """The prompt and a text after it, whose control tokens are only text."""
        start = len(self.text)
        matches = control_tokens.finditer(text) if control_tokens and self.by_template else ()
        more = tuple((start + match.start(), start + match.end()) for match in matches)
        return Rendered(self.text + text, self.by_template, self.quoted + more, self.turns)

    def without_last(self) -> Rendered:
        """The prompt without its last character."""
        return Rendered(self.text[:-1], self.by_template, self.quoted, self.turns)

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
    """Matches the tokenizer's special tokens, the longest first; None if there are none.

    Takes half as long as reading a short text: call it once for a model.
    """
    added = tokenizer.added_tokens_decoder.values()
    names = {*tokenizer.all_special_tokens, *(str(token) for token in added if token.special)}
    ordered = sorted(filter(None, names), key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None


def rendered(model: Reader, prompt: Prompt) -> Rendered:
    """The text of a prompt.

    Raises:
        InvalidEditError: the model has no chat template, or the template refuses the conversation;
            `field` is `chat` or a part of it.
    """
    if isinstance(prompt, str):
        return Rendered(prompt)
    tokenizer = model.tokenizer
    if not has_template(tokenizer):
        raise InvalidEditError(
            "the model has no chat template; send the prompt as text.", field="chat"
        )
    _check(prompt)
    if model.special_tokens == "parse":
        text = _apply(tokenizer, prompt, _unchanged, _unchanged)
        return Rendered(text, True, (), _turns(tokenizer, prompt, text, _unchanged, _unchanged))
    quotes: list[str] = []
    guard = _guard(model.control_tokens)

    def protect(text: str) -> str:
        def mark(match: re.Match[str]) -> str:
            quotes.append(match.group())
            return f"{_OPEN}{len(quotes) - 1}{_CLOSE}"

        return guard.sub(mark, text)

    whole = _restored(_apply(tokenizer, prompt, protect, _unchanged), quotes)
    quotes.clear()

    def restore(marked: str) -> str:
        return _restored(marked, quotes).text

    turns = _turns(tokenizer, prompt, whole.text, protect, restore)
    return Rendered(whole.text, True, whole.quoted, turns)


def _unchanged(text: str) -> str:
    return text


@lru_cache
def _guard(names: re.Pattern[str] | None) -> re.Pattern[str]:
    """Matches what must not reach the template as it is: control tokens and our own marks."""
    own = f"[{_OPEN}{_CLOSE}{_BEGIN}{_END}]"
    return re.compile(f"{names.pattern}|{own}" if names else own)


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


def _turns(
    tokenizer: Any, chat: Chat, text: str, protect: _Protect, restore: _Protect
) -> tuple[tuple[int, int], ...]:
    """`Rendered.turns`, from a second rendering with marks around every content."""
    number = -1

    def edged(content: str) -> str:
        nonlocal number
        number += 1
        core = content.strip()
        if not core:
            return content
        before, _, after = content.partition(core)
        return f"{before}{_BEGIN}{number}{_CLOSE}{core}{_END}{number}{_CLOSE}{after}"

    unknown = ((0, 0),) * len(chat.messages)
    try:
        marked = _apply(tokenizer, chat, protect, edged)
    except InvalidEditError:  # the template looks into contents
        return unknown
    found: dict[tuple[str, int], int] = {}
    parts: list[str] = []
    at = size = 0
    for match in _EDGE.finditer(marked):
        parts.append(restore(marked[at : match.start()]))
        size += len(parts[-1])
        found[match.group(1), int(match.group(2))] = size
        at = match.end()
    parts.append(restore(marked[at:]))
    if "".join(parts) != text:  # the marks changed what the template does
        return unknown
    return tuple(
        (found.get((_BEGIN, n), 0), found.get((_END, n), 0)) if (_END, n) in found else (0, 0)
        for n in range(len(chat.messages))
    )


def _check(chat: Chat) -> None:
    for number, message in enumerate(chat.messages):
        if not _ROLE.fullmatch(message.role):
            raise InvalidEditError(
                f"role {message.role[:40]!r} is not a name; use one such as user or assistant.",
                field=f"chat.messages[{number}].role",
            )
    if not said(chat).strip():
        raise InvalidEditError(
            "the conversation has no last turn of the user with text; add a message with the role "
            "user.",
            field="chat.messages",
        )
    last = chat.messages[-1]
    if chat.continue_final_message and (last.role != ASSISTANT or not last.content.strip()):
        raise InvalidEditError(
            "continue_final_message needs a last message of the assistant with text.",
            field="chat.continue_final_message",
        )


def _apply(tokenizer: Any, chat: Chat, protect: _Protect, content: _Protect) -> str:
    """The template's text; `protect` changes every string, then `content` every content."""
    messages = [
        _as_mapping(message, f"chat.messages[{number}]", protect, content)
        for number, message in enumerate(chat.messages)
    ]
    tools = [
        _object(tool, f"chat.tools_json[{number}]", protect)
        for number, tool in enumerate(chat.tools_json)
    ]
    try:
        text = tokenizer.apply_chat_template(
            messages,
            tools=tools or None,
            tokenize=False,
            add_generation_prompt=chat.add_generation_prompt and not chat.continue_final_message,
            continue_final_message=chat.continue_final_message,
            chat_template=_with_stopped_clock(tokenizer.get_chat_template(tools=tools or None)),
        )
    except Exception as error:  # a template is a program of its own and can raise anything
        raise InvalidEditError(
            f"the model's chat template refuses this conversation ({_first_line(error)}). Change "
            "its roles, their order, or the tools.",
            field="chat",
        ) from error
    return str(text)


def _with_stopped_clock(template: str) -> str:
    return _STOPPED_CLOCK + template if _CLOCK in template else template


def _as_mapping(
    message: Message, field: str, protect: _Protect, content: _Protect
) -> dict[str, Any]:
    """A message in the form that templates read."""
    made: dict[str, Any] = {"role": message.role, "content": content(protect(message.content))}
    if message.name:
        made["name"] = protect(message.name)
    if message.tool_call_id:
        made["tool_call_id"] = protect(message.tool_call_id)
    if message.tool_calls:
        made["tool_calls"] = [
            {
                "id": protect(call.id),
                "type": "function",
                "function": {
                    "name": protect(call.name),
                    "arguments": _object(
                        call.arguments_json or "{}",
                        f"{field}.tool_calls[{number}].arguments_json",
                        protect,
                    ),
                },
            }
            for number, call in enumerate(message.tool_calls)
        ]
    return made


def _object(text: str, field: str, protect: _Protect) -> dict[str, Any]:
    """A JSON object with every string protected, after escapes in it were read."""
    try:
        found = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidEditError(
            f"{field} is not JSON ({_first_line(error)}).", field=field
        ) from error
    if not isinstance(found, dict):
        raise InvalidEditError(f"{field} is not a JSON object.", field=field)
    return {protect(key): _protected(value, protect) for key, value in found.items()}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _protected(value: Any, protect: _Protect) -> Any:
    if isinstance(value, str):
        return protect(value)
    if isinstance(value, dict):
        return {protect(key): _protected(inner, protect) for key, inner in value.items()}
    return [_protected(inner, protect) for inner in value] if isinstance(value, list) else value


def answer_separator(model: Reader, chat: Chat) -> str:
    """The text that the template puts between the opened turn of the assistant and its content."""
    before = rendered(model, chat).text
    turn = (*chat.messages, Message(ASSISTANT, _PROBE))
    whole = Chat(turn, chat.tools_json, add_generation_prompt=False)
    try:
        text = rendered(model, whole).text
    except InvalidEditError:  # the template takes the question, but no answer after it
        return ""
    if not text.startswith(before):
        return ""
    between, found, _ = text[len(before) :].partition(_PROBE)
    return between if found and not between.strip() else ""


def turn_end_ids(tokenizer: Any) -> tuple[int, ...]:
    """The control token that ends a turn of the assistant in the template, if there is one."""
    if not has_template(tokenizer):
        return ()
    chat = Chat((Message(USER, _PROBE), Message(ASSISTANT, _PROBE)), add_generation_prompt=False)
    try:
        text = _apply(tokenizer, chat, _unchanged, _unchanged)
    except InvalidEditError:
        return ()
    names = control_tokens(tokenizer)
    found = names.search(text, text.rfind(_PROBE) + len(_PROBE)) if names else None
    return () if found is None else (int(tokenizer.convert_tokens_to_ids(found.group())),)


def said_start(chat: Chat, prompt: Rendered) -> int:
    """Where the user's last turn begins in the rendered text; 0 if that is unknown."""
    turns = zip(reversed(chat.messages), reversed(prompt.turns), strict=True)
    return next((start for message, (start, _) in turns if message.role == USER), 0)


def subject_place(prompt: Rendered, subject: str) -> tuple[int, int]:
    """Start and end of the newest turn that contains the subject, preferably as a whole word.

    Returns:
        (0, 0) if no turn that is in the text contains it.
    """
    places = [place for place in reversed(prompt.turns) if subject in prompt.text[slice(*place)]]
    word = re.compile(rf"(?<!\w){re.escape(subject)}(?!\w)")
    whole = (place for place in places if word.search(prompt.text[slice(*place)]))
    return next(whole, places[0] if places else (0, 0))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
