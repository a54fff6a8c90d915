"""What is told to requests that the engine does not answer."""

from __future__ import annotations

from errata.errors import DeadlineExceededError, InvalidRequestError, UnavailableError


def too_late() -> DeadlineExceededError:
    """To those whose deadline passed."""
    return DeadlineExceededError("the deadline passed before the answer was done; allow more time.")


def outlived(seconds: float) -> UnavailableError:
    """To streams whose weights are gone after so many seconds."""
    return UnavailableError(
        f"the stream went on for more than {seconds:g} s after its weights were replaced; ask "
        "again to be answered by the present ones."
    )


def no_room(num_prefix: int, needed: int, limit: int) -> InvalidRequestError:
    """To requests that do not fit together with what an edit puts before them."""
    return InvalidRequestError(
        f"an edit puts {num_prefix} positions before the prompt, which makes {needed:,} in all; "
        f"the limit is {limit:,}. Shorten the prompt or lower max_tokens.",
        field="prompt",
        num_tokens=needed,
        limit=limit,
    )
