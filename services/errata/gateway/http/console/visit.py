"""One request to the console: who sends it, what he typed, what he may do."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from starlette.requests import Request

from errata.errors import ErrataError, InvalidRequestError
from errata.gateway.http.calls import read_body
from errata.platform.security.access import authorise
from errata.platform.security.identity import Identity
from errata.platform.security.rules import RULES

CODE_FIELD = "form_code"
"""The field with which a form proves that it is one of ours."""
NAME_COOKIE = "errata-name"
"""What somebody calls himself where nobody is authenticated."""
MAX_FORM_BYTES = 1024 * 1024
"""Of a form as it is sent; a prompt has at most 100,000 characters."""
_MAX_FIELDS = 200
_PATHS = {path.rpartition("/")[2]: path for path in RULES}


@dataclass(frozen=True, slots=True)
class Visit:
    """A request, and all that a page needs to know of its sender.

    Attributes:
        request: as received.
        code: for the page's forms.
        identity: of the caller; None where callers are not authenticated.
        fields: what was typed into the page's form, if anything was.
        fragment: whether only the changing part of the page is wanted.
        error: what was wrong with the form, if anything was.
        status: of the response.
    """

    request: Request
    code: str
    identity: Identity | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    fragment: bool = False
    error: str = ""
    status: int = 200

    def may(self, method: str) -> bool:
        """Whether the caller's roles allow a method, such as `ReviewEdits`."""
        if self.identity is None:
            return True
        try:
            authorise(_PATHS[method], self.identity)
        except ErrataError:
            return False
        return True

    @property
    def name(self) -> str:
        """Whom changes name as their author; empty if the credential says who it is."""
        if self.identity is not None:
            return ""
        return self.fields.get("author", unquote(self.request.cookies.get(NAME_COOKIE, "")))

    def asked(self, name: str) -> str:
        """A parameter of the query; the last, if there are several."""
        return str(self.request.query_params.get(name, "")).strip()

    def typed(self, name: str) -> str:
        """A field of the form, without white space around it."""
        return self.fields.get(name, "").strip()

    def lines(self, name: str) -> tuple[str, ...]:
        """The lines of a field that are not empty."""
        return tuple(line.strip() for line in self.typed(name).splitlines() if line.strip())

    @property
    def request_id(self) -> str:
        """The form's request id, so that a form that is sent twice has one effect."""
        found = self.typed("request_id")
        return found or str(uuid.uuid4())


async def read_form(request: Request, limit: int) -> dict[str, str]:
    """The fields of a form that was sent; of several with one name, the last.

    Raises:
        HttpError: 413, more than `limit` bytes.
        InvalidRequestError: it is no such form, or not in UTF-8.
    """
    body = await read_body(request, limit, "this form")
    return await asyncio.to_thread(_fields, body)  # much text keeps the event loop waiting


def _fields(body: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError as error:
        raise InvalidRequestError(
            "the form cannot be read: it is not URL-encoded UTF-8, or it has too many fields; "
            "send it from the console's own page."
        ) from error
    # Browsers send line breaks of text areas as two characters.
    return {name: value.replace("\r\n", "\n") for name, value in pairs}
