"""Errors of requests that the engine refuses or ends without an answer."""

from __future__ import annotations

from errata.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    QueueFullError,
    UnavailableError,
)


def shutting_down() -> UnavailableError:
    """The engine was closed."""
    return UnavailableError("this replica is shutting down; try again.")


def queue_full(limit: int, delay: int) -> QueueFullError:
    """`limit` requests are waiting already; one of them will be done in about `delay` seconds."""
    return QueueFullError(
        f"{limit:,} requests are already waiting; try again in {delay} s.",
        retry_after_seconds=delay,
    )


def too_late() -> DeadlineExceededError:
    """The deadline passed in the queue or in the batch."""
    return DeadlineExceededError(
        "the deadline passed before the answer was complete; allow more time."
    )


def outlived(seconds: float) -> UnavailableError:
    """A stream was still running `seconds` after its weights were replaced."""
    return UnavailableError(
        f"the stream was still running {seconds:g} s after its weights were replaced; send the "
        "request again to get an answer under the current weights."
    )


def too_long(num_tokens: int, limit: int) -> InvalidRequestError:
    """Prompt and continuation together exceed the longest sequence."""
    return InvalidRequestError(
        f"prompt and continuation can have up to {num_tokens:,} tokens; the limit is {limit:,}. "
        "Shorten the prompt or lower max_tokens.",
        field="prompt",
        num_tokens=num_tokens,
        limit=limit,
    )


def no_room(num_positions: int, needed: int, limit: int) -> InvalidRequestError:
    """The prefix of an edit makes the sequence too long."""
    return InvalidRequestError(
        f"an edit adds {num_positions} positions to the prompt, {needed:,} positions in total; "
        f"the limit is {limit:,}. Shorten the prompt or lower max_tokens.",
        field="prompt",
        num_tokens=needed,
        limit=limit,
    )
