"""Checks edits before they are accepted; refusals name the field and the remedy."""

from __future__ import annotations

import unicodedata
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from errata.editing.chat import Chat, Message, Prompt, said
from errata.editing.edit import Edit
from errata.editing.lane.inventory import fact_of
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.encoding import encode
from errata.editing.model.prompts import subject_end, tokenise
from errata.editing.model.seam import MOST_STATED, is_separator
from errata.editing.namespaces import DEFAULT, namespace_of, place_of, shown
from errata.editing.registry import get_method, methods
from errata.editing.text import MAX_MARKS, stacked_marks
from errata.errors import (
    InvalidEditError,
    InvalidRequestError,
    LimitExceededError,
    UnknownLaneError,
)
from errata.log.entries import UNTIMED, LaneConfigured, Schedule
from errata.platform.settings import WriterSettings
from errata.writer.canary_intake import checked_name
from errata.writer.checks import PROBE_TOKENS
from errata.writer.subjects import longest_name


@dataclass(frozen=True, slots=True)
class Draft:
    """An edit as a client sent it, before it has a name; `chat` instead of `prompt`, or neither."""

    prompt: str
    target: str
    subject: str
    rephrases: tuple[Prompt, ...]
    locality_probes: tuple[Prompt, ...]
    source: str
    separator: str | None = None
    chat: Chat | None = None
    times: Schedule = UNTIMED
    namespace: str = DEFAULT
    canary: str = ""

    @property
    def lacks_subject(self) -> bool:
        """Whether the writer has to find the subject."""
        return not self.subject.strip()


def check_request_id(request_id: str) -> str:
    """The id in its canonical form.

    Raises:
        InvalidRequestError: not a UUID of version 4.
    """
    try:
        found = uuid.UUID(request_id)
    except ValueError:
        found = None
    # The writer's own ids have version 5: a client must not take the id of a later commit.
    if found is None or found.version != 4:
        raise InvalidRequestError(
            f"request_id {request_id[:80]!r} is not a random UUID (version 4); create one for each "
            "request and reuse it for retries.",
            field="request_id",
        )
    return str(found)


def accept(drafts: Sequence[Draft], model: CausalLM, limits: WriterSettings) -> list[Edit]:
    """Checks edits and normalises their texts (NFC); they have no names yet.

    Nothing is accepted if one edit is refused.

    Raises:
        LimitExceededError: more edits or probes than one request can have.
        InvalidRequestError: no edit.
        InvalidEditError: a field is unusable.
    """
    if not drafts:
        raise InvalidRequestError("the request has no edits; give at least one.", field="edits")
    if len(drafts) > limits.max_edits_per_request:
        raise LimitExceededError(
            f"the request has {len(drafts):,} edits; the limit is "
            f"{limits.max_edits_per_request:,}. Split it.",
            field="edits",
            num_edits=len(drafts),
            limit=limits.max_edits_per_request,
        )
    for index, draft in enumerate(drafts):
        _check_order(draft.times, f"edits[{index}]")
    edits = [_accept_one(draft, f"edits[{i}]", model, limits) for i, draft in enumerate(drafts)]
    _refuse_contradictions(edits)
    return edits


def accept_probes(
    prompts: Sequence[Prompt], model: CausalLM, limits: WriterSettings
) -> tuple[Prompt, ...]:
    """Checks and normalises the deployment's probe set.

    Raises:
        LimitExceededError: more prompts than it can have.
        InvalidEditError: a prompt is unusable.
    """
    return _probes(prompts, None, "prompts", model, limits, limits.max_probe_set)


def _check_order(times: Schedule, field: str) -> None:
    begin, end = times.effective_from, times.expires_at
    if begin is not None and end is not None and end <= begin:
        raise InvalidEditError(
            f"{field}.expires_at is not after effective_from; exchange them, or leave one out.",
            field=f"{field}.expires_at",
        )


def check_known(lane: str, lanes: Collection[str]) -> None:
    """Returns if there is such a lane.

    Raises:
        UnknownLaneError: there is none.
    """
    if lane not in lanes:
        raise UnknownLaneError(
            f"there is no lane {lane!r}; choose one of {', '.join(sorted(lanes))}.",
            field="lane",
            lane=lane,
        )


def check_lane_takes(edits: Sequence[Edit], lane: str, lanes: Iterable[LaneConfigured]) -> None:
    """Returns if a lane takes edits of these namespaces.

    Args:
        edits: of a request.
        lane: `lanes/{lane}`, one of `lanes`.
        lanes: all that are configured.

    Raises:
        InvalidEditError: its method changes weights, which every request reads.
    """
    if not any(edit.namespace for edit in edits):
        return
    of_lane, known = {each.lane: each.method for each in lanes}, methods()
    own = get_method(of_lane[lane])
    if not own.capabilities.changes_weights:
        return
    routed = [
        name
        for name, method in sorted(of_lane.items())
        if method in known and not known[method].capabilities.changes_weights
    ]
    others = f"use {' or '.join(routed)}" if routed else "configure a lane that routes"
    for index, edit in enumerate(edits):
        if edit.namespace:
            raise InvalidEditError(
                f"edits[{index}].namespace is {shown(edit.namespace)}, but {lane} uses "
                f"{own.name}, which changes weights that every request reads, whatever "
                f"it names; {others}, or leave the namespace out.",
                field=f"edits[{index}].namespace",
                lane=lane,
            )


def refuse_expired(drafts: Sequence[Draft], now: datetime) -> None:
    """Returns if no edit would expire at once.

    Raises:
        InvalidEditError: one would.
    """
    for index, draft in enumerate(drafts):
        end = draft.times.expires_at
        if end is not None and end <= now:
            field = f"edits[{index}].expires_at"
            raise InvalidEditError(
                f"{field}, {end.isoformat()}, has passed: the writer's clock says "
                f"{now.isoformat(timespec='seconds')}. Give a later time, or none.",
                field=field,
            )


def _refuse_contradictions(edits: Sequence[Edit]) -> None:
    first: dict[tuple[str, str], int] = {}
    for index, edit in enumerate(edits):
        other = first.setdefault((edit.namespace, fact_of(edit.said)), index)
        if edits[other].target != edit.target:
            raise InvalidEditError(
                f"edits[{other}] and edits[{index}] give different targets for the same prompt; "
                "remove one of them, or submit them one after the other.",
                field=f"edits[{index}].target",
                other=f"edits[{other}].target",
            )


def _accept_one(draft: Draft, field: str, model: CausalLM, limits: WriterSettings) -> Edit:
    if draft.prompt and draft.chat is not None:
        raise InvalidEditError(
            f"{field} has a prompt and a conversation; give one of them.", field=f"{field}.chat"
        )
    asked = draft.prompt if draft.chat is None else draft.chat
    prompt = _prompt(asked, f"{field}.{_kind(asked)}", limits.max_prompt_chars)
    target = _text(draft.target, f"{field}.target", limits.max_prompt_chars).strip()
    subject = _text(draft.subject, f"{field}.subject", limits.max_prompt_chars, required=False)
    subject = subject.strip() or _find_subject(said(prompt), f"{field}.subject")
    stated = draft.separator
    if stated is not None and not is_separator(stated):
        raise InvalidEditError(
            f"{field}.separator can be empty, or up to {MOST_STATED} characters of white space; "
            "move other text to the beginning of the target.",
            field=f"{field}.separator",
        )
    texts = [target, *([prompt] if isinstance(prompt, str) else [])]
    sizes = [len(encoded.ids) for encoded in encode(model, texts, bare=True)]
    _check_length(sizes[0], limits.max_target_tokens, f"{field}.target")
    _check_length(sum(sizes[1:]), limits.max_prompt_tokens, f"{field}.prompt")
    try:
        if isinstance(prompt, str):
            subject_end(prompt, subject)
        row = tokenise(model, prompt, target, subject=subject, stated=stated)
        subject_end(said(prompt), subject)  # claims and the text form depend on the last turn
    except InvalidEditError as error:
        part = _kind(prompt) if error.field == "prompt" else error.field
        named = f"{field}.{part}"
        raise InvalidEditError(
            f"{named}: {error.message}", field=named, **error.metadata
        ) from error
    if not isinstance(prompt, str):
        size = len(row.ids) - row.num_target
        _check_length(size, limits.max_prompt_tokens, f"{field}.chat")
    canary = checked_name(draft.canary, f"{field}.canary")
    edit = Edit(name="", prompt=prompt, target=target, subject=subject, separator=stated)
    return replace(
        edit,
        namespace=place_of(_namespace(draft.namespace, f"{field}.namespace"), canary),
        canary=canary,
        rephrases=_probes(
            draft.rephrases, edit, f"{field}.rephrases", model, limits, limits.max_probes
        ),
        locality_probes=_probes(
            draft.locality_probes,
            None,
            f"{field}.locality_probes",
            model,
            limits,
            limits.max_probes,
        ),
    )


def _namespace(name: str, field: str) -> str:
    try:
        return namespace_of(name, field)
    except InvalidRequestError as error:
        raise InvalidEditError(error.message, field=field) from error


def _kind(prompt: Prompt) -> str:
    """The field that holds a prompt."""
    return "prompt" if isinstance(prompt, str) else "chat"


def _prompt(prompt: Prompt, field: str, max_chars: int) -> Prompt:
    """A prompt whose texts are checked and normalised; turns without content are allowed."""
    if isinstance(prompt, str):
        return _text(prompt, field, max_chars)
    for number, tool in enumerate(prompt.tools_json):
        _text(tool, f"{field}.tools_json[{number}]", max_chars)
    messages = tuple(
        _message(message, f"{field}.messages[{number}]", max_chars)
        for number, message in enumerate(prompt.messages)
    )
    return replace(prompt, messages=messages)


def _message(message: Message, field: str, max_chars: int) -> Message:
    """A turn whose texts are checked; its content is normalised."""
    for name in ("role", "name", "tool_call_id"):
        _text(getattr(message, name), f"{field}.{name}", max_chars, required=False)
    for number, call in enumerate(message.tool_calls):
        for name in ("id", "name", "arguments_json"):
            part = f"{field}.tool_calls[{number}].{name}"
            _text(getattr(call, name), part, max_chars, required=False)
    content = _text(message.content, f"{field}.content", max_chars, required=False)
    return replace(message, content=content)


def _probes(
    prompts: Sequence[Prompt],
    edit: Edit | None,
    field: str,
    model: CausalLM,
    limits: WriterSettings,
    most: int,
) -> tuple[Prompt, ...]:
    """Checks each prompt, and that it fits into the model together with the edit's target."""
    if len(prompts) > most:
        raise LimitExceededError(
            f"{field} has {len(prompts)} prompts; the limit is {most}. Give fewer.",
            field=field,
            limit=most,
        )
    checked: list[Prompt] = []
    parent, dot, name = field.rpartition(".")
    counts: Counter[str] = Counter()
    for prompt in prompts:
        kind = name if isinstance(prompt, str) else f"chat_{name}"
        one = f"{parent}{dot}{kind}[{counts[kind]}]"
        counts[kind] += 1
        checked.append(_prompt(prompt, one, limits.max_prompt_chars))
        try:
            target, stated = (
                ("", None) if edit is None else (edit.target, edit.separator_of(prompt))
            )
            row = tokenise(model, checked[-1], target, stated=stated)
        except InvalidEditError as error:
            raise InvalidEditError(
                f"{one}: {error.message}", field=one, **error.metadata
            ) from error
        limit = limits.max_prompt_tokens
        if edit is None:  # the model continues it by PROBE_TOKENS tokens
            limit = min(limit, model.max_positions - PROBE_TOKENS)
        _check_length(len(row.ids) - row.num_target, limit, one)
    return tuple(checked)


def _check_length(num_tokens: int, limit: int, field: str) -> None:
    if num_tokens > limit:
        raise InvalidEditError(
            f"{field} has {num_tokens:,} tokens; the limit is {limit:,}. Shorten it or split the "
            "edit.",
            field=field,
            num_tokens=num_tokens,
            limit=limit,
        )


def _text(text: str, field: str, max_chars: int, *, required: bool = True) -> str:
    if len(text) > max_chars:
        raise InvalidEditError(
            f"{field} has {len(text):,} characters; the limit is {max_chars:,}. Shorten it.",
            field=field,
            num_chars=len(text),
            limit=max_chars,
        )
    if required and not text.strip():
        raise InvalidEditError(f"{field} is empty; fill it in.", field=field)
    for index, character in enumerate(text):
        # Cs: lone surrogates. Cc: control characters; only line breaks and tabs are text.
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t":
            raise InvalidEditError(
                f"{field} has the control character U+{ord(character):04X} at {index}; remove it.",
                field=field,
                position=index,
            )
    position = stacked_marks(text)
    if position >= 0:
        raise InvalidEditError(
            f"{field} has more than {MAX_MARKS} combining marks in a row at {position}; remove "
            "them.",
            field=field,
            position=position,
        )
    return unicodedata.normalize("NFC", text)


def _find_subject(prompt: str, field: str) -> str:
    found = longest_name(prompt)
    if not found:
        raise InvalidEditError(
            f"{field} is empty, and the prompt has no capitalised name; give the subject.",
            field=field,
        )
    return found
