"""What a request must be before it may enter the engine."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from errata.editing.causal_lm import CausalLM
from errata.editing.prompts import TokenRow, tokenise
from errata.engine.sequence import GenerationRequest, ScoringRequest
from errata.errors import InvalidEditError, InvalidRequestError, LimitExceededError

DEFAULT_MAX_TOKENS = 32
_MAX_STOPS = 16


def generation(
    model: CausalLM, prompt: str, max_tokens: int | None, stop: Sequence[str], limit: int
) -> GenerationRequest:
    """Tokenises a generation request.

    Raises:
        InvalidRequestError: an unusable field.
        LimitExceededError: more tokens or stop texts than allowed.
    """
    wanted = DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens
    if wanted < 1:
        raise InvalidRequestError(
            f"max_tokens is {wanted}; ask for at least one.", field="max_tokens"
        )
    if wanted > limit:
        raise LimitExceededError(
            f"max_tokens is {wanted:,}; the limit is {limit:,}. Ask for fewer.",
            field="max_tokens",
            limit=limit,
        )
    if len(stop) > _MAX_STOPS:
        raise LimitExceededError(
            f"{len(stop)} stop texts; the limit is {_MAX_STOPS}.", field="stop", limit=_MAX_STOPS
        )
    if any(not text for text in stop):
        raise InvalidRequestError("a stop text is empty; leave it out.", field="stop")
    return GenerationRequest(_tokenised(model, _text(prompt, "prompt")).ids, wanted, tuple(stop))


def scoring(model: CausalLM, prompt: str, continuation: str) -> ScoringRequest:
    """Tokenises a scoring request.

    Raises:
        InvalidRequestError: an unusable field.
    """
    row = _tokenised(model, _text(prompt, "prompt"), _text(continuation, "continuation"))
    return ScoringRequest(row.ids[: -row.num_target], row.ids[-row.num_target :])


def _tokenised(model: CausalLM, prompt: str, continuation: str = "") -> TokenRow:
    try:
        return tokenise(model, prompt, continuation)
    except InvalidEditError as error:
        raise InvalidRequestError(error.message, field="prompt", **error.metadata) from error


def _text(text: str, field: str) -> str:
    """NFC, as edits are stored: the same question must be the same tokens."""
    if not text.strip():
        raise InvalidRequestError(f"{field} is empty; fill it in.", field=field)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidRequestError(f"{field} has a lone surrogate; remove it.", field=field)
    return unicodedata.normalize("NFC", text)
