"""Checks that a request passes before it enters the engine."""

from __future__ import annotations

import secrets
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from errata.editing.chat import Chat, Prompt, normalised, said
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import TokenRow, tokenise
from errata.editing.model.seam import MOST_STATED, is_separator
from errata.editing.namespaces import reading_of
from errata.editing.text import MAX_MARKS, stacked_marks
from errata.engine.sampling import GREEDY, Sampling
from errata.engine.sequence import GenerationRequest, ScoringRequest
from errata.errors import InvalidEditError, InvalidRequestError, LimitExceededError
from errata.platform.limits import (
    CHARS,
    CHARS_PER_TOKEN,
    ITEMS,
    LEAST_TEMPERATURE,
    MAX_PROMPT_CHARS,
    MAX_TEMPERATURE,
)

DEFAULT_MAX_TOKENS = 32
_MAX_ALTERNATIVES = 20


@dataclass(frozen=True, slots=True)
class SamplingInput:
    """Sampling as the caller asks for it, unchecked.

    Attributes:
        temperature: 0 is greedy.
        top_k: 0 disables.
        top_p: 1 if None.
        seed: a random one if None.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class GenerationInput:
    """A request for a continuation as the caller sends it, unchecked.

    Attributes:
        prompt: as written.
        max_tokens: `DEFAULT_MAX_TOKENS` if None.
        stop: texts before which the continuation ends.
        sampling: greedy if None.
        num_alternatives: of each token; None reports no log-probabilities.
        min_seq: log position that the replica must have applied; None accepts any.
        chat: a conversation instead of a prompt.
        clip_max_tokens: lower `max_tokens` to what the model's window leaves.
        namespaces: that the request reads; the default one if empty.
        canary_key: decides which open canaries the request is in.
    """

    prompt: str
    max_tokens: int | None = None
    stop: Sequence[str] = ()
    sampling: SamplingInput | None = None
    num_alternatives: int | None = None
    min_seq: int | None = None
    chat: Chat | None = None
    clip_max_tokens: bool = False
    namespaces: Sequence[str] = ()
    canary_key: str = ""


@dataclass(frozen=True, slots=True)
class ScoringInput:
    """A scoring request as the caller sends it, unchecked.

    Attributes:
        prompt: as written.
        continuation: is scored.
        separator: between the two; None lets the prompt decide.
        min_seq: log position that the replica must have applied; None accepts any.
        chat: a conversation instead of a prompt.
        namespaces: that the request reads; the default one if empty.
        canary_key: decides which open canaries the request is in.
    """

    prompt: str
    continuation: str
    separator: str | None = None
    min_seq: int | None = None
    chat: Chat | None = None
    namespaces: Sequence[str] = ()
    canary_key: str = ""


def generation(
    model: CausalLM,
    asked: GenerationInput,
    limit: int,
    *,
    streaming: bool,
    timeout_seconds: float,
) -> GenerationRequest:
    """Checks and tokenises a request for a continuation.

    Args:
        model: provides the tokenizer.
        asked: the caller's request.
        limit: most tokens that one request can ask for.
        streaming: send pieces as they are made.
        timeout_seconds: until the caller's deadline.

    Raises:
        InvalidRequestError: a field is invalid.
        LimitExceededError: more tokens, stop texts, alternatives or namespaces than allowed.
    """
    wanted = DEFAULT_MAX_TOKENS if asked.max_tokens is None else asked.max_tokens
    if wanted < 1:
        raise InvalidRequestError(
            f"max_tokens is {wanted}; ask for at least one.", field="max_tokens"
        )
    _check_limit(wanted, limit, "max_tokens")
    prompt = _prompt(asked.prompt, asked.chat, _most_chars(model))
    row = _tokenised(model, prompt)
    return GenerationRequest(
        row.ids,
        wanted,
        _stops(asked.stop),
        sampling=GREEDY if asked.sampling is None else _sampling(asked.sampling),
        num_alternatives=_alternatives(asked.num_alternatives),
        streaming=streaming,
        drops_blank=row.leaves_blank,
        prompt=said(prompt),
        said_at=_said_at(prompt, row),
        clip_max_tokens=asked.clip_max_tokens,
        deadline=time.monotonic() + timeout_seconds,
        reading=reading_of(asked.namespaces),
        canary_key=asked.canary_key,
    )


def _stops(texts: Sequence[str]) -> tuple[str, ...]:
    _check_limit(len(texts), ITEMS["GenerateRequest.stop"], "stop")
    for index, text in enumerate(texts):
        if not text:
            raise InvalidRequestError("a stop text is empty; leave it out.", field=f"stop[{index}]")
        _check_limit(len(text), CHARS["GenerateRequest.stop"], f"stop[{index}]")
    return tuple(texts)


def _sampling(asked: SamplingInput) -> Sampling:
    top_p = 1.0 if asked.top_p is None else asked.top_p
    temperature = asked.temperature
    if temperature != 0 and not LEAST_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
        raise InvalidRequestError(
            f"temperature is {temperature:g}; give 0 (greedy), or {LEAST_TEMPERATURE:g} to "
            f"{MAX_TEMPERATURE:g}.",
            field="sampling.temperature",
        )
    if not 0 < top_p <= 1:
        raise InvalidRequestError(
            f"top_p is {top_p:g}; give a share above 0, at most 1.", field="sampling.top_p"
        )
    if asked.top_k < 0:
        raise InvalidRequestError(
            f"top_k is {asked.top_k}; give 0 (all tokens) or more.", field="sampling.top_k"
        )
    seed = secrets.randbits(64) if asked.seed is None else asked.seed
    return Sampling(temperature, asked.top_k, top_p, seed)


def _alternatives(wanted: int | None) -> int | None:
    if wanted is None:
        return None
    if wanted < 0:
        raise InvalidRequestError(
            f"num_alternatives is {wanted}; give 0 or more.", field="num_alternatives"
        )
    _check_limit(wanted, _MAX_ALTERNATIVES, "num_alternatives")
    return wanted


def _check_limit(value: int, limit: int, field: str) -> None:
    if value > limit:
        raise LimitExceededError(
            f"{field} is {value:,}; the limit is {limit:,}. Ask for less.", field=field, limit=limit
        )


def scoring(model: CausalLM, asked: ScoringInput, timeout_seconds: float) -> ScoringRequest:
    """Checks and tokenises a scoring request.

    Args:
        model: provides the tokenizer.
        asked: the caller's request.
        timeout_seconds: until the caller's deadline.

    Raises:
        InvalidRequestError: a field is invalid.
    """
    most = _most_chars(model)
    prompt = _prompt(asked.prompt, asked.chat, most)
    stated = asked.separator
    if stated is not None and not is_separator(stated):
        raise InvalidRequestError(
            f"separator may be nothing, or white space of up to {MOST_STATED} characters; put "
            "other text at the start of the continuation.",
            field="separator",
        )
    row = _tokenised(model, prompt, _text(asked.continuation, "continuation", most), stated)
    return ScoringRequest(
        row.ids[: -row.num_target],
        row.ids[-row.num_target :],
        said(prompt),
        _said_at(prompt, row),
        time.monotonic() + timeout_seconds,
        reading_of(asked.namespaces),
        asked.canary_key,
    )


def _tokenised(
    model: CausalLM, prompt: Prompt, continuation: str = "", stated: str | None = None
) -> TokenRow:
    try:
        return tokenise(model, prompt, continuation, stated=stated)
    except InvalidEditError as error:
        field = "prompt" if isinstance(prompt, str) else error.field or "chat"
        raise InvalidRequestError(error.message, field=field, **error.metadata) from error


def _said_at(prompt: Prompt, row: TokenRow) -> int | None:
    return row.said_index if isinstance(prompt, Chat) else None


def _most_chars(model: CausalLM) -> int:
    """Longer texts cannot fit, and are refused unread: tokens take far more memory than a text."""
    return min(MAX_PROMPT_CHARS, CHARS_PER_TOKEN * model.max_positions)


def _prompt(text: str, chat: Chat | None, most: int) -> Prompt:
    """The prompt in the form that was sent, all of it NFC."""
    if chat is None:
        return _text(text, "prompt", most)
    if text:
        raise InvalidRequestError(
            "the request has a prompt and a conversation; send one of them.", field="chat"
        )
    _check_size(sum(len(message.content) for message in chat.messages), most, "chat")
    for index, message in enumerate(chat.messages):
        _check_marks(message.content, f"chat.messages[{index}].content")
    return normalised(chat)


def _text(text: str, field: str, most: int) -> str:
    """NFC, as edits are stored: the same question must give the same tokens."""
    _check_size(len(text), most, field)
    if not text.strip():
        raise InvalidRequestError(f"{field} is empty; fill it in.", field=field)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidRequestError(f"{field} has a lone surrogate; remove it.", field=field)
    _check_marks(text, field)
    return unicodedata.normalize("NFC", text)


def _check_size(num_chars: int, most: int, field: str) -> None:
    if num_chars > most:
        raise InvalidRequestError(
            f"{field} has {num_chars:,} characters, more than fit into the model's window; the "
            f"limit is {most:,}. Shorten it.",
            field=field,
            num_chars=num_chars,
            limit=most,
        )


def _check_marks(text: str, field: str) -> None:
    position = stacked_marks(text)
    if position >= 0:
        raise InvalidRequestError(
            f"{field} has more than {MAX_MARKS} combining marks in a row at {position}; remove "
            "them.",
            field=field,
            position=position,
        )
