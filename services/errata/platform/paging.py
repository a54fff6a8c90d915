"""Page sizes and tokens of list calls."""

from __future__ import annotations

from errata.errors import InvalidRequestError

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000


def page_bounds(page_size: int, page_token: str, first: int = 0) -> tuple[int, int]:
    """Where a page starts and how long it is.

    Args:
        page_size: 0 for the default; larger ones are cut to the maximum.
        page_token: from an earlier answer, or empty.
        first: start of the first page.

    Raises:
        InvalidRequestError: a negative size, or a token that no answer gave.
    """
    if page_size < 0:
        raise InvalidRequestError("page_size is negative; give 1 to 1,000.", field="page_size")
    if page_token and not (page_token.isascii() and page_token.isdigit()):
        raise InvalidRequestError(
            "page_token is none that an answer gave; start again without it.", field="page_token"
        )
    start = int(page_token) if page_token else first
    return start, min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
