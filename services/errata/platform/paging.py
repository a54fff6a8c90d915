"""Page sizes and opaque page tokens of list calls."""

from __future__ import annotations

import base64

from errata.errors import InvalidRequestError

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000


def page_size(value: int) -> int:
    """The page size to use: 100 if zero, at most 1,000.

    Raises:
        InvalidRequestError: it is negative.
    """
    if value < 0:
        raise InvalidRequestError(f"page_size is {value}; give 0 or more.", field="page_size")
    return min(value or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def page_token(kind: str, value: str) -> str:
    """An opaque token that `read_page_token` accepts only for the same kind of list."""
    return base64.urlsafe_b64encode(f"{kind}:{value}".encode()).decode()


def read_page_token(kind: str, token: str) -> str:
    """The value inside a token.

    Raises:
        InvalidRequestError: the token is not from this list.
    """
    try:
        text = base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError as error:  # binascii.Error and UnicodeError are among them
        raise _bad_token() from error
    found, _, value = text.partition(":")
    if found != kind:
        raise _bad_token()
    return value


def number_of_token(kind: str, token: str) -> int:
    """The number inside a token, such as a position or an offset.

    Raises:
        InvalidRequestError: the token is not from this list.
    """
    value = read_page_token(kind, token)
    if not (value.isascii() and value.isdigit() and len(value) < 19):
        raise _bad_token()
    return int(value)


def _bad_token() -> InvalidRequestError:
    return InvalidRequestError(
        "page_token is not from a response of this method; leave it empty to start again.",
        field="page_token",
    )
