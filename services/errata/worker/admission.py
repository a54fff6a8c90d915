"""What a request must be before it may enter the engine."""

from __future__ import annotations

import secrets
import time
import unicodedata
from collections.abc import Sequence

from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import TokenRow, tokenise
from errata.editing.model.seam import MOST_STATED, is_separator
from errata.engine.sampling import GREEDY, Sampling
from errata.engine.sequence import GenerationRequest, ScoringRequest
from errata.errors import InvalidEditError, InvalidRequestError, LimitExceededError
from errata_client._gen.errata.v1 import inference_pb2

Message = inference_pb2.GenerateRequest | inference_pb2.StreamGenerateRequest
DEFAULT_MAX_TOKENS = 32
_MAX_STOPS = 16
_MAX_STOP_CHARS = 256
_MAX_ALTERNATIVES = 20
_MAX_TEMPERATURE = 10.0


def generation(
    model: CausalLM, message: Message, limit: int, *, streaming: bool, timeout_seconds: float
) -> GenerationRequest:
    """Checks and tokenises a request for a continuation.

    Args:
        model: gives the tokenizer.
        message: the unary or the streamed kind.
        limit: most tokens that one request may ask for.
        streaming: pieces as they are made.
        timeout_seconds: until the caller's deadline.

    Raises:
        InvalidRequestError: an unusable field.
        LimitExceededError: more tokens, stop texts or alternatives than allowed.
    """
    wanted = message.max_tokens if message.HasField("max_tokens") else DEFAULT_MAX_TOKENS
    if wanted < 1:
        raise InvalidRequestError(
            f"max_tokens is {wanted}; ask for at least one.", field="max_tokens"
        )
    _check_limit(wanted, limit, "max_tokens")
    prompt = _text(message.prompt, "prompt")
    row = _tokenised(model, prompt)
    return GenerationRequest(
        row.ids,
        wanted,
        _stops(message.stop),
        sampling=_sampling(message.sampling) if message.HasField("sampling") else GREEDY,
        num_alternatives=_alternatives(message),
        streaming=streaming,
        drops_blank=row.leaves_blank,
        prompt=prompt,
        deadline=time.monotonic() + timeout_seconds,
    )


def _stops(texts: Sequence[str]) -> tuple[str, ...]:
    _check_limit(len(texts), _MAX_STOPS, "stop")
    for index, text in enumerate(texts):
        if not text:
            raise InvalidRequestError("a stop text is empty; leave it out.", field=f"stop[{index}]")
        _check_limit(len(text), _MAX_STOP_CHARS, f"stop[{index}]")
    return tuple(texts)


def _sampling(message: inference_pb2.Sampling) -> Sampling:
    top_p = message.top_p if message.HasField("top_p") else 1.0
    if not 0 <= message.temperature <= _MAX_TEMPERATURE:
        raise InvalidRequestError(
            f"temperature is {message.temperature:g}; give 0 (greedy) to {_MAX_TEMPERATURE:g}.",
            field="sampling.temperature",
        )
    if not 0 < top_p <= 1:
        raise InvalidRequestError(
            f"top_p is {top_p:g}; give a share above 0, at most 1.", field="sampling.top_p"
        )
    if message.top_k < 0:
        raise InvalidRequestError(
            f"top_k is {message.top_k}; give 0 (all tokens) or more.", field="sampling.top_k"
        )
    seed = message.seed if message.HasField("seed") else secrets.randbits(64)
    return Sampling(message.temperature, message.top_k, top_p, seed)


def _alternatives(message: Message) -> int | None:
    if not message.HasField("num_alternatives"):
        return None
    if message.num_alternatives < 0:
        raise InvalidRequestError(
            f"num_alternatives is {message.num_alternatives}; give 0 or more.",
            field="num_alternatives",
        )
    _check_limit(message.num_alternatives, _MAX_ALTERNATIVES, "num_alternatives")
    return int(message.num_alternatives)


def _check_limit(value: int, limit: int, field: str) -> None:
    if value > limit:
        raise LimitExceededError(
            f"{field} is {value:,}; the limit is {limit:,}. Ask for less.", field=field, limit=limit
        )


def scoring(
    model: CausalLM, message: inference_pb2.ScoreRequest, timeout_seconds: float
) -> ScoringRequest:
    """Checks and tokenises a scoring request.

    Args:
        model: gives the tokenizer.
        message: the request.
        timeout_seconds: until the caller's deadline.

    Raises:
        InvalidRequestError: an unusable field.
    """
    prompt = _text(message.prompt, "prompt")
    stated = message.separator if message.HasField("separator") else None
    if stated is not None and not is_separator(stated):
        raise InvalidRequestError(
            f"separator may be nothing, or white space of up to {MOST_STATED} characters; put "
            "other text in front of the continuation.",
            field="separator",
        )
    row = _tokenised(model, prompt, _text(message.continuation, "continuation"), stated)
    return ScoringRequest(
        row.ids[: -row.num_target],
        row.ids[-row.num_target :],
        prompt,
        time.monotonic() + timeout_seconds,
    )


def _tokenised(
    model: CausalLM, prompt: str, continuation: str = "", stated: str | None = None
) -> TokenRow:
    try:
        return tokenise(model, prompt, continuation, stated=stated)
    except InvalidEditError as error:
        raise InvalidRequestError(error.message, field="prompt", **error.metadata) from error


def _text(text: str, field: str) -> str:
    """NFC, as edits are stored: the same question must be the same tokens."""
    if not text.strip():
        raise InvalidRequestError(f"{field} is empty; fill it in.", field=field)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidRequestError(f"{field} has a lone surrogate; remove it.", field=field)
    return unicodedata.normalize("NFC", text)
